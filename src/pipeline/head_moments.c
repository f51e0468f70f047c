#include "pipeline/head_moments.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "model/head_norm.h"
#include "ops/gemm.h"
#include "par/collectives.h"

enum { PANEL = MQ_SOLVE_PANEL, SLOT_ROWS = 0, SLOT_PRODUCTS = 1 };

/* Heads are numbered through, those of q first; they are dealt to the ranks in turn. */
typedef struct moment_job {
    const mq_run *run;
    mq_tap_system *system;
    double *moment; /* (heads of q and k, head_dim, head_dim) */
    float *panel;   /* (PANEL, n): rows [k0, k0 + nk) of H, divided by its mean diagonal for f32 */
    int64_t k0, nk;
    const double *mean; /* (n) of the inputs; NULL: no bias needs it */
} moment_job;

static int64_t n_moments(const mq_arch *arch)
{
    return arch->n_heads + arch->n_kv_heads;
}

static int64_t head_of_task(const moment_job *job, int64_t i)
{
    return job->run->comm->rank + i * job->run->comm->size;
}

/* None for ranks beyond the heads. */
static int64_t n_tasks(const moment_job *job)
{
    const mq_comm *comm = job->run->comm;
    int64_t left = n_moments(job->run->arch) - comm->rank;
    return left > 0 ? mq_ceil_div(left, comm->size) : 0;
}

static mq_linear_id linear_of(const mq_arch *arch, int64_t head, int64_t *of_linear)
{
    bool query = head < arch->n_heads;
    *of_linear = query ? head : head - arch->n_heads;
    return query ? MQ_Q : MQ_K;
}

/* Where the rows of a head are, counted in heads: those of k may follow those of q in one layer,
 * and gates stand between those of q. */
static mq_linear_id layer_of(const mq_arch *arch, int64_t head, int64_t *in_layer)
{
    *in_layer = head;
    if (arch->fused_qkv) return MQ_Q;
    mq_linear_id linear = linear_of(arch, head, in_layer);
    if (linear == MQ_Q && arch->attention_gate) *in_layer *= 2;
    return linear;
}

/* The head's rows (head_dim, n) of the layer in f32; in the thread's scratch. */
static mq_status head_rows(const moment_job *job, int64_t head, float **rows)
{
    const mq_block_weights *weights = job->run->stream[MQ_QUANTISED].weights;
    int64_t in_layer = 0, count = job->run->arch->head_dim * job->system->n;
    mq_linear_id linear = layer_of(job->run->arch, head, &in_layer);
    const char *from = weights->w[linear];
    from += (size_t)(in_layer * count) * mq_dtype_size(weights->dtype);
    *rows = mq_scratch(SLOT_ROWS, (size_t)count * sizeof **rows);
    if (!*rows) return mq_fail(MQ_E_MEMORY, "no memory for the rows of a head");
    return mq_to_f32(from, weights->dtype, count, *rows);
}

/* The panel's part of W H W^T. */
static mq_status multiply_task(void *context, int64_t i)
{
    const moment_job *job = context;
    int64_t hd = job->run->arch->head_dim, n = job->system->n, head = head_of_task(job, i);
    float *w = NULL, *t = mq_scratch(SLOT_PRODUCTS, (size_t)(hd * (PANEL + hd)) * sizeof *t);
    double *moment = job->moment + head * hd * hd;
    if (!t) return mq_fail(MQ_E_MEMORY, "no memory for the moment of a head");
    MQ_TRY(head_rows(job, head, &w));
    mq_gemm_shape shape = {.m = hd,
                           .n = job->nk,
                           .k = n,
                           .lda = n,
                           .ldb = n,
                           .ldc = job->nk,
                           .in = MQ_F32,
                           .out = MQ_F32,
                           .b_trans = true};
    MQ_TRY(mq_gemm(&shape, w, job->panel, t));
    float *product = t + hd * PANEL;
    shape.n = hd;
    shape.k = job->nk;
    shape.lda = job->nk;
    shape.ldc = hd;
    MQ_TRY(mq_gemm(&shape, t, w + job->k0, product));
    for (int64_t e = 0; e < hd * hd; e++) moment[e] += (double)product[e];
    return MQ_OK;
}

/* mean (y + b)(y + b)^T from mean y y^T, y = W x. */
static mq_status add_bias(const moment_job *job, int64_t head, const float *bias, double *m)
{
    int64_t hd = job->run->arch->head_dim, n = job->system->n;
    float *w = NULL;
    double *y = mq_scratch(SLOT_PRODUCTS, (size_t)hd * sizeof *y);
    if (!y) return mq_fail(MQ_E_MEMORY, "no memory for the moment of a head");
    MQ_TRY(head_rows(job, head, &w));
    for (int64_t i = 0; i < hd; i++) {
        y[i] = 0;
        for (int64_t k = 0; k < n; k++) y[i] += (double)w[i * n + k] * job->mean[k];
    }
    for (int64_t i = 0; i < hd; i++) {
        for (int64_t j = 0; j < hd; j++) {
            double b = (double)bias[i], c = (double)bias[j];
            m[i * hd + j] += y[i] * c + b * y[j] + b * c;
        }
    }
    return MQ_OK;
}

/* The product in f32 is symmetric but for rounding; a mean over tokens. */
static void symmetrise(int64_t n, double factor, double *m)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = i; j < n; j++) {
            m[i * n + j] = m[j * n + i] = (m[i * n + j] + m[j * n + i]) / 2 * factor;
        }
    }
}

/* The norm's weights for a head, or NULL. */
static const float *norm_of(const mq_run *run, mq_linear_id linear, int64_t head)
{
    const mq_block_weights *weights = run->stream[MQ_QUANTISED].weights;
    const float *norm = linear == MQ_Q ? weights->q_norm : weights->k_norm;
    bool shared = run->arch->qk_norm == MQ_QK_HEAD_SHARED;
    return norm && !shared ? norm + head * run->arch->head_dim : norm;
}

/* From W H W^T to what attention gets. */
static mq_status finish_task(void *context, int64_t i)
{
    const moment_job *job = context;
    const mq_run *run = job->run;
    int64_t hd = run->arch->head_dim, head = head_of_task(job, i), of_linear = 0, in_layer = 0;
    mq_linear_id linear = linear_of(run->arch, head, &of_linear);
    mq_linear_id layer = layer_of(run->arch, head, &in_layer);
    const float *bias = run->stream[MQ_QUANTISED].weights->bias[layer];
    const float *norm = norm_of(run, linear, of_linear);
    double *moment = job->moment + head * hd * hd;
    symmetrise(hd, job->system->mean / (double)job->system->h->n_tokens, moment);
    if (bias) MQ_TRY(add_bias(job, head, bias + in_layer * hd, moment));
    if (norm) mq_head_norm_moment(run->arch, norm, moment);
    return MQ_OK;
}

static mq_status fill_moments(moment_job *job)
{
    int64_t n = n_tasks(job) > 0 ? job->system->n : 0;
    for (job->k0 = 0; job->k0 < n; job->k0 += PANEL) {
        job->nk = mq_min_i64(PANEL, n - job->k0);
        mq_tap_system *s = job->system;
        MQ_TRY(mq_tap_system_rows(s, job->k0, job->k0 + job->nk, job->panel));
        MQ_TRY(mq_parallel_for(n_tasks(job), multiply_task, job));
    }
    return mq_parallel_for(n_tasks(job), finish_task, job);
}

/* Sums of the inputs over this rank's units: the cross sum with a column of ones, so that they are
 * order-free like the Hessian's. */
static mq_status add_inputs(const mq_run *run, mq_cross *sum)
{
    const mq_activations *x = &run->stream[MQ_QUANTISED].tap[MQ_TAP_ATTN_IN];
    const float one = 1;
    int64_t most = run->calib->max_unit_tokens;
    size_t size = mq_dtype_size(x->dtype);
    char *ones = NULL;
    mq_status status = mq_alloc(most, size, "ones", &ones);
    for (int64_t t = 0; t < most && status == MQ_OK; t++) {
        status = mq_from_f32(&one, 1, x->dtype, ones + (size_t)t * size);
    }
    for (int64_t u = 0; u < run->calib->n_local_units && status == MQ_OK; u++) {
        status = mq_cross_add(sum, ones, mq_activations_unit(x, run->calib, u), x->dtype,
                              run->calib->unit[u].n_tokens);
    }
    mq_free(&ones);
    return status;
}

/* mean (n) of the inputs of attn_in. Collective. */
static mq_status input_mean(const mq_run *run, const mq_hessian *h, double *mean)
{
    double most = (double)run->calib->max_unit_tokens;
    mq_cross *sum = NULL;
    mq_status status = mq_agree(run->comm, mq_cross_create(1, h->n, &sum));
    if (status == MQ_OK) {
        status = mq_cross_set_grid(sum, run->comm, &most, h->exponent, run->calib->n_units);
    }
    if (status == MQ_OK) status = mq_agree(run->comm, add_inputs(run, sum));
    if (status == MQ_OK) status = mq_cross_reduce(sum, run->comm);
    for (int64_t j = 0; j < h->n && status == MQ_OK; j++) {
        mean[j] = sum->sum[j] / (double)h->n_tokens;
    }
    mq_cross_destroy(&sum);
    return status;
}

/* Samples on both sides of a length from which on they turn in another way. */
static bool turns_differ(const mq_run *run)
{
    const mq_rope_kind *rope = &run->arch->rope;
    const mq_calib *calib = run->calib;
    return mq_rope_stage(rope, calib->shortest) != mq_rope_stage(rope, calib->longest);
}

/* The mean rotation for the block's rope, window and chunks. Collective. */
static mq_status set_rope_mean(mq_run *run, int64_t block)
{
    double *share = NULL;
    int64_t n = 0, window = mq_arch_window(run->arch, block);
    int64_t chunk = mq_arch_chunk(run->arch, block);
    const mq_rope_kind *rope = mq_arch_rope(run->arch, block);
    if (run->rope_mean && run->rope_mean_of == rope && run->rope_mean_window == window &&
        run->rope_mean_chunk == chunk) {
        return MQ_OK;
    }
    mq_rope_mean_destroy(&run->rope_mean);
    mq_status status = mq_calib_distances(run->comm, run->calib, window, chunk, &share, &n);
    if (status != MQ_OK) return status;
    mq_rope_kind kind = rope ? *rope : (mq_rope_kind){.dim = 0};
    kind.stage = mq_rope_stage(&kind, run->calib->longest);
    status = mq_agree(
        run->comm, mq_rope_mean_create(run->arch, rope ? &kind : NULL, share, n, &run->rope_mean));
    run->rope_mean_of = rope;
    run->rope_mean_window = window;
    run->rope_mean_chunk = chunk;
    mq_free(&share);
    return status;
}

static mq_status allocate(const mq_run *run, moment_job *job, double **mean, mq_head_moments *out)
{
    int64_t hd = run->arch->head_dim, n = job->system->n;
    bool biased = run->arch->has_bias[MQ_Q] || run->arch->has_bias[MQ_K];
    size_t moment = (size_t)(hd * hd) * sizeof(double);
    MQ_TRY(mq_alloc(n_moments(run->arch), moment, "moments of heads", &out->query));
    MQ_TRY(mq_alloc(n, PANEL * sizeof *job->panel, "rows of a Hessian", &job->panel));
    if (biased) MQ_TRY(mq_alloc(n, sizeof **mean, "mean input", mean));
    job->moment = out->query;
    out->key = out->query + run->arch->n_heads * hd * hd;
    return MQ_OK;
}

mq_status mq_head_moments_create(mq_run *run, int64_t block, mq_tap_system *s, mq_head_moments *out)
{
    moment_job job = {.run = run, .system = s};
    double *mean = NULL;
    int64_t hd = run->arch->head_dim;
    *out = (mq_head_moments){0};
    if (!mq_head_norm_is_known(run->arch) || turns_differ(run)) return MQ_OK;
    mq_status status = set_rope_mean(run, block);
    if (status == MQ_OK) status = mq_agree(run->comm, allocate(run, &job, &mean, out));
    if (status == MQ_OK && mean) status = input_mean(run, s->h, mean);
    job.mean = mean;
    if (status == MQ_OK) status = mq_agree(run->comm, fill_moments(&job));
    /* Each has one contributor: the sum is exact. */
    if (status == MQ_OK) {
        status = mq_sum_f64(run->comm, out->query, n_moments(run->arch) * hd * hd);
    }
    mq_free(&job.panel);
    mq_free(&mean);
    return status;
}

void mq_head_moments_free(mq_head_moments *moments)
{
    mq_free(&moments->query);
    moments->key = NULL;
}

mq_status mq_head_metric(const mq_run *run, const mq_head_moments *moments, mq_linear_id linear,
                         int64_t head, double *a)
{
    const mq_arch *arch = run->arch;
    int64_t area = arch->head_dim * arch->head_dim, shared = arch->n_heads / arch->n_kv_heads;
    const float *norm = norm_of(run, linear, head);
    if (linear == MQ_Q) {
        mq_rope_mean_turn(run->rope_mean, false, moments->key + head / shared * area, a);
    } else {
        double *sum = mq_scratch(SLOT_PRODUCTS, (size_t)area * sizeof *sum);
        if (!sum) return mq_fail(MQ_E_MEMORY, "no memory for the metric of a head");
        for (int64_t e = 0; e < area; e++) sum[e] = 0;
        for (int64_t h = head * shared; h < (head + 1) * shared; h++) {
            for (int64_t e = 0; e < area; e++) sum[e] += moments->query[h * area + e];
        }
        mq_rope_mean_turn(run->rope_mean, true, sum, a);
    }
    if (norm) mq_head_norm_metric(arch, norm, a);
    return MQ_OK;
}
