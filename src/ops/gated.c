#include "base/checked.h"
#include "base/parallel.h"
#include "ops/kernels.h"
#include "ops/rows.h"
#include "ops/vector.h"

/* y = act(gate) * up, through pieces of rows in f32 on the stack. */
enum { ROWS_PER_TASK = 64, PIECE = 512 };

static MQ_CLONES void vec_gate_silu(const float *restrict gate, float *restrict up, int64_t n)
{
    for (int64_t j = 0; j < n; j++) up[j] = gate[j] * mq_sigmoidf(gate[j]) * up[j];
}

/* 0.5 x (1 + tanh(u)) is x / (1 + exp(-2u)), which loses nothing for negative x. */
static MQ_CLONES void vec_gate_gelu_tanh(const float *restrict gate, float *restrict up, int64_t n)
{
    const float twice_root_2_over_pi = 0x1.988454p0f;
    for (int64_t j = 0; j < n; j++) {
        float x = gate[j], u = x + 0.044715f * (x * x * x);
        up[j] = x * mq_sigmoidf(twice_root_2_over_pi * u) * up[j];
    }
}

static MQ_CLONES void vec_gate_gelu_erf(const float *restrict gate, float *restrict up, int64_t n)
{
    for (int64_t j = 0; j < n; j++) up[j] = gate[j] * mq_normal_cdf(gate[j]) * up[j];
}

static MQ_CLONES void vec_gate_sigmoid(const float *restrict gate, float *restrict up, int64_t n)
{
    for (int64_t j = 0; j < n; j++) up[j] = mq_sigmoidf(gate[j]) * up[j];
}

/* Comparisons that let NaN through. */
static MQ_CLONES void vec_gate_clipped(const float *restrict gate, float *restrict up, int64_t n,
                                       float limit, float slope)
{
    for (int64_t j = 0; j < n; j++) {
        float g = gate[j] > limit ? limit : gate[j], u = up[j] > limit ? limit : up[j];
        u = u < -limit ? -limit : u;
        up[j] = g * mq_sigmoidf(slope * g) * (u + 1.0f);
    }
}

typedef struct gated_job {
    mq_activation activation;
    const void *gate, *up;
    void *y;
    int64_t ld_gate, ld_up, n_tok, d;
    mq_dtype dtype;
} gated_job;

static void gate_piece(const mq_activation *act, const float *gate, float *up, int64_t n)
{
    switch (act->kind) {
    case MQ_SILU:
        vec_gate_silu(gate, up, n);
        break;
    case MQ_GELU_TANH:
        vec_gate_gelu_tanh(gate, up, n);
        break;
    case MQ_GELU_ERF:
        vec_gate_gelu_erf(gate, up, n);
        break;
    case MQ_SIGMOID:
        vec_gate_sigmoid(gate, up, n);
        break;
    case MQ_CLIPPED_SWIGLU:
        vec_gate_clipped(gate, up, n, (float)act->limit, (float)act->slope);
        break;
    }
}

static void gate_row(const gated_job *job, int64_t t)
{
    float missing = job->activation.kind == MQ_CLIPPED_SWIGLU ? 0 : 1; /* up where there is none */
    float gate[PIECE], up[PIECE];
    for (int64_t j = 0; j < job->d; j += PIECE) {
        int64_t n = mq_min_i64(PIECE, job->d - j);
        mq_row_load(mq_at(job->gate, t * job->ld_gate + j, job->dtype), job->dtype, n, gate);
        if (job->up) {
            mq_row_load(mq_at(job->up, t * job->ld_up + j, job->dtype), job->dtype, n, up);
        } else {
            for (int64_t i = 0; i < n; i++) up[i] = missing;
        }
        gate_piece(&job->activation, gate, up, n);
        mq_row_store(up, n, mq_at_mut(job->y, t * job->d + j, job->dtype), job->dtype);
    }
}

static mq_status gated_task(void *context, int64_t i)
{
    const gated_job *job = context;
    int64_t end = mq_min_i64((i + 1) * ROWS_PER_TASK, job->n_tok);
    for (int64_t t = i * ROWS_PER_TASK; t < end; t++) gate_row(job, t);
    return MQ_OK;
}

mq_status mq_gated(mq_activation activation, const void *gate, int64_t ld_gate, const void *up,
                   int64_t ld_up, int64_t n_tok, int64_t d, void *y, mq_dtype dtype)
{
    gated_job job = {.activation = activation,
                     .gate = gate,
                     .up = up,
                     .y = y,
                     .ld_gate = ld_gate,
                     .ld_up = ld_up,
                     .n_tok = n_tok,
                     .d = d,
                     .dtype = dtype};
    return mq_parallel_for(mq_ceil_div(n_tok, ROWS_PER_TASK), gated_task, &job);
}
