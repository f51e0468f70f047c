#ifndef MQ_OPS_VECTOR_H
#define MQ_OPS_VECTOR_H

#include "base/clones.h"

#include <stdint.h>
#include <string.h>

/* What makes loops run on wide vectors, the same bits at every width: MQ_CLONES (base/clones.h),
 * and sums in the fixed lanes of mq_vec, which the compiler splits where registers are narrower.
 * The golden sums of the tests hold with and without clones. */

#define MQ_INLINE static inline __attribute__((always_inline))

/** 16 f32 lanes: sums of rows run in them, lane l over elements l, l + 16, ... */
enum { MQ_LANES = 16 };
typedef float mq_vec __attribute__((vector_size(64)));

/** 16 floats of memory at any alignment. */
#define MQ_VEC_LOAD(v, p) memcpy(&(v), (p), sizeof(mq_vec))

/** exp(x) within one unit in the last place (measured over all floats), subnormal results
 *  included; 0, inf and NaN where they must be. Branch-free, so that loops vectorise. */
MQ_INLINE float mq_expf(float x)
{
    const float magic = 0x1.8p23f; /* adding it leaves the nearest integer in the low bits */
    union {
        float f;
        uint32_t u;
    } n, lo, hi;
    /* Beyond these the result is 0 or inf anyway; NaN fails both comparisons and stays. */
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    n.f = x * 0x1.715476p0f + magic; /* x / ln 2 */
    float k = n.f - magic;
    float r = x - k * 0x1.62e4p-1f; /* ln 2 in two parts; k times the first is exact */
    r = r - k * 0x1.7f7d1cp-20f;
    /* (exp(r) - 1 - r) / r^2 on |r| <= ln 2 / 2, minimax by the Remez exchange */
    float p = 0x1.6a2442p-10f;
    p = p * r + 0x1.1239f0p-7f;
    p = p * r + 0x1.5558f2p-5f;
    p = p * r + 0x1.555492p-3f;
    p = p * r + 0x1.fffffcp-2f;
    p = p * (r * r) + r + 1.0f;
    /* 2^k in two normal factors, so that overflow and underflow round once, at the end. */
    int32_t ki = (int32_t)(n.u - 0x4B400000u), half = ki >> 1;
    lo.u = (uint32_t)(half + 127) << 23;
    hi.u = (uint32_t)(ki - half + 127) << 23;
    return p * lo.f * hi.f;
}

/** 1 / (1 + exp(-x)). */
MQ_INLINE float mq_sigmoidf(float x)
{
    return 1.0f / (1.0f + mq_expf(-x));
}

/** tanh(x) to a relative 3e-7: a quotient, and a power series where that would cancel. */
MQ_INLINE float mq_tanhf(float x)
{
    float z = x < 0 ? -x : x, e = mq_expf(-2.0f * z), z2 = x * x;
    float far = (1.0f - e) / (1.0f + e);
    float p = -1382.0f / 155925.0f;
    p = p * z2 + 62.0f / 2835.0f;
    p = p * z2 - 17.0f / 315.0f;
    p = p * z2 + 2.0f / 15.0f;
    p = p * z2 - 1.0f / 3.0f;
    p = p * (x * z2) + x;
    far = x < 0 ? -far : far;
    return z < 0.3f ? p : far;
}

/** The probability that a normal variable is below x: (1 + erf(x / sqrt 2)) / 2, to a relative
 *  1e-6 where it is above 1e-6, and to 1e-5 in the tail. */
MQ_INLINE float mq_normal_cdf(float x)
{
    float z = x < 0 ? -x : x;
    z = z * 0x1.6a09e6p-1f; /* |x| / sqrt 2 */
    /* erfc(z) exp(z^2) / t in t = 1 / (1 + z / 2), minimax by the Remez exchange */
    float t = 1.0f / (1.0f + 0.5f * z);
    float p = -0x1.e48cbep-5f;
    p = p * t + 0x1.23ce62p-2f;
    p = p * t + -0x1.f3b9cep-2f;
    p = p * t + 0x1.1db23ap-2f;
    p = p * t + -0x1.becb2ap-6f;
    p = p * t + 0x1.9fa9aap-3f;
    p = p * t + 0x1.f1bc0ap-3f;
    p = p * t + 0x1.212980p-2f;
    p = p * t + 0x1.20db1ep-2f;
    float tail = 0.5f * p * t * mq_expf(-0.5f * x * x);
    return x < 0 ? tail : 1.0f - tail;
}

#endif
