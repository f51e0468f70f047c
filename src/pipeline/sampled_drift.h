#ifndef MQ_PIPELINE_SAMPLED_DRIFT_H
#define MQ_PIPELINE_SAMPLED_DRIFT_H

#include "pipeline/sampled_rows.h"

/* How much of the correction for the drift of the streams (drift.c) serves samples that it was not
 * computed from: on every fourth of the tap's sampled rows, by halves of the calibration samples.
 * Four times the rows give the same shares (within 0.02 on the demo model). */

/** What the rows are to make up for: T = sum over the tokens of a half of (drift of the row's
 *  output) x^T, columns in original order. */
typedef struct mq_sampled_drift {
    int64_t n_rows;               /* at most MQ_ROW_BLOCK */
    int layer[MQ_ROW_BLOCK];      /* of each row: its number in run->result, */
    int64_t row[MQ_ROW_BLOCK];    /* its own within that layer */
    const float *w[MQ_ROW_BLOCK]; /* and its weights, columns in processing order */
    mq_cross *first, *held_out;   /* (n_rows, n) */
} mq_sampled_drift;

/** Sums both halves over all ranks. The rows, which must outlive *out, are in the system's order; h
 *  is the tap's Hessian, whose grid the sums take; needs the drift of the streams (mq_run_drift).
 *  Collective. Errors, the same on every rank: MQ_E_MEMORY; MQ_E_NUMERIC where a drift cannot be
 *  summed in f32. Same result for any rank count: bitwise.
 *  Cost: 4 tokens * rows * n flops where the layers read the normed stream, else half of that. */
mq_status mq_sampled_drift_create(mq_run *run, mq_tap_id tap, const mq_sampled_rows *rows,
                                  const mq_tap_system *system, const mq_hessian *h,
                                  mq_sampled_drift *out);
void mq_sampled_drift_free(mq_sampled_drift *drift);

/** The whole correction as the first half asks for it, Z = T (H + lambda I)^-1, and its pull, for
 *  each layer the sum over its rows of z_r . t_r with t_r of the held-out half. With D = the sum of
 *  z_r H z_r^T, H of the held-out half, the loss there falls by 2 a pull - a^2 D when a share a of
 *  the correction is made.
 *  @param[in]  system  of the first half, factored
 *  @param      scratch (MQ_ROW_BLOCK, n), overwritten
 *  @param[out] z       (MQ_ROW_BLOCK, n), columns in processing order; zeros past the rows
 *  @param      pull    (MQ_N_LINEARS), added to
 *  Collective when the factor is distributed. Errors: those of mq_correct_rows, MQ_E_MEMORY. */
mq_status mq_sampled_drift_correction(const mq_sampled_drift *drift, mq_tap_system *system,
                                      float *scratch, float *z, double *pull);

#endif
