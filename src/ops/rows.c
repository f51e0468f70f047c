#include "ops/rows.h"

#include "ops/vector.h"

#include <math.h>

static MQ_CLONES void vec_load_bf16(const uint16_t *restrict src, int64_t n, float *restrict dst)
{
    for (int64_t i = 0; i < n; i++) dst[i] = mq_bf16_to_f32(src[i]);
}

static MQ_CLONES void vec_store_bf16(const float *restrict src, int64_t n, uint16_t *restrict dst)
{
    for (int64_t i = 0; i < n; i++) dst[i] = mq_f32_to_bf16(src[i]);
}

static MQ_CLONES void vec_add_bf16(uint16_t *restrict dst, const float *restrict add, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = mq_f32_to_bf16(mq_bf16_to_f32(dst[i]) + add[i]);
}

static MQ_CLONES void vec_add_f32(float *restrict dst, const float *restrict add, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] += add[i];
}

enum { WIDE = 4 * MQ_LANES }; /* independent lanes hide the latency of a comparison */

static MQ_CLONES float vec_largest(const float *x, int64_t n)
{
    float lane[WIDE], top = -INFINITY;
    for (int l = 0; l < WIDE; l++) lane[l] = -INFINITY;
    int64_t j = 0;
    for (; j + WIDE <= n; j += WIDE) {
        for (int l = 0; l < WIDE; l++) lane[l] = x[j + l] > lane[l] ? x[j + l] : lane[l];
    }
    for (; j < n; j++) top = x[j] > top ? x[j] : top;
    for (int l = 0; l < WIDE; l++) top = lane[l] > top ? lane[l] : top;
    return top;
}

void mq_row_load(const void *src, mq_dtype dtype, int64_t n, float *dst)
{
    if (dtype == MQ_BF16) {
        vec_load_bf16(src, n, dst);
    } else {
        memcpy(dst, src, (size_t)n * sizeof *dst);
    }
}

void mq_row_store(const float *src, int64_t n, void *dst, mq_dtype dtype)
{
    if (dtype == MQ_BF16) {
        vec_store_bf16(src, n, dst);
    } else {
        memcpy(dst, src, (size_t)n * sizeof *src);
    }
}

void mq_row_add(void *dst, mq_dtype dtype, const float *add, int64_t n)
{
    if (dtype == MQ_BF16) {
        vec_add_bf16(dst, add, n);
    } else {
        vec_add_f32(dst, add, n);
    }
}

float mq_row_largest(const float *x, int64_t n)
{
    return vec_largest(x, n);
}
