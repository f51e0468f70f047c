#ifndef MQ_OPS_NAIVE_H
#define MQ_OPS_NAIVE_H

#include "ops/gemm.h"
#include "ops/kernels.h"

/* The plain version of each kernel, one loop per index, f64 inside: the reference that tests
 * compare with. Same arguments as the fast ones. Only the two kinds of
 * attention need memory of their own. */

void mq_naive_gemm(const mq_gemm_shape *shape, const void *a, const void *b, void *c);
void mq_naive_norm(mq_norm_kind kind, const void *x, int64_t n_tok, int64_t d, const float *w,
                   const float *bias, double eps, void *y, mq_dtype dtype);
void mq_naive_split_gates(const void *x, int64_t n_tok, int64_t ld, int64_t n_heads,
                          int64_t head_dim, void *y, mq_dtype dtype); /* y (n_tok, ld) */
void mq_naive_rope(void *x, int64_t n_tok, int64_t ld, int64_t n_heads, int64_t head_dim,
                   int64_t dim, const float *cos_sin, const int32_t *position, bool interleaved,
                   mq_dtype dtype);
mq_status mq_naive_attention(const mq_attention_shape *shape, const void *q, const void *k,
                             const void *v, const int64_t *sample_offset, int64_t n_samples,
                             void *out, mq_dtype dtype);
mq_status mq_naive_delta(const mq_delta_shape *shape, const void *x, const float *b, const float *a,
                         const int64_t *sample_offset, int64_t n_samples, void *out,
                         mq_dtype dtype);
void mq_naive_gated(mq_activation activation, const void *gate, int64_t ld_gate, const void *up,
                    int64_t ld_up, int64_t n_tok, int64_t d, void *y, mq_dtype dtype);

#endif
