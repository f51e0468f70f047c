#ifndef MQ_SOLVE_SWEEP_H
#define MQ_SOLVE_SWEEP_H

#include "solve/refine.h"

#include "base/parallel.h"

/* Private to the solver: what the sweeps of refine.h share. */

/** A sweep over the panels of H, and the panel it is in. */
typedef struct mq_sweep {
    mq_refine_block *blocks;
    int64_t n_blocks, n;
    const float *h;   /* (size, n) rows of H */
    int64_t k0, size; /* the panel's columns */
} mq_sweep;

/** Asks for the panels one after another and runs task(sweep, block) for all blocks in each.
 *  `status` is that of the work before the sweep: when it is a failure the panels are asked for all
 *  the same, and it comes back at the end. */
mq_status mq_sweep_panels(mq_sweep *sweep, mq_status status, mq_rows_source rows, void *context,
                          mq_task task);

/** MQ_OK when every block's quant fits the columns. */
mq_status mq_sweep_check(const mq_sweep *sweep);

/** g (128, size) = e[:, j0:j1] . H[j0:j1, panel] for e (128, n). */
mq_status mq_sweep_product(const mq_sweep *sweep, const float *e, int64_t j0, int64_t j1, float *g);

/** The same over all columns. */
mq_status mq_sweep_gradient(const mq_sweep *sweep, const float *e, float *g);

/** The current panel's coordinate descent for a block with a metric. */
mq_status mq_descend_coupled(const mq_sweep *sweep, mq_refine_block *block);

#endif
