#ifndef MQ_SOLVE_QUADRATIC_H
#define MQ_SOLVE_QUADRATIC_H

#include "solve/solve.h"

/** Row i of a symmetric matrix, columns [j0, j1), f64. */
typedef void (*mq_entry_source)(void *context, int64_t i, int64_t j0, int64_t j1, double *out);

/** loss[r] = x_r H x_r^T of a block of rows, for an H that has no factor.
 *  @param[in]  x       (MQ_ROW_BLOCK, n)
 *  @param[in]  source  rows of H in the order of x's columns; asked for entries j >= i only, by
 *                      several threads at once
 *  @param[in]  unit    a typical diagonal entry; H is divided by it, so that nothing leaves f32
 *  @param[out] loss    (MQ_ROW_BLOCK)
 *  Not collective. Threads over rows of H. Errors: MQ_E_MEMORY.
 *  Cost: MQ_ROW_BLOCK * n^2 flops, n (n + 1) / 2 entries. Accuracy: f32 products, f64 sums.
 *  Same result for any thread count: bitwise. */
mq_status mq_quadratic_rows(const float *x, int64_t n, double unit, mq_entry_source source,
                            void *context, double *loss);

#endif
