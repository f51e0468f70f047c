/* How much the layers that write to the residual stream add to it. Each token counts alike, or a
 * few with massive activations would decide; and the stream is taken after the addition: an error
 * is as large as it is beside what the next layers read (before the first block it may be tiny). */
#include "pipeline/experts.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "ops/gemm.h"
#include "par/collectives.h"

#include <math.h>

enum { SCRATCH_SLOT = 0, TOKENS = 64 };

typedef struct share_job {
    const char *y, *r; /* (n_tok, width) of one unit: what is added, and to what */
    int64_t n_tok, width;
    double scale;         /* of y where it is added */
    const int32_t *token; /* rows of r that those of y are added to; NULL: the same */
    const float *weight;  /* that rows of y have besides; NULL: none */
    mq_dtype dtype;
    double *share; /* (n_tok) */
} share_job;

/* |s y|^2 / |r + s y|^2 */
static double share_of(const float *y, double scale, const float *r, int64_t n)
{
    double added = 0, stream = 0;
    for (int64_t j = 0; j < n; j++) {
        double a = scale * (double)y[j], z = (double)r[j] + a;
        added += a * a;
        stream += z * z;
    }
    /* Not finite: a sample that the Hessian refuses or leaves out. */
    return stream > 0 && isfinite(stream) ? added / stream : 0;
}

static mq_status share_task(void *context, int64_t i)
{
    const share_job *job = context;
    int64_t end = mq_min_i64((i + 1) * TOKENS, job->n_tok);
    size_t row_bytes = (size_t)job->width * mq_dtype_size(job->dtype);
    float *y = mq_scratch(SCRATCH_SLOT, 2 * (size_t)job->width * sizeof *y), *r = y + job->width;
    if (!y) return MQ_E_MEMORY;
    for (int64_t t = i * TOKENS; t < end; t++) {
        size_t row = (size_t)(job->token ? job->token[t] : t);
        double weight = job->weight ? (double)job->weight[t] : 1;
        MQ_TRY(mq_to_f32(job->y + (size_t)t * row_bytes, job->dtype, job->width, y));
        MQ_TRY(mq_to_f32(job->r + row * row_bytes, job->dtype, job->width, r));
        job->share[t] = share_of(y, job->scale * weight, r, job->width);
    }
    return MQ_OK;
}

/* Sum over the tokens of the u-th local unit, in their order. */
static mq_status unit_share(const mq_run *run, mq_tap_id tap, mq_linear_id linear, int64_t u,
                            share_job *job, void *y, double *sum)
{
    const mq_stream *stream = &run->stream[MQ_QUANTISED];
    const mq_activations *in = &stream->tap[mq_tap_kind(tap)];
    job->n_tok = run->calib->unit[u].n_tokens;
    job->y = y;
    job->r = mq_activations_unit(&stream->x, run->calib, u);
    if (linear >= MQ_EXPERTS) {
        mq_expert_rows rows;
        MQ_TRY(mq_experts_outputs(run, MQ_QUANTISED, u, &rows));
        job->n_tok = rows.n;
        job->y = rows.rows;
        job->token = rows.token;
        job->weight = rows.weight;
    } else {
        MQ_TRY(mq_block_branch(stream->weights, linear, job->n_tok,
                               mq_activations_unit(in, run->calib, u), y));
    }
    MQ_TRY(mq_parallel_for(mq_ceil_div(job->n_tok, TOKENS), share_task, job));
    for (int64_t t = 0; t < job->n_tok; t++) *sum += job->share[t];
    return MQ_OK;
}

/* sum (n_units): each has one contributor, so that their sum over the ranks is exact. */
static mq_status local_shares(const mq_run *run, mq_tap_id tap, mq_linear_id linear, double *sum)
{
    share_job job = {.width = run->arch->hidden,
                     .scale = run->arch->residual_scale,
                     .dtype = run->stream[MQ_QUANTISED].x.dtype};
    int64_t most = run->calib->max_unit_tokens, values = 0;
    char *y = NULL;
    mq_status status = mq_mul_i64(most, job.width, &values);
    if (status == MQ_OK) status = mq_alloc(values, mq_dtype_size(job.dtype), "outputs", &y);
    if (status == MQ_OK) status = mq_alloc(most, sizeof *job.share, "shares", &job.share);
    for (int64_t u = 0; u < run->calib->n_local_units && status == MQ_OK; u++) {
        status = unit_share(run, tap, linear, u, &job, y, &sum[run->calib->unit[u].id]);
    }
    mq_free(&y);
    mq_free(&job.share);
    return status;
}

mq_status mq_run_added(mq_run *run, mq_tap_id tap, mq_linear_id linear, double *mean)
{
    const mq_calib *calib = run->calib;
    double *sum = NULL;
    *mean = 0;
    mq_status status = mq_alloc(calib->n_units, sizeof *sum, "shares of units", &sum);
    if (status == MQ_OK) status = local_shares(run, tap, linear, sum);
    status = mq_agree(run->comm, status);
    if (status == MQ_OK) status = mq_sum_f64(run->comm, sum, calib->n_units);
    for (int64_t u = 0; u < calib->n_units && status == MQ_OK; u++) *mean += sum[u];
    *mean /= (double)calib->n_tokens;
    mq_free(&sum);
    mq_timing_lap(&run->timing, MQ_T_FORWARD);
    return status;
}
