#ifndef MQ_OPS_VECTOR_H
#define MQ_OPS_VECTOR_H

#include <stdint.h>
#include <string.h>

/* What makes loops run on wide vectors, the same bits at every width.
 *
 * MQ_CLONES in front of a function compiles it for several instruction sets; the loader picks one.
 * All clones do the same operations in the same order: no contraction (-ffp-contract=off), and
 * sums in the fixed lanes of mq_vec, which the compiler splits where registers are narrower.
 * -DMQ_NO_CLONES compiles the plain version only; the golden sums of the tests hold for both.
 * Sanitizers come up after the loader runs the choice, so they get the plain version too. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MQ_NO_CLONES
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define MQ_NO_CLONES
#endif
#endif
#if !defined(MQ_NO_CLONES) && defined(__x86_64__) && defined(__GLIBC__) && \
    ((defined(__clang__) && __clang_major__ >= 14) || (!defined(__clang__) && defined(__GNUC__)))
#define MQ_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MQ_CLONES
#endif

#define MQ_INLINE static inline __attribute__((always_inline))

/** 16 f32 lanes: sums and maxima of rows run in them, lane l over elements l, l + 16, ... */
enum { MQ_LANES = 16 };
typedef float mq_vec __attribute__((vector_size(64)));
typedef int32_t mq_vec_i __attribute__((vector_size(64)));

/** 16 floats of memory at any alignment. */
#define MQ_VEC_LOAD(v, p) memcpy(&(v), (p), sizeof(mq_vec))

/* exp(x) within 1 ulp or so for normal results (measured over all floats: tests), 0 and inf where
 * it must be, NaN for NaN. Branch-free. */
MQ_INLINE float mq_expf(float x)
{
    const float magic = 0x1.8p23f; /* adding it rounds to an integer in the low bits */
    union {
        float f;
        uint32_t u;
    } n, lo, hi;
    /* Beyond these the result is 0 or inf anyway; NaN fails both comparisons and stays. */
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    n.f = x * 0x1.715476p0f + magic;
    float k = n.f - magic;
    float r = x - k * 0x1.62e4p-1f;
    r = r - k * 0x1.7f7d1cp-20f;
    float p = 0x1.6850e4p-10f;
    p = p * r + 0x1.123bccp-7f;
    p = p * r + 0x1.555b98p-5f;
    p = p * r + 0x1.55548ep-3f;
    p = p * r + 0x1.fffff8p-2f;
    p = p * r * r + r + 1.0f;
    /* 2^k in two factors, each normal, so that overflow and underflow round once, at the end. */
    int32_t ki = (int32_t)(n.u - 0x4B400000u);
    int32_t half = ki >> 1;
    lo.u = (uint32_t)(half + 127) << 23;
    hi.u = (uint32_t)(ki - half + 127) << 23;
    return p * lo.f * hi.f;
}

#endif
