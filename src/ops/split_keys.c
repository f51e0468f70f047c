#include "base/checked.h"
#include "base/parallel.h"
#include "ops/kernels.h"

#include <string.h>

/* From what one layer makes of a latent to the operands of attention: copies only. */
enum { ROWS_PER_TASK = 64 };

/* Sizes in bytes. */
typedef struct split_job {
    char *kv, *k;
    const char *shared;
    int64_t n_tok, n_heads;
    size_t nope, v, rope;
} split_job;

/* Values move to the front, past keys that have been copied. */
static void split_row(const split_job *job, int64_t t)
{
    size_t from = job->nope + job->v, to = job->nope + job->rope, n = (size_t)job->n_heads;
    char *kv = job->kv + (size_t)t * n * from, *k = job->k + (size_t)t * n * to;
    const char *shared = job->shared + (size_t)t * job->rope;
    for (size_t h = 0; h < n; h++) {
        memcpy(k + h * to, kv + h * from, job->nope);
        memcpy(k + h * to + job->nope, shared, job->rope);
        memmove(kv + h * job->v, kv + h * from + job->nope, job->v);
    }
}

static mq_status split_task(void *context, int64_t i)
{
    const split_job *job = context;
    int64_t end = mq_min_i64((i + 1) * ROWS_PER_TASK, job->n_tok);
    for (int64_t t = i * ROWS_PER_TASK; t < end; t++) split_row(job, t);
    return MQ_OK;
}

mq_status mq_split_keys(void *kv, int64_t n_tok, int64_t n_heads, int64_t nope, int64_t v,
                        const void *shared, int64_t rope, void *k, mq_dtype dtype)
{
    size_t size = mq_dtype_size(dtype);
    split_job job = {.kv = kv,
                     .k = k,
                     .shared = shared,
                     .n_tok = n_tok,
                     .n_heads = n_heads,
                     .nope = (size_t)nope * size,
                     .v = (size_t)v * size,
                     .rope = (size_t)rope * size};
    return mq_parallel_for(mq_ceil_div(n_tok, ROWS_PER_TASK), split_task, &job);
}
