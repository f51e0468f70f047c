#include "base/checked.h"
#include "base/parallel.h"
#include "ops/kernels.h"
#include "ops/rows.h"
#include "ops/vector.h"

enum { TASK = 1 << 16, PIECE = 512 };

static MQ_CLONES void vec_difference(const float *restrict a, float *restrict b, int64_t n)
{
    for (int64_t j = 0; j < n; j++) b[j] = a[j] - b[j];
}

static MQ_CLONES void vec_add(const float *restrict d, float *restrict y, int64_t n)
{
    for (int64_t j = 0; j < n; j++) y[j] += d[j];
}

typedef struct difference_job {
    const void *a, *b;
    void *out;
    int64_t n;
    mq_dtype dtype;
    bool add;
} difference_job;

static void difference_piece(const difference_job *job, int64_t at, int64_t n)
{
    float a[PIECE], b[PIECE];
    mq_row_load(mq_at(job->a, at, job->dtype), job->dtype, n, a);
    mq_row_load(mq_at(job->b, at, job->dtype), job->dtype, n, b);
    vec_difference(a, b, n);
    if (job->add) {
        mq_row_load(mq_at(job->out, at, job->dtype), job->dtype, n, a);
        vec_add(b, a, n);
    }
    mq_row_store(job->add ? a : b, n, mq_at_mut(job->out, at, job->dtype), job->dtype);
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

mq_status mq_add_difference(const void *a, const void *b, int64_t n, void *y, mq_dtype dtype)
{
    difference_job job = {.a = a, .b = b, .out = y, .n = n, .dtype = dtype, .add = true};
    return mq_parallel_for(mq_ceil_div(n, TASK), difference_task, &job);
}
