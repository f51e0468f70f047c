#include "ops/rows.h"

#include "ops/vector.h"

/* The cloned functions are static, behind plain ones: clang 14 exports no symbol for a clone. */

static MQ_CLONES void load_bf16(const uint16_t *restrict src, int64_t n, float *restrict dst)
{
    for (int64_t i = 0; i < n; i++) dst[i] = mq_bf16_to_f32(src[i]);
}

static MQ_CLONES void store_bf16(const float *restrict src, int64_t n, uint16_t *restrict dst)
{
    for (int64_t i = 0; i < n; i++) dst[i] = mq_f32_to_bf16(src[i]);
}

static MQ_CLONES void add_bf16(uint16_t *restrict dst, const float *restrict add, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = mq_f32_to_bf16(mq_bf16_to_f32(dst[i]) + add[i]);
}

static MQ_CLONES void add_f32(float *restrict dst, const float *restrict add, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] += add[i];
}

void mq_row_load(const void *src, mq_dtype dtype, int64_t n, float *dst)
{
    if (dtype == MQ_BF16) {
        load_bf16(src, n, dst);
    } else {
        memcpy(dst, src, (size_t)n * sizeof *dst);
    }
}

void mq_row_store(const float *src, int64_t n, void *dst, mq_dtype dtype)
{
    if (dtype == MQ_BF16) {
        store_bf16(src, n, dst);
    } else {
        memcpy(dst, src, (size_t)n * sizeof *src);
    }
}

void mq_row_add(void *dst, mq_dtype dtype, const float *add, int64_t n)
{
    if (dtype == MQ_BF16) {
        add_bf16(dst, add, n);
    } else {
        add_f32(dst, add, n);
    }
}
