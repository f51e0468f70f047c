#ifndef TEST_OPS_UTIL_H
#define TEST_OPS_UTIL_H

/* Shared by the tests of src/ops. */

#include "base/dtype.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** Uniform in [-1, 1), a function of seed and i alone. */
static inline float test_value(uint64_t seed, int64_t i)
{
    uint64_t z =
        (seed + 1) * UINT64_C(0x9E3779B97F4A7C15) + (uint64_t)i * UINT64_C(0xD1B54A32D192ED03);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    z ^= z >> 31;
    return (float)((double)(z >> 40) * 0x1p-23 - 1.0);
}

static inline float test_get(const void *x, int64_t i, mq_dtype dtype)
{
    if (dtype == MQ_BF16) return mq_bf16_to_f32(((const uint16_t *)x)[i]);
    return ((const float *)x)[i];
}

static inline void test_set(void *x, int64_t i, float v, mq_dtype dtype)
{
    if (dtype == MQ_BF16) {
        ((uint16_t *)x)[i] = mq_f32_to_bf16(v);
    } else {
        ((float *)x)[i] = v;
    }
}

/** n values of `dtype` in exactly sized memory, so that ASan sees an access past the end. */
static inline void *test_array(uint64_t seed, int64_t n, double scale, mq_dtype dtype)
{
    void *x = malloc((size_t)n * mq_dtype_size(dtype) + (n == 0));
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        test_set(x, i, (float)(scale * (double)test_value(seed, i)), dtype);
    return x;
}

static inline void *test_copy(const void *x, int64_t n, mq_dtype dtype)
{
    size_t bytes = (size_t)n * mq_dtype_size(dtype);
    void *y = malloc(bytes + (bytes == 0));
    assert_non_null(y);
    memcpy(y, x, bytes);
    return y;
}

/** The same values in f32, for a reference without rounding. */
static inline float *test_exact(const void *x, int64_t n, mq_dtype dtype)
{
    float *y = malloc((size_t)n * sizeof *y + (n == 0));
    assert_non_null(y);
    for (int64_t i = 0; i < n; i++) y[i] = test_get(x, i, dtype);
    return y;
}

/** Fails unless |got - want| <= absolute + relative |want|; NaN equals NaN, inf equals inf. */
static inline void test_near(double got, double want, double absolute, double relative,
                             const char *what, int64_t i)
{
    if (isnan(got) && isnan(want)) return;
    if (got == want) return;
    if (fabs(got - want) <= absolute + relative * fabs(want)) return;
    fail_msg("%s at %lld: got %.9g, want %.9g", what, (long long)i, got, want);
}

/** n values of dtype against f32. */
static inline void test_all_near(const void *got, mq_dtype dtype, const float *want, int64_t n,
                                 double absolute, double relative, const char *what)
{
    for (int64_t i = 0; i < n; i++) {
        test_near((double)test_get(got, i, dtype), (double)want[i], absolute, relative, what, i);
    }
}

/** Rounding to bf16 once: half of the last of 8 bits. */
#define TEST_BF16 0x1p-8

#endif
