#ifndef MQ_SOLVE_GRID_H
#define MQ_SOLVE_GRID_H

#include "solve/solve.h"

/* Private to the solver: the numbers a scale may be, and what a mq_quant may hold. */

/** The smallest positive scale that group g may have: the smallest half for F16, short or not
 *  (subnormals included: GPU kernels keep them in half precision), the smallest normal number for
 *  BF16 and F32 (kernels flush those). */
float mq_smallest_scale(const mq_quant *quant, int64_t g);

/** x > 0 to the nearest scale that group g may have, never 0 and never inf. */
float mq_round_scale(const mq_quant *quant, int64_t g, float x);

/** MQ_E_INTERNAL when bits, grid or group make no sense for rows of n columns. */
mq_status mq_check_quant(const mq_quant *quant, int64_t n);

/** The zero point of a row's group; n_groups: of a row. */
static inline int mq_zero_at(const mq_row_block *block, int64_t n_groups, int64_t row, int64_t g)
{
    return block->zeros ? block->zeros[row * n_groups + g] : 1 << (block->quant.bits - 1);
}

/** MQ_E_INTERNAL when zero points are wanted and `zeros` is NULL. */
mq_status mq_check_zeros(const mq_quant *quant, const uint8_t *zeros);

#endif
