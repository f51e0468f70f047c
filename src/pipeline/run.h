#ifndef MQ_PIPELINE_RUN_H
#define MQ_PIPELINE_RUN_H

#include "hessian/cross.h"
#include "hessian/hessian.h"
#include "model/block.h"
#include "model/rope_mean.h"
#include "pipeline/activations.h"
#include "pipeline/layout.h"
#include "pipeline/settings.h"
#include "pipeline/tap_result.h"
#include "pipeline/timing.h"
#include "report/report.h"

/* The state of one quantisation run on one rank, and the steps of its walk. Everything a step
 * needs hangs here; who creates it destroys it (quantize.c). */

/* The samples of this rank on their way through the blocks with one set of weights. */
typedef struct mq_stream {
    mq_block_weights *weights;          /* of the current block */
    mq_activations x;                   /* residual stream of this rank's units */
    mq_activations tap[MQ_N_TAP_KINDS]; /* by kind; held while something reads them */
} mq_stream;

/* The quantised weights replace the source's tap by tap in the first stream; asymmetric calibration
 * runs a second one with the weights as they were. */
enum { MQ_QUANTISED, MQ_ORIGINAL, MQ_MAX_STREAMS };

/* The damping that a tap's layers get, and what was measured for it: for each layer in run->result
 * the relative losses when it is solved on half of the samples, on those and on the others. */
typedef struct mq_damping_choice {
    mq_damping damping;
    bool scale_columns; /* by powers of two (column_scales.h) */
    double half_loss[MQ_N_LINEARS], held_out_loss[MQ_N_LINEARS]; /* NaN: not measured */
} mq_damping_choice;

/* Shares of held-out losses, over the blocks measured so far. */
typedef struct mq_gain {
    double sum;
    int64_t blocks;
} mq_gain;

typedef struct mq_run {
    const mq_comm *comm;
    const mq_quantize_options *options;
    mq_solver_settings solver;
    mq_arch *arch;
    mq_folder *source;
    mq_calib *calib;
    mq_scheme *scheme;
    mq_gguf_pairs gguf; /* with that format: what goes before its tensors */
    mq_stream stream[MQ_MAX_STREAMS];
    int n_streams;
    mq_activations drift;      /* with two streams: what the layers of a tap are to make up for, as
                                  wide as that is; room for any tap that a norm makes */
    double alpha[MQ_HEAD + 1]; /* by role, how much of that: as asked for, or last measured */
    mq_rope_tables rope;
    mq_rope_mean *rope_mean; /* for blocks of this rope, window and chunk; NULL: not made */
    const mq_rope_kind *rope_mean_of;
    int64_t rope_mean_window, rope_mean_chunk;
    struct mq_experts *experts;    /* of the block in hand, while it goes through them; else NULL */
    struct mq_expert_tasks *tasks; /* a rank's part in solving experts; NULL: there are none */
    void *work;                    /* workspace of one unit */
    mq_tap_result *result;
    mq_damping damping_found[MQ_N_TAP_KINDS]; /* last measured; share 0: none yet */
    bool scaling_found[MQ_N_TAP_KINDS];       /* last measured */
    mq_gain gain_unshrunk[MQ_N_TAP_KINDS];    /* by no shrinkage */
    struct mq_measured *measured; /* with a budget of bits, what it was spent by; else NULL */
    mq_writer *writer;
    mq_report *report;
    uint8_t *left_out;        /* of this rank's samples, in unit order; NULL: none (samples.c) */
    int64_t samples_left_out; /* of all ranks */
    mq_timing timing;
} mq_run;

/** Embeds every local unit, or reads the rows that the calibration file has in the place of
 *  embeddings, into all streams. Collective. */
mq_status mq_run_embed(mq_run *run);

/** Reads the weights of a block for all streams. Collective. */
mq_status mq_run_read_block(mq_run *run, int64_t block);

/** Computes a tap's activations for every local unit and stream. Collective (agrees). */
mq_status mq_run_produce(mq_run *run, mq_tap_id tap);

/** MQ_TAP_HEAD_IN: the normed residual stream after the last block, for every local unit and
 *  stream. Collective. */
mq_status mq_run_produce_head(mq_run *run);

/** Ends a block for every local unit and stream, and frees its taps. Collective (agrees). */
mq_status mq_run_finish_block(mq_run *run);

/** What a layer that writes to the residual stream adds to it: the mean over all tokens of
 *  |W x|^2 / |r|^2, W x with its bias, r the stream after it is added. After mq_run_produce of
 *  its tap. Collective. */
mq_status mq_run_added(mq_run *run, mq_tap_id tap, mq_linear_id linear, double *mean);

/** Sums the Hessian of a tap over all ranks; half, NULL when not asked for, gets the sum over the
 *  first half of every unit's samples (in file order), so that out less half is the sum over the
 *  others, exactly. The same halves for any rank count. Collective. Caller destroys both.
 *  Errors: MQ_E_NUMERIC naming block, tap, sample, token and column. */
mq_status mq_run_hessian(mq_run *run, int64_t block, mq_tap_id tap, mq_hessian **half,
                         mq_hessian **out);

/** Where scales are squares: how far the groups of the layers bound in run->result reach, over all
 *  of their original rows and by the columns that are live in h, hence the scales that rows share;
 *  nothing elsewhere. Collective. Cost: reads the rows once. The same for any number of ranks. */
mq_status mq_run_find_ranges(mq_run *run, int64_t block, const mq_hessian *h);

/** With two streams: how far they differ in what the layers of a tap aim at, into run->drift
 *  (drift.c), for every local unit. After mq_run_hessian, which leaves samples out. Collective. */
mq_status mq_run_drift(mq_run *run, mq_tap_id tap);

/** With --alpha auto: measures run->alpha of the layers bound in run->result (auto_alpha.c), from
 *  run->drift and the Hessians that mq_run_hessian gave, with the tap's damping. half: NULL, or
 *  without tokens: what was measured last stays. Collective. Errors: MQ_E_MEMORY, those of
 *  mq_factor_create and mq_folder_read_rows. Same result for any rank count: bitwise. */
mq_status mq_run_alpha(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *half,
                       const mq_hessian *h, mq_damping damping);

/** Sums what a tap needs for the correction of its layers over all ranks, from run->drift; *out is
 *  NULL with one stream, where the streams do not differ yet, and, when the run is to go on after
 *  failures, where the drift cannot be summed (with a warning). h is the tap's Hessian.
 *  Collective. Caller destroys *out. */
mq_status mq_run_cross(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *h,
                       mq_cross **out);

/** With --damp auto: whether the damping of this tap is measured, for which its Hessian is to be
 *  summed by halves. Taps wider than distribute_above are measured in the first block and each
 *  time the walk has come twice as far; that of the head is. Not collective. */
bool mq_run_measures_damping(const mq_run *run, int64_t block, mq_tap_id tap);

/** The damping to begin with. half: as mq_run_hessian gave it, then the damping is measured on the
 *  layers bound in run->result (auto_damping.c); NULL or without tokens: that of the same tap in an
 * earlier block with --damp auto, where there was one, else the one asked for. Collective. */
mq_status mq_run_damping(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *half,
                         const mq_hessian *h, mq_damping_choice *out);

/** Quantises the layers bound in run->result from the Hessian of their tap, and from its cross sum
 *  where there is one; publishes codes and scales, adds to the report. Collective. */
mq_status mq_run_solve(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *h,
                       const mq_damping_choice *damping, const mq_cross *cross);

/** Fails where a layer's loss is not finite: weights so large that their errors leave f32. Not
 *  collective. Errors: MQ_E_NUMERIC naming the layer. */
mq_status mq_run_check_loss(const mq_run *run, int64_t block, mq_linear_id linear, double loss);

/** Puts the dequantised weights of the bound layers in the place of the originals. Collective. */
mq_status mq_run_replace_weights(mq_run *run);

/** Packs and writes the bound layers' tensors, each rank its part. Collective. */
mq_status mq_run_write_layers(mq_run *run, int64_t block);

#endif
