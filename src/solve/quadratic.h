#ifndef MQ_SOLVE_QUADRATIC_H
#define MQ_SOLVE_QUADRATIC_H

#include "linalg/entries.h"
#include "solve/solve.h"

/** loss[r] = x_r H x_r^T of blocks of rows, for an H that has no factor; H is walked once.
 *  @param[in]  x       (n_blocks) of (MQ_ROW_BLOCK, n)
 *  @param[in]  source  H in the order of x's columns; asked for 128 rows at a time, up to
 *                      their last column
 *  @param[in]  unit    a typical diagonal entry; H is divided by it, so that nothing leaves f32
 *  @param[out] loss    (n_blocks, MQ_ROW_BLOCK)
 *  Not collective. Errors: MQ_E_MEMORY, the source's.
 *  Cost: n_blocks * MQ_ROW_BLOCK * n^2 flops, n (n + 1) / 2 entries. Accuracy: f32 products, f64
 * sums. Same result for any thread count: bitwise. */
mq_status mq_quadratic_rows(const float *const *x, int64_t n_blocks, int64_t n, double unit,
                            mq_entry_source source, void *context, double *loss);

#endif
