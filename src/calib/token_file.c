#include "calib/token_file.h"

#include "base/checked.h"
#include "base/memory.h"
#include "calib/calib.h"

#include <inttypes.h>
#include <string.h>

static mq_status check_format(const mq_token_file *f)
{
    char *format = NULL;
    int64_t version = 0;
    MQ_TRY(mq_h5_attribute_text(f->h5, "format", &format));
    bool ours = strcmp(format, MQ_CALIB_FORMAT) == 0;
    mq_status status = MQ_OK;
    if (!ours) {
        status = mq_fail(MQ_E_INPUT,
                         "%s: its format is \"%s\", expected \"%s\"; make token files with "
                         "mpiquant-calib",
                         f->path, format, MQ_CALIB_FORMAT);
    }
    mq_free(&format);
    MQ_TRY(status);
    MQ_TRY(mq_h5_attribute_int(f->h5, "version", &version));
    if (version == MQ_CALIB_VERSION) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: version %" PRId64 " of the format, this program reads %d",
                   f->path, version, MQ_CALIB_VERSION);
}

static mq_status check_offsets(const mq_token_file *f)
{
    const int64_t *at = f->offsets;
    if (at[0] != 0 || at[f->n_samples] != f->n_tokens) {
        return mq_fail(MQ_E_INPUT,
                       "%s: offsets run from %" PRId64 " to %" PRId64 ", but there are %" PRId64
                       " tokens: expected 0 to that number",
                       f->path, at[0], at[f->n_samples], f->n_tokens);
    }
    for (int64_t s = 0; s < f->n_samples; s++) {
        if (at[s + 1] == at[s]) {
            return mq_fail(MQ_E_INPUT, "%s: sample %" PRId64 " is empty", f->path, s);
        }
        if (at[s + 1] < at[s] || at[s + 1] > f->n_tokens) {
            return mq_fail(MQ_E_INPUT,
                           "%s: sample %" PRId64 " runs from token %" PRId64 " to %" PRId64
                           ": offsets must ascend to %" PRId64,
                           f->path, s, at[s], at[s + 1], f->n_tokens);
        }
        if (at[s + 1] - at[s] > INT32_MAX) {
            return mq_fail(MQ_E_INPUT, "%s: sample %" PRId64 " has %" PRId64 " tokens, at most %d",
                           f->path, s, at[s + 1] - at[s], INT32_MAX);
        }
    }
    return MQ_OK;
}

static mq_status read_offsets(mq_token_file *f)
{
    int64_t n_offsets = 0;
    MQ_TRY(mq_h5_length(f->h5, "offsets", &n_offsets));
    MQ_TRY(mq_token_file_count(f));
    if (n_offsets < 2 || f->n_tokens < 1) {
        return mq_fail(MQ_E_INPUT, "%s: holds no sample (%" PRId64 " offsets, %" PRId64 " tokens)",
                       f->path, n_offsets, f->n_tokens);
    }
    MQ_TRY(mq_alloc(n_offsets, sizeof *f->offsets, "sample offsets", &f->offsets));
    MQ_TRY(mq_h5_read_i64(f->h5, "offsets", 0, n_offsets, f->offsets));
    f->n_samples = n_offsets - 1;
    return check_offsets(f);
}

mq_status mq_token_file_open(const char *path, mq_token_file *out)
{
    *out = (mq_token_file){.path = path};
    MQ_TRY(mq_h5_open(path, &out->h5));
    MQ_TRY(check_format(out));
    return read_offsets(out);
}

void mq_token_file_close(mq_token_file *file)
{
    mq_h5_close(&file->h5);
    mq_free(&file->offsets);
}

mq_status mq_token_file_source(const mq_token_file *file, char **source)
{
    if (!mq_h5_has_attribute(file->h5, "source")) {
        return mq_alloc(1, 1, "source of a token file", source); /* "" */
    }
    return mq_h5_attribute_text(file->h5, "source", source);
}

void mq_token_file_lengths(const mq_token_file *file, int64_t n_samples, int64_t *shortest,
                           int64_t *longest)
{
    *shortest = INT64_MAX;
    *longest = 0;
    for (int64_t s = 0; s < n_samples; s++) {
        int64_t length = file->offsets[s + 1] - file->offsets[s];
        *longest = mq_max_i64(*longest, length);
        *shortest = mq_min_i64(*shortest, length);
    }
}

mq_status mq_token_file_read(const mq_token_file *file, int64_t begin, int64_t n,
                             int64_t vocab_size, int32_t *out)
{
    int32_t lowest = file->hidden > 0 ? -1 : 0;
    for (int64_t i = 0; i < n && !file->has_tokens; i++) out[i] = -1;
    if (!file->has_tokens) return MQ_OK;
    MQ_TRY(mq_h5_read_i32(file->h5, "tokens", begin, n, out));
    for (int64_t i = 0; i < n; i++) {
        if (out[i] >= lowest && out[i] < vocab_size) continue;
        int64_t sample = 0;
        while (file->offsets[sample + 1] <= begin + i) sample++;
        return mq_fail(MQ_E_INPUT,
                       "%s: sample %" PRId64 ", position %" PRId64 ": token %" PRId32
                       " is outside the vocabulary of %" PRId64
                       "; make the file with the model's own tokenizer",
                       file->path, sample, begin + i - file->offsets[sample], out[i], vocab_size);
    }
    return MQ_OK;
}
