#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm_impl.h"
#include "ops/kernels.h"
#include "ops/rows.h"
#include "ops/vector.h"

#include <inttypes.h>
#include <math.h>

/* The gated delta rule. A task is one value head of one sample, TOKENS tokens at a time: their
 * queries, keys and values, then the recurrence, then the norm and its gates. All of it is f32;
 * only what comes out is rounded.
 *
 * Columns of the state do not depend on each other. They lie in panels of PANEL, each of which goes
 * through all tokens by itself and stays in the nearest cache, (k_dim, PANEL) with zeros beyond the
 * last column. */
enum { TOKENS = 64, VECS = 4, PANEL = VECS * MQ_LANES };

typedef struct delta_job {
    const mq_delta_shape *shape;
    const void *x;
    const float *b, *a;
    const int64_t *sample_offset;
    void *out;
    mq_dtype dtype;
} delta_job;

/* A part of a head that goes through the convolution: its query, key or value. */
typedef struct part {
    int64_t d, at; /* coordinates, and where they begin in a row of x */
    float *w;      /* (kernel, d), of the convolution */
    float *y;      /* (TOKENS, d) */
} part;

/* What one task computes, and its memory. */
typedef struct head {
    int64_t row, length; /* the sample's first row and its tokens */
    int64_t number;      /* of the value head */
    int64_t z_at, rate_at;
    part q, k, v;
    float *unit_q, *unit_k; /* (k_dim) what a normed query or key is multiplied by */
    float *rows, *mixed;    /* (kernel - 1 + TOKENS, widest), (TOKENS, widest) */
    float *z, *o;           /* (TOKENS, v_dim) */
    float *state;           /* (panels, k_dim, PANEL) */
} head;

/* ---- what a task works on ------------------------------------------------------------------- */

static mq_status get_memory(const mq_delta_shape *s, head *h)
{
    int64_t d = s->k_dim, dv = s->v_dim, widest = mq_max_i64(d, dv);
    const struct {
        float **to;
        int64_t count;
    } pieces[] = {{&h->q.w, s->kernel * d},
                  {&h->k.w, s->kernel * d},
                  {&h->v.w, s->kernel * dv},
                  {&h->q.y, TOKENS * d},
                  {&h->k.y, TOKENS * d},
                  {&h->v.y, TOKENS * dv},
                  {&h->unit_q, d},
                  {&h->unit_k, d},
                  {&h->rows, (s->kernel - 1 + TOKENS) * widest},
                  {&h->mixed, TOKENS * widest},
                  {&h->z, TOKENS * dv},
                  {&h->o, TOKENS * dv},
                  {&h->state, mq_ceil_div(dv, PANEL) * d * PANEL}};
    enum { N_PIECES = sizeof pieces / sizeof *pieces };
    mq_scratch_plan plan = {0};
    size_t at[N_PIECES];
    char *base = NULL;
    for (int i = 0; i < N_PIECES; i++) {
        at[i] = mq_scratch_add(&plan, pieces[i].count, sizeof(float));
    }
    MQ_TRY(mq_scratch_get(&plan, MQ_SLOT_INDEX, &base));
    for (int i = 0; i < N_PIECES; i++) *pieces[i].to = (float *)(void *)(base + at[i]);
    return MQ_OK;
}

/* Where a head's numbers stand in rows of x, b and a. */
static void locate(const mq_delta_shape *s, head *h)
{
    int64_t shared = s->n_v_heads / s->n_k_heads, d = s->k_dim, dv = s->v_dim;
    int64_t k_head = h->number / shared, in_group = h->number % shared;
    if (s->grouped) {
        int64_t begin = k_head * 2 * (d + shared * dv);
        h->q.at = begin;
        h->k.at = begin + d;
        h->v.at = begin + 2 * d + in_group * dv;
        h->z_at = h->v.at + shared * dv;
        h->rate_at = k_head * 2 * shared + in_group;
    } else {
        h->q.at = k_head * d;
        h->k.at = (s->n_k_heads + k_head) * d;
        h->v.at = 2 * s->n_k_heads * d + h->number * dv;
        h->z_at = h->v.at + s->n_v_heads * dv;
        h->rate_at = h->number;
    }
}

/* The convolution's weights of channels [channel, channel + d), turned for vectors of them. */
static void turn_weights(const mq_delta_shape *s, int64_t channel, part *p)
{
    for (int64_t c = 0; c < p->d; c++) {
        const float *w = s->conv + (channel + c) * s->kernel;
        for (int64_t j = 0; j < s->kernel; j++) p->w[j * p->d + c] = w[j];
    }
}

static mq_status prepare(const delta_job *job, int64_t task, head *h)
{
    const mq_delta_shape *s = job->shape;
    int64_t sample = task / s->n_v_heads, keys = s->n_k_heads * s->k_dim;
    *h = (head){.row = job->sample_offset[sample], .number = task % s->n_v_heads};
    h->length = job->sample_offset[sample + 1] - h->row;
    h->q.d = h->k.d = s->k_dim;
    h->v.d = s->v_dim;
    locate(s, h);
    MQ_TRY(get_memory(s, h));
    int64_t k_head = h->number / (s->n_v_heads / s->n_k_heads);
    turn_weights(s, k_head * s->k_dim, &h->q);
    turn_weights(s, keys + k_head * s->k_dim, &h->k);
    turn_weights(s, 2 * keys + h->number * s->v_dim, &h->v);
    /* x / |x| is the RMS norm of x by the root of its length, and q is divided by that again. */
    for (int64_t i = 0; i < s->k_dim; i++) {
        h->unit_k[i] = (float)(1 / sqrt((double)s->k_dim));
        h->unit_q[i] = (float)(1 / (double)s->k_dim);
    }
    memset(h->state, 0,
           (size_t)(mq_ceil_div(s->v_dim, PANEL) * s->k_dim * PANEL) * sizeof *h->state);
    return MQ_OK;
}

/* ---- queries, keys and values --------------------------------------------------------------- */

/* y (d) = sum over the kernel's rows of w * x, both (kernel, d). */
static MQ_CLONES void vec_mix(const float *restrict w, const float *restrict x, int64_t kernel,
                              int64_t d, float *restrict y)
{
    for (int64_t c = 0; c < d; c++) y[c] = w[c] * x[c];
    for (int64_t j = 1; j < kernel; j++) {
        for (int64_t c = 0; c < d; c++) y[c] += w[j * d + c] * x[j * d + c];
    }
}

/* The convolution and silu over tokens [t0, t0 + n) of the sample. */
static mq_status mix_tokens(const delta_job *job, const head *h, const part *p, int64_t t0,
                            int64_t n)
{
    const mq_delta_shape *s = job->shape;
    const mq_activation silu = {.kind = MQ_SILU};
    for (int64_t i = 0; i < n + s->kernel - 1; i++) {
        int64_t t = t0 + i - (s->kernel - 1);
        float *to = h->rows + i * p->d;
        if (t < 0) { /* before the sample */
            memset(to, 0, (size_t)p->d * sizeof *to);
        } else {
            const void *from = mq_at(job->x, (h->row + t) * s->ld_x + p->at, job->dtype);
            mq_row_load(from, job->dtype, p->d, to);
        }
    }
    for (int64_t i = 0; i < n; i++) {
        vec_mix(p->w, h->rows + i * p->d, s->kernel, p->d, h->mixed + i * p->d);
    }
    return mq_gated(silu, h->mixed, p->d, NULL, 0, n, p->d, p->y, MQ_F32);
}

static mq_status make_operands(const delta_job *job, const head *h, int64_t t0, int64_t n)
{
    int64_t d = job->shape->k_dim;
    double eps = MQ_DELTA_UNIT_EPS / (double)d; /* of the sum of squares, and so of their mean */
    MQ_TRY(mix_tokens(job, h, &h->q, t0, n));
    MQ_TRY(mix_tokens(job, h, &h->k, t0, n));
    MQ_TRY(mix_tokens(job, h, &h->v, t0, n));
    MQ_TRY(mq_norm(MQ_NORM_RMS, h->q.y, n, d, h->unit_q, NULL, eps, h->q.y, MQ_F32));
    return mq_norm(MQ_NORM_RMS, h->k.y, n, d, h->unit_k, NULL, eps, h->k.y, MQ_F32);
}

/* ---- the recurrence ------------------------------------------------------------------------- */

typedef struct rate {
    float decay, beta;
} rate;

/* Of tokens [t0, t0 + n): what the state is multiplied by, and how much of a value's error enters
 * it. */
static void find_rates(const delta_job *job, const head *h, int64_t t0, int64_t n, rate *rates)
{
    const mq_delta_shape *s = job->shape;
    double speed = exp((double)s->a_log[h->number]);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = (h->row + t0 + i) * s->ld_rates + h->rate_at;
        double a = (double)job->a[at] + (double)s->dt_bias[h->number], b = (double)job->b[at];
        double softplus = a > 20 ? a : log1p(exp(a));
        rates[i] =
            (rate){.decay = (float)exp(-speed * softplus), .beta = (float)(1 / (1 + exp(-b)))};
    }
}

/* One token, one panel: state (n, PANEL) s becomes decay s + k (beta (v - decay sT k))T, and o its
 * product with q. */
static MQ_CLONES void vec_step(float *restrict s, int64_t n, const float *restrict q,
                               const float *restrict k, const float *restrict v, rate r,
                               float *restrict o)
{
    mq_vec sum[VECS] = {{0}}, out[VECS] = {{0}}, delta[VECS], x;
    for (int64_t i = 0; i < n; i++) {
        for (int p = 0; p < VECS; p++) {
            MQ_VEC_LOAD(x, s + i * PANEL + p * MQ_LANES);
            sum[p] += x * k[i];
        }
    }
    for (int p = 0; p < VECS; p++) {
        MQ_VEC_LOAD(x, v + p * MQ_LANES);
        delta[p] = (x - sum[p] * r.decay) * r.beta;
    }
    for (int64_t i = 0; i < n; i++) {
        for (int p = 0; p < VECS; p++) {
            MQ_VEC_LOAD(x, s + i * PANEL + p * MQ_LANES);
            x = x * r.decay + delta[p] * k[i];
            memcpy(s + i * PANEL + p * MQ_LANES, &x, sizeof x);
            out[p] += x * q[i];
        }
    }
    memcpy(o, out, sizeof out);
}

static void run_panel(const head *h, int64_t panel, int64_t n, const rate *rates)
{
    int64_t d = h->k.d, dv = h->v.d, column = panel * PANEL;
    size_t bytes = (size_t)mq_min_i64(PANEL, dv - column) * sizeof(float);
    float v[PANEL] = {0}, o[PANEL], *state = h->state + panel * d * PANEL;
    for (int64_t i = 0; i < n; i++) {
        memcpy(v, h->v.y + i * dv + column, bytes);
        vec_step(state, d, h->q.y + i * d, h->k.y + i * d, v, rates[i], o);
        memcpy(h->o + i * dv + column, o, bytes);
    }
}

/* ---- outputs -------------------------------------------------------------------------------- */

/* norm(o) silu(z) of tokens [t0, t0 + n). */
static mq_status put_outputs(const delta_job *job, const head *h, int64_t t0, int64_t n)
{
    const mq_delta_shape *s = job->shape;
    const mq_activation silu = {.kind = MQ_SILU};
    int64_t dv = s->v_dim;
    for (int64_t i = 0; i < n; i++) {
        const void *z = mq_at(job->x, (h->row + t0 + i) * s->ld_x + h->z_at, job->dtype);
        mq_row_load(z, job->dtype, dv, h->z + i * dv);
    }
    MQ_TRY(mq_norm(MQ_NORM_RMS, h->o, n, dv, s->norm, NULL, s->norm_eps, h->o, MQ_F32));
    MQ_TRY(mq_gated(silu, h->z, dv, h->o, dv, n, dv, h->o, MQ_F32));
    for (int64_t i = 0; i < n; i++) {
        int64_t at = ((h->row + t0 + i) * s->n_v_heads + h->number) * dv;
        mq_row_store(h->o + i * dv, dv, mq_at_mut(job->out, at, job->dtype), job->dtype);
    }
    return MQ_OK;
}

static mq_status delta_task(void *context, int64_t task)
{
    const delta_job *job = context;
    rate rates[TOKENS];
    head h;
    MQ_TRY(prepare(job, task, &h));
    for (int64_t t = 0; t < h.length; t += TOKENS) {
        int64_t n = mq_min_i64(TOKENS, h.length - t);
        MQ_TRY(make_operands(job, &h, t, n));
        find_rates(job, &h, t, n, rates);
        for (int64_t p = 0; p < mq_ceil_div(h.v.d, PANEL); p++) run_panel(&h, p, n, rates);
        MQ_TRY(put_outputs(job, &h, t, n));
    }
    return MQ_OK;
}

mq_status mq_delta(const mq_delta_shape *shape, const void *x, const float *b, const float *a,
                   const int64_t *sample_offset, int64_t n_samples, void *out, mq_dtype dtype)
{
    const mq_delta_shape *s = shape;
    if (s->n_k_heads < 1 || s->n_v_heads < 1 || s->n_v_heads % s->n_k_heads != 0 || s->k_dim < 1 ||
        s->v_dim < 1 || s->kernel < 1) {
        return mq_fail(MQ_E_INTERNAL,
                       "linear attention of %" PRId64 " heads over %" PRId64 ", of %" PRId64
                       " and %" PRId64 ", kernel %" PRId64 ", makes no sense",
                       s->n_v_heads, s->n_k_heads, s->k_dim, s->v_dim, s->kernel);
    }
    delta_job job = {.shape = shape,
                     .x = x,
                     .b = b,
                     .a = a,
                     .sample_offset = sample_offset,
                     .out = out,
                     .dtype = dtype};
    return mq_parallel_for(n_samples * s->n_v_heads, delta_task, &job);
}
