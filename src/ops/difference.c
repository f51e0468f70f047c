#include "base/checked.h"
#include "base/parallel.h"
#include "ops/kernels.h"
#include "ops/rows.h"
#include "ops/vector.h"

enum { TASK = 1 << 16, PIECE = 512 };

static MQ_CLONES void vec_subtract(float *restrict a, const float *restrict b, int64_t n)
{
    for (int64_t j = 0; j < n; j++) a[j] -= b[j];
}

static MQ_CLONES void vec_add_multiple(const float *restrict d, float factor, float *restrict y,
                                       int64_t n)
{
    for (int64_t j = 0; j < n; j++) y[j] += factor * d[j];
}

typedef struct difference_job {
    const void *a, *b; /* b NULL: a alone */
    void *out;
    int64_t n;
    mq_dtype dtype;
    bool add;     /* to what is in out, */
    float factor; /* times this */
} difference_job;

static void difference_piece(const difference_job *job, int64_t at, int64_t n)
{
    float a[PIECE], other[PIECE];
    mq_row_load(mq_at(job->a, at, job->dtype), job->dtype, n, a);
    if (job->b) {
        mq_row_load(mq_at(job->b, at, job->dtype), job->dtype, n, other);
        vec_subtract(a, other, n);
    }
    if (job->add) {
        mq_row_load(mq_at(job->out, at, job->dtype), job->dtype, n, other);
        vec_add_multiple(a, job->factor, other, n);
    }
    mq_row_store(job->add ? other : a, n, mq_at_mut(job->out, at, job->dtype), job->dtype);
}

static mq_status difference_task(void *context, int64_t i)
{
    const difference_job *job = context;
    int64_t end = mq_min_i64((i + 1) * TASK, job->n);
    for (int64_t at = i * TASK; at < end; at += PIECE) {
        difference_piece(job, at, mq_min_i64(PIECE, end - at));
    }
    return MQ_OK;
}

mq_status mq_difference(const void *a, const void *b, int64_t n, void *out, mq_dtype dtype)
{
    difference_job job = {.a = a, .b = b, .out = out, .n = n, .dtype = dtype};
    return mq_parallel_for(mq_ceil_div(n, TASK), difference_task, &job);
}

mq_status mq_add_difference(const void *a, const void *b, double factor, int64_t n, void *y,
                            mq_dtype dtype)
{
    difference_job job = {
        .a = a, .b = b, .out = y, .n = n, .dtype = dtype, .add = true, .factor = (float)factor};
    return mq_parallel_for(mq_ceil_div(n, TASK), difference_task, &job);
}

mq_status mq_add_multiple(const void *a, double factor, int64_t n, void *y, mq_dtype dtype)
{
    return mq_add_difference(a, NULL, factor, n, y, dtype);
}
