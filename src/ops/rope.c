#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm_impl.h"
#include "ops/kernels.h"
#include "ops/rows.h"
#include "ops/vector.h"

/* Rotary embedding: each pair (u, v) of a head becomes (u c - v s, v c + u s). */
enum { ROWS_PER_TASK = 64 };

static MQ_CLONES void vec_rotate_halves(float *restrict u, float *restrict v, int64_t half,
                                        const float *restrict c, const float *restrict s)
{
    for (int64_t i = 0; i < half; i++) {
        float a = u[i], b = v[i];
        u[i] = a * c[i] - b * s[i];
        v[i] = b * c[i] + a * s[i];
    }
}

static MQ_CLONES void vec_rotate_neighbours(float *restrict x, int64_t half,
                                            const float *restrict c, const float *restrict s)
{
    for (int64_t i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * c[i] - b * s[i];
        x[2 * i + 1] = b * c[i] + a * s[i];
    }
}

typedef struct rope_job {
    void *x;
    int64_t n_tok, ld, n_heads, head_dim, dim;
    const float *cos_sin;
    const int32_t *position;
    int n_axes;
    const uint8_t *axis; /* NULL: a token has one position */
    bool interleaved;
    mq_dtype dtype;
} rope_job;

/* The row of the table by which a token turns; `own` (dim) holds it where it is made of several. */
static const float *angles(const rope_job *job, int64_t t, float *own)
{
    const int32_t *position = job->position + t * job->n_axes;
    int64_t half = job->dim / 2;
    if (!job->axis) return job->cos_sin + position[0] * job->dim;
    for (int64_t i = 0; i < half; i++) {
        const float *from = job->cos_sin + position[job->axis[i]] * job->dim;
        own[i] = from[i];
        own[half + i] = from[half + i];
    }
    return own;
}

static void rotate_row(const rope_job *job, float *row, const float *c)
{
    int64_t half = job->dim / 2;
    const float *s = c + half;
    for (int64_t h = 0; h < job->n_heads; h++) {
        float *x = row + h * job->head_dim;
        if (job->interleaved) {
            vec_rotate_neighbours(x, half, c, s);
        } else {
            vec_rotate_halves(x, x + half, half, c, s);
        }
    }
}

static mq_status rope_task(void *context, int64_t i)
{
    const rope_job *job = context;
    int64_t width = (job->n_heads - 1) * job->head_dim + job->dim;
    int64_t end = mq_min_i64((i + 1) * ROWS_PER_TASK, job->n_tok);
    mq_scratch_plan plan = {0};
    size_t row_at = mq_scratch_add(&plan, width, sizeof(float));
    size_t own_at = mq_scratch_add(&plan, job->dim, sizeof(float));
    char *base;
    MQ_TRY(mq_scratch_get(&plan, MQ_SLOT_KERNEL, &base));
    float *row = (float *)(void *)(base + row_at), *own = (float *)(void *)(base + own_at);
    for (int64_t t = i * ROWS_PER_TASK; t < end; t++) {
        void *x = mq_at_mut(job->x, t * job->ld, job->dtype);
        mq_row_load(x, job->dtype, width, row);
        rotate_row(job, row, angles(job, t, own));
        mq_row_store(row, width, x, job->dtype);
    }
    return MQ_OK;
}

mq_status mq_rope_axes(void *x, int64_t n_tok, int64_t ld, int64_t n_heads, int64_t head_dim,
                       int64_t dim, const float *cos_sin, const int32_t *position, int n_axes,
                       const uint8_t *axis, bool interleaved, mq_dtype dtype)
{
    rope_job job = {.x = x,
                    .n_tok = n_tok,
                    .ld = ld,
                    .n_heads = n_heads,
                    .head_dim = head_dim,
                    .dim = dim,
                    .cos_sin = cos_sin,
                    .position = position,
                    .n_axes = n_axes,
                    .axis = axis,
                    .interleaved = interleaved,
                    .dtype = dtype};
    return mq_parallel_for(mq_ceil_div(n_tok, ROWS_PER_TASK), rope_task, &job);
}

mq_status mq_rope(void *x, int64_t n_tok, int64_t ld, int64_t n_heads, int64_t head_dim,
                  int64_t dim, const float *cos_sin, const int32_t *position, bool interleaved,
                  mq_dtype dtype)
{
    return mq_rope_axes(x, n_tok, ld, n_heads, head_dim, dim, cos_sin, position, 1, NULL,
                        interleaved, dtype);
}
