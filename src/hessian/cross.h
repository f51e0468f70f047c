#ifndef MQ_HESSIAN_CROSS_H
#define MQ_HESSIAN_CROSS_H

#include "base/dtype.h"
#include "par/comm.h"

#include <stdbool.h>

/* C = sum over all calibration tokens of a x^T: what asymmetric calibration needs beside the
 * Hessian (algorithms.md 4), with a how far a unit's activations or outputs are from the original
 * model's. f64, row-major, every rank the whole; the sum is order-free (par/ordered_sum.h):
 * |C_ij| of a unit is bounded by the sums of squares of column i of a and column j of x. */

typedef struct mq_cross {
    int64_t m, n;
    double *sum;          /* (m, n) */
    int *row_exponent;    /* (m) of the grid */
    int *column_exponent; /* (n) */
    bool has_grid;
    bool is_zero; /* all bounds of a are 0: nothing to add */
} mq_cross;

/** Bytes of the sum, checked. Errors: MQ_E_INPUT when they do not fit 64 bits. */
mq_status mq_cross_bytes(int64_t m, int64_t n, size_t *bytes);

/** C = 0. Not collective. Errors: MQ_E_MEMORY, MQ_E_INPUT. Destroy takes NULL. */
mq_status mq_cross_create(int64_t m, int64_t n, mq_cross **out);
void mq_cross_destroy(mq_cross **cross);

/** Fixes the grid: largest[i] (m) is the largest sum of squares of column i of a over any one of
 *  this rank's units; x_exponent (n) the grid of the Hessian of x, of the same units. Collective.
 *  Errors: as mq_hessian_set_grid. */
mq_status mq_cross_set_grid(mq_cross *cross, const mq_comm *comm, const double *largest,
                            const int *x_exponent, int64_t n_units);

/** Adds one unit: a (n_tok, m), x (n_tok, n), both BF16 or F32. Products per unit in f32 panels of
 *  512 x 512 (128 wide with fewer than 128 rows), rounded to the grid and added in f64. Threads
 * over panels. Not collective. Errors: MQ_E_INTERNAL before set_grid, those of mq_gemm,
 * MQ_E_MEMORY. */
mq_status mq_cross_add(mq_cross *cross, const void *a, const void *x, mq_dtype dtype,
                       int64_t n_tok);

/** Sums over ranks, in place, chunked. Collective. Bytes sent: m n 8 per rank, none when is_zero.
 *  Same result for any rank count: bitwise. */
mq_status mq_cross_reduce(mq_cross *cross, const mq_comm *comm);

#endif
