#ifndef MQ_PIPELINE_RUN_H
#define MQ_PIPELINE_RUN_H

#include "hessian/hessian.h"
#include "model/block.h"
#include "pipeline/activations.h"
#include "pipeline/layout.h"
#include "pipeline/tap_result.h"
#include "pipeline/timing.h"
#include "report/report.h"

/* The state of one quantisation run on one rank, and the steps of its walk. Everything a step
 * needs hangs here; who creates it destroys it (quantize.c). */

typedef struct mq_run {
    const mq_comm *comm;
    const mq_quantize_options *options;
    mq_arch *arch;
    mq_folder *source;
    mq_calib *calib;
    mq_scheme *scheme;
    mq_block_weights *weights; /* of the current block; quantised ones replace the source's */
    float *rope;
    void *work;                    /* workspace of the block forward, one unit */
    mq_activations x;              /* residual stream of this rank's units */
    mq_activations tap[MQ_N_TAPS]; /* held while something reads them */
    mq_tap_result *result;
    mq_writer *writer;
    mq_report *report;
    mq_timing timing;
} mq_run;

/** Computes a tap's activations for every local unit. Collective (agrees). */
mq_status mq_run_produce(mq_run *run, mq_tap_id tap);

/** Sums the Hessian of a tap over all ranks. Collective. Caller destroys *out.
 *  Errors: MQ_E_NUMERIC naming block, tap and column. */
mq_status mq_run_hessian(mq_run *run, int64_t block, mq_tap_id tap, mq_hessian **out);

/** Quantises the layers bound in run->result from the Hessian of their tap, publishes codes and
 *  scales, adds to the report. Collective. */
mq_status mq_run_solve(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *h);

/** Puts the dequantised weights of the bound layers in the place of the originals. Collective. */
mq_status mq_run_replace_weights(mq_run *run);

/** Packs and writes the bound layers' tensors, each rank its part. Collective. */
mq_status mq_run_write_layers(mq_run *run, int64_t block);

#endif
