#ifndef MQ_SOLVE_SIMD_H
#define MQ_SOLVE_SIMD_H

/* MQ_SIMD in front of a kernel builds it for several instruction sets and picks one when the
 * program starts. The kernels are loops over rows that never mix lanes, and nothing is contracted
 * to fma, so every variant gives the same bits. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__SANITIZE_THREAD__)
#define MQ_SIMD __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MQ_SIMD
#endif

/** x to the nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no fraction
 *  bits. Without SSE4.1 this is the only form that compilers vectorise. */
static inline float mq_round_even(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

/** x between low and high; low for a NaN, so that a code made of it is defined. */
static inline float mq_clamp(float x, float low, float high)
{
    float y = x > low ? x : low;
    return y < high ? y : high;
}

#endif
