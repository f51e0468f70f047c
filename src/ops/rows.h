#ifndef MQ_OPS_ROWS_H
#define MQ_OPS_ROWS_H

#include "base/dtype.h"

/* Rows of activations to f32 and back, the load and store of every kernel. dtype is MQ_BF16 or
 * MQ_F32. Vectorised; rounding to bf16 is to nearest even, NaN stays NaN. */

void mq_row_load(const void *src, mq_dtype dtype, int64_t n, float *dst);
void mq_row_store(const float *src, int64_t n, void *dst, mq_dtype dtype);

/** dst += add, summed in f32 and rounded once. */
void mq_row_add(void *dst, mq_dtype dtype, const float *add, int64_t n);

/** The largest of n values, NaN set aside; -inf when there is none. */
float mq_row_largest(const float *x, int64_t n);

/** Where element `index` of an array of `dtype` lies. */
static inline const void *mq_at(const void *base, int64_t index, mq_dtype dtype)
{
    return (const char *)base + (size_t)index * (dtype == MQ_BF16 ? 2 : 4);
}

static inline void *mq_at_mut(void *base, int64_t index, mq_dtype dtype)
{
    return (char *)base + (size_t)index * (dtype == MQ_BF16 ? 2 : 4);
}

#endif
