#ifndef MQ_PIPELINE_COLUMN_SCALES_H
#define MQ_PIPELINE_COLUMN_SCALES_H

#include "pipeline/tap_system.h"
#include "plan/scaled_norm.h"

/* Powers of two that the columns of a tap's layers are scaled by (solve/columns.h). The layers are
 * solved and packed so; the norm before them takes the powers in turn. */

/** w2 (n): the sums of squares of every column over the rows of all layers in run->result, of the
 *  weights in the quantised stream. Collective. The same for any number of ranks: bitwise. */
mq_status mq_column_energies(const mq_run *run, double *w2);

/** scale (n) for the layers in run->result under a factored system, from w2, which is overwritten.
 *  1 where the weight of the norm could not take it exactly. Not collective. */
void mq_choose_column_scales(const mq_run *run, mq_tap_id tap, const mq_tap_system *system,
                             double *w2, float *scale);

/** Chooses scales for run->result, and scales it and the system. Collective. */
mq_status mq_scale_columns(mq_run *run, mq_tap_id tap, mq_tap_system *system);

/** Writes the norm that mq_scaled_norm finds, with the scales of run->result where the tap was
 *  scaled; nothing where there is none, or where the scales went back into the layers. Collective.
 */
mq_status mq_run_write_norm(mq_run *run, int64_t block, mq_tap_id tap);

#endif
