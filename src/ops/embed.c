#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm_impl.h"
#include "ops/kernels.h"
#include "ops/rows.h"

#include <inttypes.h>

enum { ROWS_PER_TASK = 64 };

typedef struct embed_job {
    const void *table;
    mq_dtype table_dtype;
    int64_t d;
    const int32_t *token;
    int64_t n_tok;
    float multiplier;
    void *x;
    mq_dtype dtype;
} embed_job;

static mq_status embed_task(void *context, int64_t i)
{
    const embed_job *job = context;
    int64_t end = mq_min_i64((i + 1) * ROWS_PER_TASK, job->n_tok);
    size_t elem = mq_dtype_size(job->table_dtype);
    mq_scratch_plan plan = {0};
    mq_scratch_add(&plan, job->d, sizeof(float));
    char *base;
    MQ_TRY(mq_scratch_get(&plan, MQ_SLOT_KERNEL, &base));
    float *row = (float *)(void *)base;
    for (int64_t t = i * ROWS_PER_TASK; t < end; t++) {
        const char *from = (const char *)job->table + (size_t)(job->token[t] * job->d) * elem;
        MQ_TRY(mq_to_f32(from, job->table_dtype, job->d, row));
        for (int64_t j = 0; j < job->d; j++) row[j] *= job->multiplier;
        mq_row_store(row, job->d, mq_at_mut(job->x, t * job->d, job->dtype), job->dtype);
    }
    return MQ_OK;
}

mq_status mq_embed(const void *table, mq_dtype table_dtype, int64_t vocab, int64_t d,
                   const int32_t *token, int64_t n_tok, double multiplier, void *x, mq_dtype dtype)
{
    for (int64_t t = 0; t < n_tok; t++) {
        if (token[t] < 0 || token[t] >= vocab) {
            return mq_fail(MQ_E_INPUT,
                           "token %" PRId32 " at position %" PRId64
                           " is outside the vocabulary of %" PRId64
                           ": was the token file made with this model's tokenizer?",
                           token[t], t, vocab);
        }
    }
    embed_job job = {.table = table,
                     .table_dtype = table_dtype,
                     .d = d,
                     .token = token,
                     .n_tok = n_tok,
                     .multiplier = (float)multiplier,
                     .x = x,
                     .dtype = dtype};
    return mq_parallel_for(mq_ceil_div(n_tok, ROWS_PER_TASK), embed_task, &job);
}
