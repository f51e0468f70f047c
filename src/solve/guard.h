#ifndef MQ_SOLVE_GUARD_H
#define MQ_SOLVE_GUARD_H

#include "solve/solve.h"

/* No row worse than rounding to nearest. LDLQ is better on nearly every row, but nothing in it
 * promises so, nor in a refinement that lowers the damped loss: so both are measured and the better
 * one stays.
 *     mq_round_nearest, mq_measure_errors      what rounding costs; keep losses and scales
 *     mq_ldlq, mq_refine ...
 *     mq_keep_nearest                          rows that it costs less get it back */

/** Sets loss to e (H + lambda I) e^T = |e M diag(R)|^2 of the errors that the blocks hold, from the
 *  factor that LDLQ uses. Asks for every panel once, ascending; failures and bits as in mq_ldlq.
 *  Cost: n_rows * n^2 flops. */
mq_status mq_measure_errors(mq_row_block *blocks, int64_t n_blocks, int64_t n,
                            const double *r_diagonal, mq_panel_source panel, void *context);

/** A solved row block beside what rounding to nearest would have cost. */
typedef struct mq_guard_block {
    mq_row_block *block;        /* codes, e, loss and error2 are kept up to date */
    float *scales;              /* (128, G) what block->scales points to, to be written */
    const float *first_scales;  /* (128, G) the scales that the rounding had */
    const double *nearest_loss; /* (128) its losses, in the sense of block->loss */
    double *nearest;            /* (128) filled: 1 for a row that got its rounding back, else 0 */
} mq_guard_block;

/** Gives the rows for which nearest_loss is below loss, or loss is NaN, their rounding back. Rows
 * that share a metric stand or fall together, by the sum of their losses. order (n): processing
 * order. Threads over blocks; not collective. Errors: MQ_E_INTERNAL as mq_ldlq. */
mq_status mq_keep_nearest(mq_guard_block *blocks, int64_t n_blocks, int64_t n,
                          const int64_t *order);

#endif
