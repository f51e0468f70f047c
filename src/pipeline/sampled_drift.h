#ifndef MQ_PIPELINE_SAMPLED_DRIFT_H
#define MQ_PIPELINE_SAMPLED_DRIFT_H

#include "pipeline/sampled_rows.h"

/* How much of the correction for the drift of the streams (drift.c) serves samples that it was not
 * computed from: on a sample of the tap's rows, by halves of the calibration samples. */

/** What the rows are to make up for: T = sum over the tokens of a half of (drift of the row's
 *  output) x^T, a row of the sum for each row of rows->block, one block after the other. */
typedef struct mq_sampled_drift {
    mq_cross *first, *held_out; /* (n_blocks * MQ_ROW_BLOCK, n), columns in original order */
} mq_sampled_drift;

/** Sums both halves over all ranks. The rows are in the system's order; h is the tap's Hessian,
 *  whose grid the sums take; needs the drift of the streams (mq_run_drift). Collective. Errors, the
 * same on every rank: MQ_E_MEMORY; MQ_E_NUMERIC where a drift cannot be summed in f32. Same result
 * for any rank count: bitwise. Cost: tokens * rows * n flops, four times with layers that read the
 * normed stream, else twice. */
mq_status mq_sampled_drift_create(mq_run *run, mq_tap_id tap, const mq_sampled_rows *rows,
                                  const mq_tap_system *system, const mq_hessian *h,
                                  mq_sampled_drift *out);
void mq_sampled_drift_free(mq_sampled_drift *drift);

/** The whole correction as the first half asks for it, Z = T (H + lambda I)^-1.
 *  @param[in]  system  of the first half, factored
 *  @param[out] z       (n_blocks, MQ_ROW_BLOCK, n), columns in processing order
 *  @param[out] pull    (MQ_N_LINEARS), by layer: sum over its rows of z_r . t_r, t_r of the
 * held-out half With D = sum over the rows of z_r H_held_out z_r^T, the loss on the held-out half
 * when a share a of the correction is made is that without it less 2 a pull - a^2 D. The blocks' e
 * are overwritten. Collective when the factor is distributed. Errors: those of mq_correct_rows. */
mq_status mq_sampled_drift_correction(const mq_sampled_drift *drift, const mq_sampled_rows *rows,
                                      mq_tap_system *system, float *z, double *pull);

#endif
