#ifndef MQ_PIPELINE_SAMPLED_DRIFT_H
#define MQ_PIPELINE_SAMPLED_DRIFT_H

#include "pipeline/run.h"

/* What a few rows of the layers bound in run->result are to make up for (drift.c), by halves of the
 * calibration samples. */

enum { MQ_DRIFT_ROWS = 32 /* at most, evenly spread over the layers and over the rows of each */ };

/** T = sum over the tokens of a half of (drift of the row's output) x^T. */
typedef struct mq_sampled_drift {
    int64_t n_rows;
    int layer[MQ_DRIFT_ROWS];   /* of each row: its number in run->result */
    int64_t row[MQ_DRIFT_ROWS]; /* and its own within that layer */
    mq_cross *half, *held_out;  /* (n_rows, n), columns in original order */
} mq_sampled_drift;

/** Sums both halves over all ranks. h is the tap's Hessian, whose grid the sums take; needs
 *  run->drift. Collective. Errors, the same on every rank: MQ_E_MEMORY, those of
 *  mq_folder_read_rows; MQ_E_NUMERIC where a drift cannot be summed in f32. Same result for any
 * rank count: bitwise. Cost: 4 tokens * n_rows * n flops where the layers read the normed stream,
 * else half of that. */
mq_status mq_sampled_drift_create(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *h,
                                  mq_sampled_drift *out);
void mq_sampled_drift_free(mq_sampled_drift *drift);

/** The two steps of mq_run_alpha (pipeline/run.h), which other taps may come between. The first
 * sums what alpha is measured by, with n_rows 0 where it is not measured, over all ranks; the
 * second measures it with the ranks of run->comm. Collective. Errors: those of mq_run_alpha. The
 * caller frees what the first makes. */
mq_status mq_run_alpha_drift(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *half,
                             const mq_hessian *h, mq_sampled_drift *out);
mq_status mq_run_alpha_from(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *half,
                            const mq_hessian *h, mq_damping damping, const mq_sampled_drift *drift);

#endif
