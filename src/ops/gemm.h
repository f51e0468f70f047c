#ifndef MQ_OPS_GEMM_H
#define MQ_OPS_GEMM_H

#include "base/dtype.h"

#include <stdbool.h>

/** One matrix product C (m, n) = A (m, k) . B (k, n), row-major with leading dimensions in
 *  elements. a_trans: A is stored as (k, m); b_trans: B is stored as (n, k).
 *  in = MQ_BF16 or MQ_F32 for A and B; out = MQ_F32, or MQ_BF16 when in is. f32 accumulation. */
typedef struct mq_gemm_shape {
    int64_t m, n, k;
    int64_t lda, ldb, ldc;
    mq_dtype in, out;
    bool a_trans, b_trans;
    bool accumulate; /* C += instead of C =; out must be F32 */
} mq_gemm_shape;

/** The product in the calling thread alone (call it from tasks). By oneDNN, whose primitives are
 *  made once per shape, under one thread, and kept (at most 1024; 70 kB each). By OpenBLAS sgemm
 *  without oneDNN, and for BF16 where the CPU has none, on f32 copies of tiles. Not collective.
 *  Bits: depend on the shape and the instruction set alone. BF16 subnormals may count as 0.
 *  A new shape costs 0.3 ms: callers with ragged sizes pad them to few.
 *  Errors: MQ_E_INTERNAL when the shape makes no sense or a library refuses; MQ_E_MEMORY. */
mq_status mq_gemm(const mq_gemm_shape *shape, const void *a, const void *b, void *c);

enum { MQ_ROW_TILE = 512 }; /* rows of a linear layer's product per task */

/** A linear layer: y (n_tok, n_out) = x (n_tok, n_in) . wT + bias.
 *  w (n_out, n_in) row-major and x have the same dtype; bias (n_out) f32 or NULL; y is of x's
 *  dtype, with leading dimension ldy. Threads over row tiles of MQ_ROW_TILE, and over columns where
 *  rows are few. A row's bits depend on its tile, not on the other rows in it. */
mq_status mq_linear(const void *x, int64_t n_tok, int64_t n_in, const void *w, int64_t n_out,
                    const float *bias, void *y, int64_t ldy, mq_dtype dtype);

/** The same, added to a residual stream: r (n_tok, n_out) += x . wT + bias; the sum is formed in
 *  f32 and rounded to r's dtype (= dtype) once. */
mq_status mq_linear_add(const void *x, int64_t n_tok, int64_t n_in, const void *w, int64_t n_out,
                        const float *bias, void *r, mq_dtype dtype);

/** Entries of X^T X for a panel pair: h (n_i, n_j) f32 = X[:, i0:i0+n_i]^T . X[:, j0:j0+n_j];
 *  x (n_tok, ldx). Serial; the caller's tasks are panel pairs. Tokens past a multiple of 64 are
 *  summed last. */
mq_status mq_gram_panel(const void *x, mq_dtype dtype, int64_t n_tok, int64_t ldx, int64_t i0,
                        int64_t n_i, int64_t j0, int64_t n_j, float *h);

/** The same for two matrices: h (n_i, n_j) f32 = A[:, i0:i0+n_i]^T . B[:, j0:j0+n_j];
 *  a (n_tok, lda) and b (n_tok, ldb) have one dtype. */
mq_status mq_cross_panel(const void *a, int64_t lda, int64_t i0, int64_t n_i, const void *b,
                         int64_t ldb, int64_t j0, int64_t n_j, mq_dtype dtype, int64_t n_tok,
                         float *h);

/** out[j] = sum over tokens of x[t, j]^2 in f64, tokens in order; x (n_tok, n). Threads over
 *  columns. NaN and inf propagate: the caller tests out for finiteness. */
mq_status mq_column_sumsq(const void *x, mq_dtype dtype, int64_t n_tok, int64_t n, double *out);

#endif
