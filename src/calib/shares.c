#include "calib/shares.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"
#include "calib/token_file.h"

#include <inttypes.h>
#include <strings.h>

/* A token file while it is read. */
typedef struct reading {
    const mq_calib_options *options;
    mq_token_file file;
    const int64_t *offsets;  /* the file's */
    int64_t n_samples;       /* that are used */
    int64_t *first, n_units; /* (n_units + 1) first sample of each unit */
    int *owner;              /* (n_units) */
} reading;

static mq_status check_tokenizer(const reading *r)
{
    char *sha = NULL;
    const char *wanted = r->options->tokenizer_sha256;
    mq_status status = MQ_OK;
    if (mq_h5_has_attribute(r->file.h5, "tokenizer_sha256")) {
        MQ_TRY(mq_h5_attribute_text(r->file.h5, "tokenizer_sha256", &sha));
    }
    if (!sha || !sha[0]) {
        mq_warn("%s does not say which tokenizer made it: make sure it is the model's",
                r->file.path);
    } else if (!wanted || !wanted[0]) {
        mq_warn("the model has no tokenizer.json to compare with the one that made %s",
                r->file.path);
    } else if (strcasecmp(sha, wanted) != 0) {
        status = mq_fail(MQ_E_INPUT,
                         "%s was made with another tokenizer (SHA-256 %.16s..., the model's "
                         "tokenizer.json has %.16s...); make it again with --tokenizer MODEL",
                         r->file.path, sha, wanted);
    }
    mq_free(&sha);
    return status;
}

static mq_status check_width(const reading *r)
{
    int64_t hidden = r->options->hidden;
    if (r->file.hidden == 0 || hidden == 0 || r->file.hidden == hidden) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: \"inputs_embeds\" has rows of %" PRId64 " numbers, the model's hidden size "
                   "is %" PRId64 ": make the file with the model itself",
                   r->file.path, r->file.hidden, hidden);
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
                           .has_tokens = r->file.has_tokens,
                           .hidden = r->file.hidden,
                           .n_axes = r->file.n_axes,
                           .n_deep = r->file.n_deep};
    mq_token_file_lengths(&r->file, r->n_samples, &t->shortest, &t->longest);
    for (int64_t u = 0; u < r->n_units; u++) {
        mq_share_counts *c = &shares->counts[r->owner[u]];
        c->n_units++;
        c->n_offsets += r->first[u + 1] - r->first[u] + 1;
        c->n_tokens += tokens_of(r, u);
        t->max_unit_tokens = mq_max_i64(t->max_unit_tokens, tokens_of(r, u));
    }
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
        MQ_TRY(
            mq_token_file_read(&r->file, begin, tokens_of(r, u), r->options->vocab_size, tokens));
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

static mq_status read_all(reading *r, const char *path, int size, mq_calib_shares *shares)
{
    int64_t limit = r->options->max_samples;
    MQ_TRY(mq_token_file_open(path, &r->file));
    MQ_TRY(check_width(r));
    MQ_TRY(check_tokenizer(r));
    MQ_TRY(mq_token_file_source(&r->file, &shares->source));
    r->offsets = r->file.offsets;
    r->n_samples = limit > 0 ? mq_min_i64(limit, r->file.n_samples) : r->file.n_samples;
    MQ_TRY(deal(r, size));
    return make_shares(r, size, shares);
}

mq_status mq_calib_shares_read(const char *path, const mq_calib_options *options, int size,
                               mq_calib_shares *shares)
{
    reading r = {.options = options};
    mq_status status = read_all(&r, path, size, shares);
    mq_token_file_close(&r.file);
    mq_free(&r.owner);
    mq_free(&r.first);
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
