#include "calib/shares.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/h5.h"

#include <inttypes.h>
#include <string.h>
#include <strings.h>

/* A token file while it is read. */
typedef struct reading {
    const char *path;
    const mq_calib_options *options;
    mq_h5 *file;
    int64_t *offsets; /* (n_samples + 1) of the samples that are used */
    int64_t n_samples;
    int64_t *first, n_units; /* (n_units + 1) first sample of each unit */
    int *owner;              /* (n_units) */
} reading;

/* ---- attributes ----------------------------------------------------------------------------- */

static mq_status check_format(const reading *r)
{
    char *format = NULL;
    int64_t version = 0;
    MQ_TRY(mq_h5_attribute_text(r->file, "format", &format));
    bool ours = strcmp(format, "mpiquant-calib") == 0;
    mq_status status = MQ_OK;
    if (!ours) {
        status = mq_fail(MQ_E_INPUT,
                         "%s: its format is \"%s\", expected \"mpiquant-calib\"; make token files "
                         "with mpiquant-calib",
                         r->path, format);
    }
    mq_free(&format);
    MQ_TRY(status);
    MQ_TRY(mq_h5_attribute_int(r->file, "version", &version));
    if (version == 1) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: version %" PRId64 " of the format, this program reads 1",
                   r->path, version);
}

static mq_status check_tokenizer(const reading *r)
{
    char *sha = NULL;
    const char *wanted = r->options->tokenizer_sha256;
    mq_status status = MQ_OK;
    if (mq_h5_has_attribute(r->file, "tokenizer_sha256")) {
        MQ_TRY(mq_h5_attribute_text(r->file, "tokenizer_sha256", &sha));
    }
    if (!sha || !sha[0]) {
        mq_warn("%s does not say which tokenizer made it: make sure it is the model's", r->path);
    } else if (!wanted || !wanted[0]) {
        mq_warn("the model has no tokenizer.json to compare with the one that made %s", r->path);
    } else if (strcasecmp(sha, wanted) != 0) {
        status = mq_fail(MQ_E_INPUT,
                         "%s was made with another tokenizer (SHA-256 %.16s..., the model's "
                         "tokenizer.json has %.16s...); make it again with --tokenizer MODEL",
                         r->path, sha, wanted);
    }
    mq_free(&sha);
    return status;
}

static mq_status read_source(const reading *r, char **source)
{
    if (!mq_h5_has_attribute(r->file, "source")) {
        return mq_alloc(1, 1, "source of a token file", source); /* "" */
    }
    return mq_h5_attribute_text(r->file, "source", source);
}

/* ---- samples -------------------------------------------------------------------------------- */

static mq_status check_offsets(const reading *r, int64_t n_samples, int64_t n_tokens)
{
    const int64_t *at = r->offsets;
    if (at[0] != 0 || at[n_samples] != n_tokens) {
        return mq_fail(MQ_E_INPUT,
                       "%s: offsets run from %" PRId64 " to %" PRId64 ", but there are %" PRId64
                       " tokens: expected 0 to that number",
                       r->path, at[0], at[n_samples], n_tokens);
    }
    for (int64_t s = 0; s < n_samples; s++) {
        if (at[s + 1] == at[s]) {
            return mq_fail(MQ_E_INPUT, "%s: sample %" PRId64 " is empty", r->path, s);
        }
        if (at[s + 1] < at[s] || at[s + 1] > n_tokens) {
            return mq_fail(MQ_E_INPUT,
                           "%s: sample %" PRId64 " runs from token %" PRId64 " to %" PRId64
                           ": offsets must ascend to %" PRId64,
                           r->path, s, at[s], at[s + 1], n_tokens);
        }
        if (at[s + 1] - at[s] > INT32_MAX) {
            return mq_fail(MQ_E_INPUT, "%s: sample %" PRId64 " has %" PRId64 " tokens, at most %d",
                           r->path, s, at[s + 1] - at[s], INT32_MAX);
        }
    }
    return MQ_OK;
}

static mq_status read_offsets(reading *r)
{
    int64_t n_offsets = 0, n_tokens = 0, limit = r->options->max_samples;
    MQ_TRY(mq_h5_length(r->file, "offsets", &n_offsets));
    MQ_TRY(mq_h5_length(r->file, "tokens", &n_tokens));
    if (n_offsets < 2 || n_tokens < 1) {
        return mq_fail(MQ_E_INPUT, "%s: holds no sample (%" PRId64 " offsets, %" PRId64 " tokens)",
                       r->path, n_offsets, n_tokens);
    }
    MQ_TRY(mq_alloc(n_offsets, sizeof *r->offsets, "sample offsets", &r->offsets));
    MQ_TRY(mq_h5_read_i64(r->file, "offsets", 0, n_offsets, r->offsets));
    MQ_TRY(check_offsets(r, n_offsets - 1, n_tokens));
    r->n_samples = limit > 0 ? mq_min_i64(limit, n_offsets - 1) : n_offsets - 1;
    return MQ_OK;
}

/* ---- units ---------------------------------------------------------------------------------- */

static int64_t tokens_of(const reading *r, int64_t unit)
{
    return r->offsets[r->first[unit + 1]] - r->offsets[r->first[unit]];
}

static mq_status deal(reading *r, int size)
{
    int64_t *tokens = NULL;
    MQ_TRY(
        mq_units_form(r->offsets, r->n_samples, r->options->unit_tokens, &r->first, &r->n_units));
    MQ_TRY(mq_alloc(r->n_units, sizeof *r->owner, "owners of units", &r->owner));
    MQ_TRY(mq_alloc(r->n_units, sizeof *tokens, "sizes of units", &tokens));
    for (int64_t u = 0; u < r->n_units; u++) tokens[u] = tokens_of(r, u);
    mq_status status = mq_units_deal(tokens, r->n_units, size, r->owner);
    mq_free(&tokens);
    return status;
}

static void add_up(const reading *r, mq_calib_shares *shares)
{
    mq_calib_totals *t = &shares->totals;
    *t = (mq_calib_totals){.n_samples = r->n_samples,
                           .n_tokens = r->offsets[r->n_samples],
                           .n_units = r->n_units,
                           .shortest = INT64_MAX};
    for (int64_t s = 0; s < r->n_samples; s++) {
        int64_t length = r->offsets[s + 1] - r->offsets[s];
        t->longest = mq_max_i64(t->longest, length);
        t->shortest = mq_min_i64(t->shortest, length);
    }
    for (int64_t u = 0; u < r->n_units; u++) {
        mq_share_counts *c = &shares->counts[r->owner[u]];
        c->n_units++;
        c->n_offsets += r->first[u + 1] - r->first[u] + 1;
        c->n_tokens += tokens_of(r, u);
        t->max_unit_tokens = mq_max_i64(t->max_unit_tokens, tokens_of(r, u));
    }
}

static mq_status check_tokens(const reading *r, int64_t unit, const int32_t *token)
{
    int64_t begin = r->offsets[r->first[unit]];
    for (int64_t i = 0; i < tokens_of(r, unit); i++) {
        if (token[i] >= 0 && token[i] < r->options->vocab_size) continue;
        int64_t sample = r->first[unit];
        while (r->offsets[sample + 1] <= begin + i) sample++;
        return mq_fail(MQ_E_INPUT,
                       "%s: sample %" PRId64 ", position %" PRId64 ": token %" PRId32
                       " is outside the model's vocabulary of %" PRId64
                       "; make the file with the model's own tokenizer",
                       r->path, sample, begin + i - r->offsets[sample], token[i],
                       r->options->vocab_size);
    }
    return MQ_OK;
}

/* Reads unit after unit in file order, each straight to its place among its owner's: `next` says
 * where the owner's next unit goes. */
static mq_status fill(const reading *r, mq_share_counts *next, mq_calib_shares *shares)
{
    for (int64_t u = 0; u < r->n_units; u++) {
        mq_share_counts *at = &next[r->owner[u]];
        int64_t n_samples = r->first[u + 1] - r->first[u], begin = r->offsets[r->first[u]];
        int32_t *tokens = shares->tokens + at->n_tokens;
        shares->records[at->n_units] = (mq_unit_record){u, tokens_of(r, u), n_samples, r->first[u]};
        for (int64_t s = 0; s <= n_samples; s++) {
            shares->offsets[at->n_offsets + s] = r->offsets[r->first[u] + s] - begin;
        }
        MQ_TRY(mq_h5_read_i32(r->file, "tokens", begin, tokens_of(r, u), tokens));
        MQ_TRY(check_tokens(r, u, tokens));
        at->n_units++;
        at->n_offsets += n_samples + 1;
        at->n_tokens += tokens_of(r, u);
    }
    return MQ_OK;
}

static mq_status make_shares(reading *r, int size, mq_calib_shares *shares)
{
    mq_share_counts *next = NULL;
    MQ_TRY(mq_alloc(size, sizeof *shares->counts, "shares of units", &shares->counts));
    add_up(r, shares);
    MQ_TRY(mq_alloc(r->n_units, sizeof *shares->records, "units", &shares->records));
    MQ_TRY(mq_alloc(r->n_samples + r->n_units, sizeof *shares->offsets, "offsets of units",
                    &shares->offsets));
    MQ_TRY(mq_alloc(shares->totals.n_tokens, sizeof *shares->tokens, "tokens of all ranks",
                    &shares->tokens));
    MQ_TRY(mq_alloc(size, sizeof *next, "shares of units", &next));
    for (int i = 1; i < size; i++) {
        next[i] = next[i - 1];
        next[i].n_units += shares->counts[i - 1].n_units;
        next[i].n_offsets += shares->counts[i - 1].n_offsets;
        next[i].n_tokens += shares->counts[i - 1].n_tokens;
    }
    mq_status status = fill(r, next, shares);
    mq_free(&next);
    return status;
}

static mq_status read_all(reading *r, int size, mq_calib_shares *shares)
{
    MQ_TRY(mq_h5_open(r->path, &r->file));
    MQ_TRY(check_format(r));
    MQ_TRY(check_tokenizer(r));
    MQ_TRY(read_source(r, &shares->source));
    MQ_TRY(read_offsets(r));
    MQ_TRY(deal(r, size));
    return make_shares(r, size, shares);
}

mq_status mq_calib_shares_read(const char *path, const mq_calib_options *options, int size,
                               mq_calib_shares *shares)
{
    reading r = {.path = path, .options = options};
    mq_status status = read_all(&r, size, shares);
    mq_h5_close(&r.file);
    mq_free(&r.owner);
    mq_free(&r.first);
    mq_free(&r.offsets);
    return status;
}

void mq_calib_shares_clear(mq_calib_shares *shares)
{
    mq_free(&shares->tokens);
    mq_free(&shares->offsets);
    mq_free(&shares->records);
    mq_free(&shares->counts);
    mq_free(&shares->source);
}
