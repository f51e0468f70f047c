/* Perplexity, KL and top-1 agreement over a token file. */
#include "mpiquant/mpiquant.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "ops/kernels.h"
#include "par/collectives.h"
#include "pipeline/figures.h"
#include "pipeline/forward.h"
#include "pipeline/startup.h"
#include "pipeline/tokens.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { LOGIT_ROWS = 128, MAX_BINS = 10000 };

void mq_evaluate_defaults(mq_evaluate_options *options)
{
    *options = (mq_evaluate_options){.unit_tokens = 8192, .threads = 1};
}

/* What one token adds to the sums. */
typedef struct token_score {
    double nll, reference_nll, kl;
    bool agree;
} token_score;

/* The sums of every document, whole and by position: (samples, 1 + n_bins, MQ_N_SUMS). Each has one
 * contributor among the ranks, so their sum over ranks is exact. The whole has a place of its own,
 * so that asking for positions changes no bit of it. */
typedef struct document_sums {
    double *sum;
    int64_t n, n_bins, stride; /* stride: doubles of one document */
} document_sums;

typedef struct scorer {
    const mq_calib *tokens;
    mq_forward *model, *reference;    /* reference may be NULL */
    float *logits, *reference_logits; /* (LOGIT_ROWS, vocab) */
    char *hidden;                     /* (LOGIT_ROWS, hidden) of the wider model */
    token_score score[LOGIT_ROWS];
    const int32_t *next; /* (LOGIT_ROWS) the token to predict, -1 after the last of a sample */
    int64_t vocab;
} scorer;

static void scorer_free(scorer *s)
{
    mq_free(&s->logits);
    mq_free(&s->reference_logits);
    mq_free(&s->hidden);
}

/* KL(reference || model) = sum p_ref (log p_ref - log p). */
static double divergence(const float *reference, double reference_lse, const float *model,
                         double model_lse, int64_t n)
{
    double kl = 0;
    for (int64_t i = 0; i < n; i++) {
        double log_p = (double)reference[i] - reference_lse;
        kl += exp(log_p) * (log_p - ((double)model[i] - model_lse));
    }
    return kl;
}

static mq_status score_row(void *context, int64_t r)
{
    scorer *s = context;
    int32_t next = s->next[r];
    token_score *out = &s->score[r];
    *out = (token_score){0};
    if (next < 0) return MQ_OK;
    const float *a = s->logits + r * s->vocab;
    int64_t best = 0, reference_best = 0;
    double lse = mq_logsumexp(a, s->vocab, &best);
    out->nll = lse - (double)a[next];
    if (!s->reference) return MQ_OK;
    const float *b = s->reference_logits + r * s->vocab;
    double reference_lse = mq_logsumexp(b, s->vocab, &reference_best);
    out->reference_nll = reference_lse - (double)b[next];
    out->kl = divergence(b, reference_lse, a, lse, s->vocab);
    out->agree = best == reference_best;
    return MQ_OK;
}

static void add_score(const token_score *score, double *sums)
{
    sums[MQ_SUM_TOKENS] += 1;
    sums[MQ_SUM_NLL] += score->nll;
    sums[MQ_SUM_REFERENCE_NLL] += score->reference_nll;
    sums[MQ_SUM_DIFFERENCE] += score->nll - score->reference_nll;
    sums[MQ_SUM_KL] += score->kl;
    sums[MQ_SUM_AGREE] += score->agree;
}

static void add_scores(const scorer *s, const mq_unit *unit, int64_t t0, int64_t t1,
                       document_sums *to)
{
    int64_t in_unit = 0;
    for (int64_t t = t0; t < t1; t++) {
        if (s->next[t - t0] < 0) continue;
        while (t >= unit->offset[in_unit + 1]) in_unit++;
        double *sums = to->sum + (unit->first_sample + in_unit) * to->stride;
        add_score(&s->score[t - t0], sums);
        if (to->n_bins == 0) continue;
        int64_t bin = mq_position_bin(unit->position[t], to->n_bins, s->tokens->longest);
        add_score(&s->score[t - t0], sums + (1 + bin) * MQ_N_SUMS);
    }
}

static mq_status score_rows(scorer *s, int64_t u, int64_t t0, int64_t t1, const int32_t *next)
{
    MQ_TRY(mq_block_logits(s->model->outer, s->model->arch,
                           mq_activations_unit(&s->model->x, s->tokens, u), t0, t1, s->hidden,
                           s->logits));
    if (s->reference) {
        MQ_TRY(mq_block_logits(s->reference->outer, s->reference->arch,
                               mq_activations_unit(&s->reference->x, s->tokens, u), t0, t1,
                               s->hidden, s->reference_logits));
    }
    s->next = next + t0;
    return mq_parallel_for(t1 - t0, score_row, s);
}

static void successors(const mq_calib *tokens, const mq_unit *unit, int32_t *next)
{
    for (int64_t s = 0; s < unit->n_samples; s++) {
        int64_t end = unit->offset[s + 1];
        for (int64_t t = unit->offset[s]; t < end; t++) {
            next[t] = t + 1 < end ? tokens->token[unit->token_begin + t + 1] : -1;
        }
    }
}

static mq_status score_unit(scorer *s, int64_t u, int32_t *next, document_sums *to)
{
    const mq_unit *unit = &s->tokens->unit[u];
    successors(s->tokens, unit, next);
    for (int64_t t = 0; t < unit->n_tokens; t += LOGIT_ROWS) {
        int64_t end = mq_min_i64(t + LOGIT_ROWS, unit->n_tokens);
        MQ_TRY(score_rows(s, u, t, end, next));
        add_scores(s, unit, t, end, to);
    }
    return MQ_OK;
}

static mq_status score_units(scorer *s, document_sums *to)
{
    int32_t *next = NULL;
    MQ_TRY(mq_alloc(s->tokens->max_unit_tokens, sizeof *next, "successors", &next));
    mq_status status = MQ_OK;
    for (int64_t u = 0; u < s->tokens->n_local_units && status == MQ_OK; u++) {
        status = score_unit(s, u, next, to);
    }
    mq_free(&next);
    return status;
}

static mq_status scorer_create(const mq_calib *tokens, mq_forward *model, mq_forward *reference,
                               scorer *s)
{
    int64_t logits = 0, hidden = model->arch->hidden;
    *s = (scorer){
        .tokens = tokens, .model = model, .reference = reference, .vocab = model->arch->vocab};
    if (reference) hidden = mq_max_i64(hidden, reference->arch->hidden);
    MQ_TRY(mq_mul_i64(LOGIT_ROWS, s->vocab, &logits));
    MQ_TRY(mq_alloc(logits, sizeof(float), "logits", &s->logits));
    MQ_TRY(mq_alloc(LOGIT_ROWS * hidden, sizeof(float), "hidden rows", &s->hidden));
    if (!reference) return MQ_OK;
    return mq_alloc(logits, sizeof(float), "logits", &s->reference_logits);
}

static mq_status sums_create(const mq_calib *tokens, int64_t n_bins, document_sums *out)
{
    int64_t count = 0;
    *out = (document_sums){
        .n = tokens->n_samples, .n_bins = n_bins, .stride = (1 + n_bins) * MQ_N_SUMS};
    MQ_TRY(mq_mul_i64(out->n, out->stride, &count));
    return mq_alloc(count, sizeof *out->sum, "sums of documents", &out->sum);
}

static mq_status result_create(const document_sums *sums, mq_evaluation *result)
{
    result->samples = sums->n;
    result->n_bins = sums->n_bins;
    MQ_TRY(mq_alloc(sums->n, sizeof *result->document, "figures of documents", &result->document));
    return mq_alloc(sums->n_bins, sizeof *result->by_position, "figures by position",
                    &result->by_position);
}

static void conclude(const document_sums *s, int64_t longest, bool has_reference,
                     mq_evaluation *result)
{
    result->figures = mq_figures_of(s->sum, s->n, s->stride, has_reference);
    for (int64_t b = 0; b < s->n_bins; b++) {
        mq_position_figures *p = &result->by_position[b];
        mq_position_range(b, s->n_bins, longest, &p->begin, &p->end);
        p->figures = mq_figures_of(s->sum + (1 + b) * MQ_N_SUMS, s->n, s->stride, has_reference);
    }
    for (int64_t i = 0; i < s->n; i++) {
        const double *sum = s->sum + i * s->stride;
        result->document[i] = (mq_document){.tokens = (int64_t)sum[MQ_SUM_TOKENS],
                                            .top1 = (int64_t)sum[MQ_SUM_AGREE],
                                            .nll = sum[MQ_SUM_NLL],
                                            .reference_nll = sum[MQ_SUM_REFERENCE_NLL],
                                            .kl = sum[MQ_SUM_KL]};
    }
}

static mq_status score_all(const mq_comm *comm, const mq_calib *tokens, int64_t n_bins,
                           mq_forward *model, mq_forward *reference, mq_evaluation *result)
{
    scorer s = {0};
    document_sums sums = {0};
    mq_status status = sums_create(tokens, n_bins, &sums);
    if (status == MQ_OK) status = result_create(&sums, result);
    if (status == MQ_OK) status = scorer_create(tokens, model, reference, &s);
    if (status == MQ_OK) status = score_units(&s, &sums);
    status = mq_agree(comm, status);
    if (status == MQ_OK) status = mq_sum_f64(comm, sums.sum, sums.n * sums.stride);
    if (status == MQ_OK) conclude(&sums, tokens->longest, reference != NULL, result);
    scorer_free(&s);
    mq_free(&sums.sum);
    return status;
}

static mq_status check_pair(const mq_forward *model, const mq_forward *reference)
{
    if (model->arch->vocab == reference->arch->vocab) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s has a vocabulary of %" PRId64 ", the reference %s of %" PRId64
                   ": they cannot be compared",
                   model->folder->path, model->arch->vocab, reference->folder->path,
                   reference->arch->vocab);
}

static mq_status check_tokens(const mq_evaluate_options *options, const mq_calib *tokens)
{
    if (!tokens->has_tokens) {
        return mq_fail(MQ_E_INPUT,
                       "%s: holds rows in the place of embeddings and no tokens: there is nothing "
                       "to predict",
                       options->tokens);
    }
    if (tokens->longest >= 2) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: no sample has two tokens: there is nothing to predict",
                   options->tokens);
}

static mq_status evaluate(const mq_comm *comm, const mq_evaluate_options *options,
                          mq_forward *model, mq_forward *reference, mq_evaluation *result)
{
    mq_calib *tokens = NULL;
    mq_dtype dtype = options->f32 ? MQ_F32 : MQ_BF16;
    mq_status status = mq_forward_open(comm, options->model, model);
    if (status == MQ_OK && reference) {
        status = mq_forward_open(comm, options->reference, reference);
        if (status == MQ_OK) status = mq_agree(comm, check_pair(model, reference));
    }
    if (status == MQ_OK) {
        status = mq_tokens_load(comm, options->tokens, options->model, model->arch,
                                options->unit_tokens, options->samples, &tokens);
    }
    if (status == MQ_OK) status = mq_agree(comm, check_tokens(options, tokens));
    if (status == MQ_OK) {
        mq_log("%" PRId64 " samples, %" PRId64 " tokens", tokens->n_samples, tokens->n_tokens);
        status = mq_forward_run(comm, tokens, dtype, model);
    }
    if (status == MQ_OK && reference) status = mq_forward_run(comm, tokens, dtype, reference);
    if (status == MQ_OK) {
        status = score_all(comm, tokens, options->position_bins, model, reference, result);
    }
    mq_calib_destroy(&tokens);
    return status;
}

static mq_status check_options(const mq_evaluate_options *o)
{
    if (!o->model) return mq_fail(MQ_E_USAGE, "no model folder given");
    if (!o->tokens)
        return mq_fail(MQ_E_USAGE, "--tokens is missing: a file made by mpiquant-calib");
    if (o->samples < 0) return mq_fail(MQ_E_USAGE, "--samples %" PRId64 ": 0 or more", o->samples);
    if (o->unit_tokens < 1) {
        return mq_fail(MQ_E_USAGE, "--unit-tokens %" PRId64 ": at least 1", o->unit_tokens);
    }
    if (o->position_bins < 0 || o->position_bins > MAX_BINS) {
        return mq_fail(MQ_E_USAGE, "--by-position %" PRId64 ": 0 to %d", o->position_bins,
                       MAX_BINS);
    }
    return MQ_OK;
}

void mq_evaluation_free(mq_evaluation *result)
{
    mq_free(&result->document);
    mq_free(&result->by_position);
    *result = (mq_evaluation){0};
}

mq_status mq_evaluate(MPI_Comm parent, const mq_evaluate_options *options, mq_evaluation *result)
{
    mq_comm *comm = NULL;
    mq_forward model = {0}, reference = {0};
    double started = mq_seconds();
    *result = (mq_evaluation){0};
    MQ_TRY(mq_comm_create(parent, &comm));
    mq_log_enable(comm->rank == 0);
    mq_status status = mq_agree(comm, check_options(options));
    if (status == MQ_OK) status = mq_start_kernels(comm, options->threads);
    if (status == MQ_OK) {
        status = evaluate(comm, options, &model, options->reference ? &reference : NULL, result);
    }
    if (status == MQ_E_INTERNAL) return status; /* freeing is collective: see mpiquant.h */
    mq_forward_close(&reference);
    mq_forward_close(&model);
    mq_stop_kernels();
    mq_comm_destroy(&comm);
    if (status != MQ_OK) mq_evaluation_free(result);
    result->seconds = mq_seconds() - started;
    return status;
}
