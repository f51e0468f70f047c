#include "ops/route.h"

#include "base/parallel.h"
#include "ops/gemm.h"
#include "ops/ops.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { TOKENS = 64, SLOT = MQ_OPS_FIRST_SCRATCH - 1 };

static int64_t tiles(int64_t n)
{
    return (n + TOKENS - 1) / TOKENS;
}

static int64_t tile_end(int64_t i, int64_t n)
{
    return (i + 1) * TOKENS < n ? (i + 1) * TOKENS : n;
}

/* ---- scores --------------------------------------------------------------------------------- */

static void softmax(const float *x, int64_t n, double *out)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t e = 0; e < n; e++) largest = fmax(largest, (double)x[e]);
    for (int64_t e = 0; e < n; e++) sum += out[e] = exp((double)x[e] - largest);
    for (int64_t e = 0; e < n; e++) out[e] /= sum;
}

static void scores_of(const mq_routing_kind *kind, const float *logits, double *out)
{
    if (kind->score == MQ_SCORE_SOFTMAX) {
        softmax(logits, kind->n_experts, out);
        return;
    }
    for (int64_t e = 0; e < kind->n_experts; e++) out[e] = 1 / (1 + exp(-(double)logits[e]));
}

/* ---- the choice ----------------------------------------------------------------------------- */

/* The first of the largest of x (n) that are left; NaN marks those that are not, and this one
 * after that. */
static int64_t take_best(double *x, int64_t n)
{
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++) {
        if (!isnan(x[i]) && (best < 0 || x[i] > x[best])) best = i;
    }
    x[best] = NAN;
    return best;
}

static double group_worth(const mq_routing_kind *kind, const double *x, int64_t n)
{
    double first = -DBL_MAX, second = -DBL_MAX;
    for (int64_t i = 0; i < n; i++) {
        if (x[i] > first) {
            second = first;
            first = x[i];
        } else if (x[i] > second) {
            second = x[i];
        }
    }
    return kind->group_score == MQ_GROUP_BEST || n < 2 ? first : first + second;
}

/* Experts of groups that are not among the best can no longer be chosen. worth (n_groups) is
 * scratch. */
static void close_groups(const mq_routing_kind *kind, double *x, double *worth)
{
    int64_t each = kind->n_experts / kind->n_groups;
    for (int64_t g = 0; g < kind->n_groups; g++) {
        worth[g] = group_worth(kind, x + g * each, each);
    }
    for (int64_t i = 0; i < kind->top_groups; i++) take_best(worth, kind->n_groups);
    for (int64_t g = 0; g < kind->n_groups; g++) {
        for (int64_t e = g * each; e < (g + 1) * each && !isnan(worth[g]); e++) x[e] = NAN;
    }
}

typedef struct route_job {
    const mq_routing_kind *kind;
    const float *logits, *correction;
    int64_t n_tok;
    int32_t *expert;
    float *weight;
} route_job;

/* scratch: scores and what the choice is made by, n_experts each, and n_groups. */
static void route_token(const route_job *job, int64_t t, double *scratch)
{
    const mq_routing_kind *kind = job->kind;
    int64_t n = kind->n_experts, k = kind->top_k;
    double *score = scratch, *choice = scratch + n, *worth = choice + n, sum = 0;
    int32_t *expert = job->expert + t * k;
    scores_of(kind, job->logits + t * n, score);
    for (int64_t e = 0; e < n; e++) {
        choice[e] = score[e] + (job->correction ? (double)job->correction[e] : 0);
        if (isnan(choice[e])) choice[e] = -DBL_MAX;
    }
    if (kind->n_groups > 1) close_groups(kind, choice, worth);
    for (int64_t i = 0; i < k; i++) {
        expert[i] = (int32_t)take_best(choice, n);
        sum += score[expert[i]];
    }
    double divisor = kind->normalised ? fmax(sum, fmax(kind->least_sum, DBL_MIN)) : 1;
    for (int64_t i = 0; i < k; i++) {
        job->weight[t * k + i] = (float)(score[expert[i]] / divisor * kind->scale);
    }
}

static mq_status route_task(void *context, int64_t i)
{
    const route_job *job = context;
    size_t values = (size_t)(2 * job->kind->n_experts + job->kind->n_groups);
    double *scratch = mq_scratch(SLOT, values * sizeof *scratch);
    if (!scratch) return mq_fail(MQ_E_MEMORY, "no memory for scores of experts");
    for (int64_t t = i * TOKENS; t < tile_end(i, job->n_tok); t++) route_token(job, t, scratch);
    return MQ_OK;
}

mq_status mq_route(const mq_routing_kind *kind, const float *logits, const float *correction,
                   int64_t n_tok, int32_t *expert, float *weight)
{
    route_job job = {kind, logits, correction, n_tok, expert, weight};
    return mq_parallel_for(tiles(n_tok), route_task, &job);
}

void mq_route_sort(const mq_routing_kind *kind, const int32_t *expert, const float *weight,
                   int64_t n_tok, const uint8_t *skipped, int64_t *begin, int32_t *token,
                   float *row_weight)
{
    int64_t n = kind->n_experts, k = kind->top_k;
    memset(begin, 0, (size_t)(n + 1) * sizeof *begin);
    for (int64_t i = 0; i < n_tok * k; i++) {
        if (!skipped || !skipped[i / k]) begin[expert[i] + 1]++;
    }
    for (int64_t e = 0; e < n; e++) begin[e + 1] += begin[e];
    /* begin[e] counts up to where the rows of e end, which is where those of e + 1 begin. */
    for (int64_t i = 0; i < n_tok * k; i++) {
        if (skipped && skipped[i / k]) continue;
        int64_t at = begin[expert[i]]++;
        token[at] = (int32_t)(i / k);
        row_weight[at] = weight[i];
    }
    for (int64_t e = n; e > 0; e--) begin[e] = begin[e - 1];
    begin[0] = 0;
}

/* ---- the router ----------------------------------------------------------------------------- */

typedef struct router_job {
    const char *x;
    mq_dtype dtype;
    int64_t n_tok, n_in, n_out;
    const float *w, *bias;
    float *y;
} router_job;

static mq_status router_task(void *context, int64_t i)
{
    const router_job *job = context;
    int64_t begin = i * TOKENS, n = tile_end(i, job->n_tok) - begin;
    float *x = mq_scratch(SLOT, (size_t)(TOKENS * job->n_in) * sizeof *x);
    float *y = job->y + begin * job->n_out;
    const char *from = job->x + (size_t)(begin * job->n_in) * mq_dtype_size(job->dtype);
    const mq_gemm_shape shape = {.m = n,
                                 .n = job->n_out,
                                 .k = job->n_in,
                                 .lda = job->n_in,
                                 .ldb = job->n_in,
                                 .ldc = job->n_out,
                                 .in = MQ_F32,
                                 .out = MQ_F32,
                                 .b_trans = true};
    if (!x) return mq_fail(MQ_E_MEMORY, "no memory for the inputs of a router");
    MQ_TRY(mq_to_f32(from, job->dtype, n * job->n_in, x));
    MQ_TRY(mq_gemm(&shape, x, job->w, y));
    for (int64_t j = 0; j < n * job->n_out && job->bias; j++) y[j] += job->bias[j % job->n_out];
    return MQ_OK;
}

mq_status mq_router_logits(const void *x, mq_dtype dtype, int64_t n_tok, int64_t n_in,
                           const float *w, const float *bias, int64_t n_out, float *y)
{
    router_job job = {x, dtype, n_tok, n_in, n_out, w, bias, y};
    return mq_parallel_for(tiles(n_tok), router_task, &job);
}

/* ---- rows of experts ------------------------------------------------------------------------ */

typedef struct rows_job {
    const char *from;
    char *to;
    size_t bytes; /* of a row */
    int64_t d, n;
    mq_dtype dtype;
    const int32_t *token;
    const float *weight;
    float *sum;
    double factor;
} rows_job;

static mq_status gather_task(void *context, int64_t i)
{
    const rows_job *job = context;
    for (int64_t r = i * TOKENS; r < tile_end(i, job->n); r++) {
        memcpy(job->to + (size_t)r * job->bytes, job->from + (size_t)job->token[r] * job->bytes,
               job->bytes);
    }
    return MQ_OK;
}

mq_status mq_gather_rows(const void *x, int64_t d, mq_dtype dtype, const int32_t *token, int64_t n,
                         void *out)
{
    rows_job job = {
        .from = x, .to = out, .bytes = (size_t)d * mq_dtype_size(dtype), .n = n, .token = token};
    return mq_parallel_for(tiles(n), gather_task, &job);
}

static mq_status scatter_task(void *context, int64_t i)
{
    const rows_job *job = context;
    float *y = mq_scratch(SLOT, (size_t)job->d * sizeof *y);
    if (!y) return mq_fail(MQ_E_MEMORY, "no memory for a row of an expert");
    for (int64_t r = i * TOKENS; r < tile_end(i, job->n); r++) {
        float *to = job->sum + job->token[r] * job->d;
        float weight = job->weight ? job->weight[r] : 1;
        MQ_TRY(mq_to_f32(job->from + (size_t)r * job->bytes, job->dtype, job->d, y));
        for (int64_t j = 0; j < job->d; j++) to[j] += weight * y[j];
    }
    return MQ_OK;
}

mq_status mq_scatter_add(const void *y, int64_t d, mq_dtype dtype, const int32_t *token,
                         const float *weight, int64_t n, float *sum)
{
    rows_job job = {.from = y,
                    .bytes = (size_t)d * mq_dtype_size(dtype),
                    .d = d,
                    .n = n,
                    .dtype = dtype,
                    .token = token,
                    .weight = weight,
                    .sum = sum};
    return mq_parallel_for(tiles(n), scatter_task, &job);
}

static mq_status scale_task(void *context, int64_t i)
{
    const rows_job *job = context;
    float *y = mq_scratch(SLOT, (size_t)job->d * sizeof *y);
    if (!y) return mq_fail(MQ_E_MEMORY, "no memory for a row of activations");
    for (int64_t r = i * TOKENS; r < tile_end(i, job->n); r++) {
        char *row = job->to + (size_t)r * job->bytes;
        MQ_TRY(mq_to_f32(row, job->dtype, job->d, y));
        for (int64_t j = 0; j < job->d; j++) y[j] *= job->weight[r];
        MQ_TRY(mq_from_f32(y, job->d, job->dtype, row));
    }
    return MQ_OK;
}

mq_status mq_scale_rows(void *x, int64_t d, mq_dtype dtype, const float *weight, int64_t n)
{
    rows_job job = {.to = x,
                    .bytes = (size_t)d * mq_dtype_size(dtype),
                    .d = d,
                    .n = n,
                    .dtype = dtype,
                    .weight = weight};
    return mq_parallel_for(tiles(n), scale_task, &job);
}

static mq_status add_task(void *context, int64_t i)
{
    const rows_job *job = context;
    float *x = mq_scratch(SLOT, (size_t)job->d * sizeof *x);
    if (!x) return mq_fail(MQ_E_MEMORY, "no memory for a row of the residual stream");
    for (int64_t r = i * TOKENS; r < tile_end(i, job->n); r++) {
        char *row = job->to + (size_t)r * job->bytes;
        const float *sum = job->sum + r * job->d;
        MQ_TRY(mq_to_f32(row, job->dtype, job->d, x));
        for (int64_t j = 0; j < job->d; j++) {
            x[j] = (float)((double)x[j] + job->factor * (double)sum[j]);
        }
        MQ_TRY(mq_from_f32(x, job->d, job->dtype, row));
    }
    return MQ_OK;
}

mq_status mq_add_sum(const float *sum, double factor, int64_t n_tok, int64_t d, void *x,
                     mq_dtype dtype)
{
    rows_job job = {.to = x,
                    .bytes = (size_t)d * mq_dtype_size(dtype),
                    .d = d,
                    .n = n_tok,
                    .dtype = dtype,
                    .sum = (float *)(uintptr_t)sum,
                    .factor = factor};
    return mq_parallel_for(tiles(n_tok), add_task, &job);
}
