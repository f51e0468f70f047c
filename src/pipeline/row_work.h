#ifndef MQ_PIPELINE_ROW_WORK_H
#define MQ_PIPELINE_ROW_WORK_H

#include "pipeline/head_moments.h"
#include "pipeline/tap_judge.h"

/* The row blocks of a tap that this rank solves in one pass: a part of those that are its own, so
 * that a head of 256,000 rows takes no more memory than other layers. */

enum { MQ_PASS_BLOCKS = 256 };

/** Passes over the tap in run->result, the same on every rank. */
int64_t mq_row_passes(const mq_run *run);

typedef struct mq_row_work {
    mq_row_block *block;
    const mq_tap_layer **layer; /* of each block */
    int64_t *first_row;         /* within its layer */
    int64_t n_blocks;
    float *storage;        /* w and e of all blocks */
    mq_row_metric *metric; /* of those that have one */
    mq_tap_system *system;
} mq_row_work;

/** Rows [r0, r1) of a layer's original weights: out (r1 - r0, n_in), columns in original order. Not
 *  collective. */
mq_status mq_run_read_rows(const mq_run *run, int64_t block, const mq_tap_layer *layer, int64_t r0,
                           int64_t r1, float *out);

/** Allocates this rank's blocks of a pass over run->result and reads their rows of the original
 *  weights into w, columns in processing order. There may be none. Not collective. */
mq_status mq_row_work_load(const mq_run *run, int64_t block, mq_tap_system *system, int64_t pass,
                           mq_row_work *work);

/** Gives the blocks of q, k and v the metric of their outputs (row_metric.c). Not collective. */
mq_status mq_row_work_metrics(const mq_run *run, const mq_head_moments *moments, mq_row_work *work);

/** Chooses scales for the rows in w, accurately for groups that the judge has; e is overwritten.
 *  Not collective. */
mq_status mq_row_work_scales(const mq_tap_judge *judge, mq_row_work *work);

/** Puts how far the packed rows are from those of the source into the statistics of the layers; w
 *  and e are overwritten. Not collective. */
mq_status mq_row_work_measure(const mq_run *run, int64_t block, mq_row_work *work);

void mq_row_work_free(mq_row_work *work);

#endif
