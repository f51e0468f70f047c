#include "pipeline/activations.h"

#include "base/checked.h"
#include "base/memory.h"

mq_status mq_activations_create(const mq_calib *calib, int64_t width, mq_dtype dtype,
                                const char *purpose, mq_activations *out)
{
    int64_t count = 0;
    MQ_TRY(mq_mul_i64(calib->n_local_tokens, width, &count));
    out->width = width;
    out->dtype = dtype;
    return mq_alloc(count, mq_dtype_size(dtype), purpose, &out->rows);
}

void mq_activations_free(mq_activations *a)
{
    mq_free(&a->rows);
}

void *mq_activations_unit(const mq_activations *a, const mq_calib *calib, int64_t i)
{
    if (!a->rows) return NULL;
    size_t row_bytes = (size_t)a->width * mq_dtype_size(a->dtype);
    return a->rows + (size_t)calib->unit[i].token_begin * row_bytes;
}
