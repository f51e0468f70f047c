#ifndef MQ_PIPELINE_SAMPLES_H
#define MQ_PIPELINE_SAMPLES_H

#include "pipeline/run.h"

/* Samples whose activations spoil every sum that they enter: NaN, inf, or values whose squares f32
 * products cannot hold. One inf in one token makes a row and a column of H infinite, which no
 * damping mends (algorithms.md 5); so samples are judged before anything is summed. */

/** largest (width of the tap), zero on entry: the column bounds of the quantised stream's tap, as
 *  mq_activations_bounds gives them, finite and small enough for mq_hessian_set_grid. Spoilt
 *  samples, in any stream, end the run; with --on-failure rtn they are left out of this and all
 *  later sums instead: their rows of the residual streams and of the taps become zeros.
 *  Collective. Errors, the same on every rank: MQ_E_NUMERIC naming the first sample of the file
 *  that is spoilt, its token and column; MQ_E_MEMORY.
 *  Same samples for any rank count: each unit is judged by itself. */
mq_status mq_run_bounds(mq_run *run, int64_t block, mq_tap_id tap, double *largest);

/** Tokens of this rank's samples that were left out, in the halves of its units. Not collective. */
void mq_run_tokens_left_out(const mq_run *run, const mq_calib *units, int64_t *first_half,
                            int64_t *second_half);

#endif
