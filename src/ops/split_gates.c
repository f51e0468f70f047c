#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm_impl.h"
#include "ops/kernels.h"
#include "ops/rows.h"

#include <string.h>

/* Where one layer makes queries and their gates head by head: q0 g0 q1 g1 .. -> q0 q1 .. g0 g1 ..,
 * so that what follows finds the queries as any family has them. */
enum { ROWS_PER_TASK = 64 };

typedef struct split_job {
    char *x;
    int64_t n_tok, ld, n_heads, head_dim;
    mq_dtype dtype;
} split_job;

static mq_status split_task(void *context, int64_t i)
{
    const split_job *job = context;
    int64_t end = mq_min_i64((i + 1) * ROWS_PER_TASK, job->n_tok);
    size_t elem = mq_dtype_size(job->dtype), head = (size_t)job->head_dim * elem;
    size_t half = (size_t)job->n_heads * head;
    mq_scratch_plan plan = {0};
    mq_scratch_add(&plan, job->n_heads * job->head_dim, elem);
    char *gates;
    MQ_TRY(mq_scratch_get(&plan, MQ_SLOT_KERNEL, &gates));
    for (int64_t t = i * ROWS_PER_TASK; t < end; t++) {
        char *row = mq_at_mut(job->x, t * job->ld, job->dtype);
        for (int64_t h = 0; h < job->n_heads; h++) {
            char *pair = row + (size_t)h * 2 * head;
            memcpy(gates + (size_t)h * head, pair + head, head);
            if (h > 0) memcpy(row + (size_t)h * head, pair, head); /* its old place is read */
        }
        memcpy(row + half, gates, half);
    }
    return MQ_OK;
}

mq_status mq_split_gates(void *x, int64_t n_tok, int64_t ld, int64_t n_heads, int64_t head_dim,
                         mq_dtype dtype)
{
    split_job job = {
        .x = x, .n_tok = n_tok, .ld = ld, .n_heads = n_heads, .head_dim = head_dim, .dtype = dtype};
    return mq_parallel_for(mq_ceil_div(n_tok, ROWS_PER_TASK), split_task, &job);
}
