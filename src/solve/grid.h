#ifndef MQ_SOLVE_GRID_H
#define MQ_SOLVE_GRID_H

#include "solve/solve.h"

/* Private to the solver: the numbers a scale may be, and what a mq_quant may hold. */

/** The smallest positive scale: the smallest half for F16 (subnormals included: GPU kernels keep
 *  them in half precision), the smallest normal number for BF16 and F32 (kernels flush those). */
float mq_smallest_scale(mq_scale_grid grid);

/** x > 0 to the nearest scale of the grid, never 0 and never inf. */
float mq_round_scale(mq_scale_grid grid, float x);

/** MQ_E_INTERNAL when bits, grid or group make no sense for rows of n columns. */
mq_status mq_check_quant(const mq_quant *quant, int64_t n);

#endif
