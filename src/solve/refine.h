#ifndef MQ_SOLVE_REFINE_H
#define MQ_SOLVE_REFINE_H

#include "solve/solve.h"

/* What can still be gained after LDLQ, with all of H at hand (algorithms.md 3): codes changed one
 * at a time under frozen scales, and scales refitted to frozen codes, group by group. It is
 * Gauss-Seidel on the row loss e H e^T, left-looking like LDLQ: for a panel of 128 columns one
 * product
 *     G = E . H[:, panel]   (128 x 128 a block, from the errors as they are by then)
 * and then a sequential part inside the panel. So a sweep costs n_rows * n^2 * 2 flops and no
 * storage for G; nothing drifts, since G is never carried from panel to panel
 * (and, for groups that began before the panel, as much again for the product of their codes).
 * mq_refine is the loop over sweeps: save, sweeps, measure, keep what is better. Another LDLQ pass
 * under the refitted scales gains less than more sweeps, which cost less (docs/accuracy.md). */

/** Gives rows [k0, k1) of the symmetric matrix, (k1 - k0, n) f32, in ORIGINAL order. Valid until
 *  the next call. Whether damping is on its diagonal is the caller's choice: it decides which loss
 *  falls. A column of zeros (a dead input) is left as it is. Asked for every panel once per sweep,
 *  ascending, also when there are no blocks: it may be collective. */
typedef mq_status (*mq_rows_source)(void *context, int64_t k0, int64_t k1, const float **h);

/** A row block that mq_ldlq (or mq_round_nearest) has filled, and the storage of its refinement.
 *  The functions below but mq_refine expect its w and e in ORIGINAL order. */
typedef struct mq_refine_block {
    mq_row_block *block; /* codes, e and loss are kept up to date by every function here */
    float *scales;       /* (128, G) what block->scales points to, to be written */
    uint8_t *best_codes; /* (128, n) storage of mq_refine_save */
    float *best_scales;  /* (128, G) likewise */
    double best_loss[MQ_ROW_BLOCK];
    double slope[MQ_ROW_BLOCK], curve[MQ_ROW_BLOCK]; /* of the group that the sweep is in */
} mq_refine_block;

/** Sets loss to e H e^T of the source's matrix, products in f32, their sum in f64, and error2. Half
 *  a sweep. Errors as mq_ldlq: after a failure of this rank's own work it goes on asking for
 *  panels; a failure of the source is returned at once.
 *  Same result for any rank and thread count: bitwise. */
mq_status mq_measure_loss(mq_refine_block *blocks, int64_t n_blocks, int64_t n, mq_rows_source rows,
                          void *context);

/** One sweep over the columns in original order, in which groups are contiguous. The codes of a
 *  group go one after another to the minimum of the row loss along their coordinate,
 *      q_j + G_j / (H_jj s),   rounded and clamped
 *  (almost always itself or a neighbour), where that lowers the loss; then its scale, the codes z =
 *  code - zero frozen:
 *      s_g += (G_g . z_g) / (z_g H_gg z_g^T)
 *  rounded to quant.grid, taken where the rounded step lowers the row loss; signs stay, no scale
 *  becomes 0. A group may be any part of a panel or many panels. Rows with a metric get their codes
 *  from coordinate descent on tr(A E H E^T), and keep their scales. loss changes by what the steps
 *  promise: measure for the exact value. Errors and bits as mq_measure_loss.
 *  Source: algorithms.md 3; arXiv 2602.02126. */
mq_status mq_refine_sweep(mq_refine_block *blocks, int64_t n_blocks, int64_t n, mq_rows_source rows,
                          void *context);

/** Keeps codes, scales and loss of all rows in the blocks' storage. Not collective. */
mq_status mq_refine_save(mq_refine_block *blocks, int64_t n_blocks, int64_t n);

/** Rows whose loss is not below the saved one (a NaN is not) get back what was saved. */
mq_status mq_refine_keep_better(mq_refine_block *blocks, int64_t n_blocks, int64_t n);

/** `rounds` sweeps, of which the rows that they made better are kept: no row's loss under the
 *  source's matrix rises. Rows with a metric are kept as the sweeps leave them. w and e come and go
 *  in the processing order `order` (n), and losses are those under the source's matrix on entry
 *  too. Cost: rounds + 1/2 sweeps; none without rounds. Errors and bits as above. */
mq_status mq_refine(mq_refine_block *blocks, int64_t n_blocks, int64_t n, const int64_t *order,
                    int rounds, mq_rows_source rows, void *context);

#endif
