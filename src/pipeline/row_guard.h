#ifndef MQ_PIPELINE_ROW_GUARD_H
#define MQ_PIPELINE_ROW_GUARD_H

#include "pipeline/row_work.h"
#include "solve/guard.h"

/* What rounding to nearest would cost each row of a tap, and the promise that no row ends up worse
 * (solve/guard.h). All losses under H alone: without damping and without what dead columns were
 * given. Needs the system's factor. */

typedef struct mq_row_guard {
    mq_guard_block *block;
    float *scales; /* as the search chose them */
} mq_row_guard;

/** Measures rounding to nearest under the scales that the search chose, into the layers'
 *  statistics; e and codes are overwritten. Collective. Errors, the same on every rank: those of
 *  mq_measure_errors. */
mq_status mq_row_guard_create(const mq_run *run, mq_row_work *work, mq_row_guard *guard);

/** After the solver: takes damping and dead columns out of the losses and energies, and gives rows
 *  that rounding costs less their rounding back. Not collective. */
mq_status mq_row_guard_apply(mq_row_work *work, mq_row_guard *guard);

/** Losses and energies of a block that LDLQ has filled, brought from the damped matrix back to H.
 *  Not collective. */
void mq_row_take_out_damping(const mq_tap_system *system, const mq_row_block *block);

void mq_row_guard_free(mq_row_guard *guard);

#endif
