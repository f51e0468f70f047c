#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm_impl.h"
#include "ops/kernels.h"
#include "ops/rows.h"
#include "ops/vector.h"

#include <math.h>

/* RMS and layer norm, of rows and of heads inside rows. A row is staged in f32 scratch; sums run in
 * 16 lanes (vector.h) that are added pairwise at the end. */
enum { ROWS_PER_TASK = 64 };

MQ_INLINE float sum_lanes(const mq_vec *v)
{
    float lane[MQ_LANES];
    memcpy(lane, v, sizeof lane);
    for (int width = MQ_LANES / 2; width > 0; width /= 2) {
        for (int l = 0; l < width; l++) lane[l] += lane[l + width];
    }
    return lane[0];
}

/* The last n < 16 elements of a row in the first lanes, zeros in the others. */
MQ_INLINE void load_rest(mq_vec *v, const float *x, int64_t n)
{
    memset(v, 0, sizeof *v);
    memcpy(v, x, (size_t)n * sizeof *x);
}

static MQ_CLONES float vec_row_sum(const float *x, int64_t n)
{
    mq_vec sum = {0}, v;
    int64_t j = 0;
    for (; j + MQ_LANES <= n; j += MQ_LANES) {
        MQ_VEC_LOAD(v, x + j);
        sum += v;
    }
    load_rest(&v, x + j, n - j);
    sum += v;
    return sum_lanes(&sum);
}

static MQ_CLONES float vec_row_square_sum(const float *x, int64_t n)
{
    mq_vec sum = {0}, v;
    int64_t j = 0;
    for (; j + MQ_LANES <= n; j += MQ_LANES) {
        MQ_VEC_LOAD(v, x + j);
        sum += v * v;
    }
    load_rest(&v, x + j, n - j);
    sum += v * v;
    return sum_lanes(&sum);
}

static MQ_CLONES void vec_row_shift(float *x, int64_t n, float shift)
{
    for (int64_t j = 0; j < n; j++) x[j] += shift;
}

static MQ_CLONES void vec_row_scale(float *restrict x, int64_t n, float factor,
                                    const float *restrict w)
{
    for (int64_t j = 0; j < n; j++) x[j] = x[j] * factor * w[j];
}

static MQ_CLONES void vec_row_add(float *restrict x, int64_t n, const float *restrict b)
{
    for (int64_t j = 0; j < n; j++) x[j] += b[j];
}

static MQ_CLONES void vec_row_multiply(float *x, int64_t n, float factor)
{
    for (int64_t j = 0; j < n; j++) x[j] *= factor;
}

static void norm_row(mq_norm_kind kind, float *x, int64_t d, const float *w, const float *bias,
                     float eps)
{
    if (kind == MQ_NORM_LAYER) vec_row_shift(x, d, -(vec_row_sum(x, d) / (float)d));
    float mean_square = vec_row_square_sum(x, d) / (float)d;
    float factor = 1.0f / sqrtf(mean_square + eps);
    if (w) {
        vec_row_scale(x, d, factor, w);
    } else {
        vec_row_multiply(x, d, factor);
    }
    if (bias) vec_row_add(x, d, bias);
}

typedef struct norm_job {
    mq_norm_kind kind;
    const void *x;
    void *y;
    int64_t n_tok, ld_x, ld_y, n_heads, d;
    const float *w, *bias; /* NULL: ones, none */
    bool per_head;
    float eps;
    mq_dtype dtype;
} norm_job;

static mq_status norm_task(void *context, int64_t i)
{
    const norm_job *job = context;
    int64_t width = job->n_heads * job->d;
    int64_t end = mq_min_i64((i + 1) * ROWS_PER_TASK, job->n_tok);
    mq_scratch_plan plan = {0};
    mq_scratch_add(&plan, width, sizeof(float));
    char *base;
    MQ_TRY(mq_scratch_get(&plan, MQ_SLOT_KERNEL, &base));
    float *row = (float *)(void *)base;
    for (int64_t t = i * ROWS_PER_TASK; t < end; t++) {
        mq_row_load(mq_at(job->x, t * job->ld_x, job->dtype), job->dtype, width, row);
        for (int64_t h = 0; h < job->n_heads; h++) {
            const float *w = job->w && job->per_head ? job->w + h * job->d : job->w;
            norm_row(job->kind, row + h * job->d, job->d, w, job->bias, job->eps);
        }
        mq_row_store(row, width, mq_at_mut(job->y, t * job->ld_y, job->dtype), job->dtype);
    }
    return MQ_OK;
}

static mq_status run_norm(norm_job *job)
{
    return mq_parallel_for(mq_ceil_div(job->n_tok, ROWS_PER_TASK), norm_task, job);
}

mq_status mq_norm(mq_norm_kind kind, const void *x, int64_t n_tok, int64_t d, const float *w,
                  const float *bias, double eps, void *y, mq_dtype dtype)
{
    norm_job job = {.kind = kind,
                    .x = x,
                    .y = y,
                    .n_tok = n_tok,
                    .ld_x = d,
                    .ld_y = d,
                    .n_heads = 1,
                    .d = d,
                    .w = w,
                    .bias = bias,
                    .eps = (float)eps,
                    .dtype = dtype};
    return run_norm(&job);
}

mq_status mq_norm_heads(mq_norm_kind kind, void *x, int64_t n_tok, int64_t ld, int64_t n_heads,
                        int64_t d, const float *w, bool per_head, double eps, mq_dtype dtype)
{
    norm_job job = {.kind = kind,
                    .x = x,
                    .y = x,
                    .n_tok = n_tok,
                    .ld_x = ld,
                    .ld_y = ld,
                    .n_heads = n_heads,
                    .d = d,
                    .w = w,
                    .per_head = per_head,
                    .eps = (float)eps,
                    .dtype = dtype};
    return run_norm(&job);
}
