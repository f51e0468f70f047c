#ifndef MQ_BASE_CLONES_H
#define MQ_BASE_CLONES_H

#include <stdint.h> /* says __GLIBC__ */

/* MQ_CLONES in front of a function compiles it for several instruction sets; the loader picks one.
 * All clones do the same operations in the same order: no contraction (-ffp-contract=off), so that
 * every one gives the same bits. Clones are static, behind plain functions, for clang 14 exports
 * none; and vec_* with a name of their own in all of src, for its choosers are global.
 * -DMQ_NO_CLONES compiles the plain version only. Sanitizers come up after the loader runs the
 * choice, so they get the plain version too. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MQ_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define MQ_SANITIZED
#endif
#endif
#if !defined(MQ_NO_CLONES) && !defined(MQ_SANITIZED) && defined(__x86_64__) && \
    defined(__GLIBC__) &&                                                      \
    ((defined(__clang__) && __clang_major__ >= 14) || (!defined(__clang__) && defined(__GNUC__)))
#define MQ_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MQ_CLONES
#endif

#endif
