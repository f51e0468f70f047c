#include "base/checked.h"
#include "base/memory.h"
#include "calib/calib.h"
#include "calib/token_file.h"

enum { PIECE = 1 << 16, PIECE_BYTES = 1 << 24 }; /* tokens, or bytes of rows, at a time */

static mq_status check_tokens(const mq_token_file *f, int64_t vocab_size)
{
    int32_t *piece = NULL;
    mq_status status = mq_alloc(PIECE, sizeof *piece, "tokens", &piece);
    for (int64_t at = 0; at < f->n_tokens && status == MQ_OK; at += PIECE) {
        status = mq_token_file_read(f, at, mq_min_i64(PIECE, f->n_tokens - at), vocab_size, piece);
    }
    mq_free(&piece);
    return status;
}

/* All rows and positions, where there are any. */
static mq_status check_rest(const mq_token_file *f)
{
    int64_t bytes = 2 * f->hidden + (int64_t)sizeof(int32_t) * f->n_axes;
    char *piece = NULL;
    if (bytes == 0) return MQ_OK;
    int64_t n = mq_max_i64(1, PIECE_BYTES / bytes);
    mq_status status = mq_alloc(mq_min_i64(n, f->n_tokens), (size_t)bytes, "rows", &piece);
    for (int64_t at = 0; at < f->n_tokens && status == MQ_OK; at += n) {
        int64_t count = mq_min_i64(n, f->n_tokens - at);
        for (int l = MQ_ROWS_EMBEDDED; l < f->n_deep && f->hidden > 0 && status == MQ_OK; l++) {
            status = mq_token_file_rows(f, l, at, count, piece);
        }
        if (status == MQ_OK && f->n_axes > 0) {
            status = mq_token_file_positions(f, 0, at, count, piece);
        }
    }
    mq_free(&piece);
    return status;
}

/* Without a vocabulary any token that is not negative will do. */
static mq_status check_vocabulary(const mq_token_file *f, int64_t *vocab_size)
{
    if (!mq_h5_has_attribute(f->h5, "vocab_size")) return check_tokens(f, (int64_t)INT32_MAX + 1);
    MQ_TRY(mq_h5_attribute_int(f->h5, "vocab_size", vocab_size));
    return check_tokens(f, *vocab_size);
}

mq_status mq_calib_summarise(const char *path, mq_calib_summary *out)
{
    mq_token_file f;
    *out = (mq_calib_summary){.source = NULL};
    mq_status status = mq_token_file_open(path, &f);
    if (status == MQ_OK) status = check_vocabulary(&f, &out->vocab_size);
    if (status == MQ_OK) status = check_rest(&f);
    if (status == MQ_OK) status = mq_token_file_source(&f, &out->source);
    if (status == MQ_OK) {
        out->n_samples = f.n_samples;
        out->n_tokens = f.n_tokens;
        out->has_tokens = f.has_tokens;
        out->hidden = f.hidden;
        out->n_axes = f.n_axes;
        out->n_deep = f.n_deep;
        mq_token_file_lengths(&f, f.n_samples, &out->shortest, &out->longest);
    }
    mq_token_file_close(&f);
    return status;
}
