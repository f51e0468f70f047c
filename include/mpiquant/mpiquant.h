#ifndef MPIQUANT_MPIQUANT_H
#define MPIQUANT_MPIQUANT_H

#include "mpiquant/status.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The walk of a caller: MPI_Init, fill options from the defaults, call, look at the status and
 * mq_message() (both the same on every rank), MPI_Finalize. Every call here is collective on
 * `comm` unless it says otherwise, and must be given the same arguments on every rank. After
 * MQ_E_INTERNAL the ranks may have parted and memory is left behind: call MPI_Abort. The process
 * has one pool of threads; calls must not overlap in time. */

/** "0.1.0". Not collective. */
const char *mq_version(void);

/** Lines "MPI: ...", "BLAS: ...", for --version and reports. Not collective. */
const char *mq_build_description(void);

/** One `--override REGEX=bits:B,group:G`. */
typedef struct mq_override {
    const char *pattern; /* POSIX extended, searched in the full module name */
    int bits;            /* 0: as the run */
    int64_t group;       /* 0: as the run; -1: one group a row */
} mq_override;

typedef struct mq_quantize_options {
    const char *model;   /* Hugging Face folder */
    const char *calib;   /* calib.h5 */
    const char *output;  /* folder to make */
    const char *format;  /* "gptq", "gptq_v2", "compressed-tensors", "exl2", "gguf" or "dense" */
    int bits;            /* 2, 3, 4 or 8 */
    double average_bits; /* above 0: every layer gets the width that serves the model best, with at
                            most this many bits a weight over all of them; bits is not used */
    const int *widths;   /* that average_bits may mix, ascending; n_widths 0: 2, 3, 4 and 8 */
    int n_widths;
    int64_t group;        /* columns per scale, -1: the whole row */
    bool lm_head;         /* quantise it too */
    bool zero_points;     /* one per scale; else symmetric codes */
    bool positive_scales; /* else symmetric codes may have negative ones */
    double damping;       /* lambda as a share of the mean diagonal of H; 0: for each layer the
                             one that serves held-out samples best; below 0: as the preset */
    double shrinkage;     /* share by which the off-diagonal entries of H are made smaller; below
                             0: 0.1, but none where damping is measured and held-out samples are
                             clearly better served without */
    int scale_columns;    /* 0: never; below 0: where damping is measured, the columns of layers
                             after a norm are scaled by powers of two, which the norm takes, if
                             that serves held-out samples clearly better */
    const char *moe_calibration; /* "routed": an expert is calibrated on the tokens routed to it;
                                    "all": on every token */
    double expert_coverage;      /* with "routed", on every token too if those routed to it are
                                    fewer than this for each of its input columns */
    const char *on_failure; /* "stop": the run ends; "rtn": it leaves spoilt samples out, and rounds
                               to nearest the layers for which nothing else is left */
    const char *preset; /* "fast", "default" or "best": what the following are where not given */
    double alpha;       /* asymmetric calibration: share of the earlier layers' errors that a layer
                           makes up for; 0: none, and no second stream; below 0: as the preset */
    bool measure_alpha; /* for each layer the share that serves held-out samples best, where damping
                           is measured too; alpha is not used */
    int refine;         /* rounds of refinement after LDLQ; below 0: as the preset */
    int couple;         /* 1: round the rows of a head together, 0: apart; below 0: as the preset */
    const char *scale_search; /* "fast", by the diagonal of H, or "accurate", by its factor; NULL:
                                 as the preset */
    const char *column_order; /* in which columns are rounded: "diagonal", "groups" or "original" */
    int64_t samples;          /* use the first so many of the file; 0: all */
    int64_t unit_tokens;
    int64_t first_block, last_block; /* quantise blocks [first, last); last < 0: to the end */
    const char *const *skip;         /* patterns of modules that stay as they are */
    int n_skip;
    const mq_override *override_;
    int n_override;
    bool protect; /* what the descriptor of the model's family names as sensitive is
                     kept, or gets 8 bits, where no override says otherwise */
    uint64_t max_shard_bytes;
    int64_t distribute_above; /* factor matrices wider than this on all ranks */
    int threads;              /* per rank */
    bool mmap;                /* read the model's weights through mmap where that saves a copy */
} mq_quantize_options;

/** The defaults that `mpiquant quantize --help` prints. Not collective. */
void mq_quantize_defaults(mq_quantize_options *options);

/** Quantises a model folder. The output folder is complete when its index (or its one
 *  model.safetensors) has its final name; the same bytes for any number of ranks and threads.
 *  A finished run of the same settings is left alone: MQ_OK. */
mq_status mq_quantize(MPI_Comm comm, const mq_quantize_options *options);

typedef struct mq_evaluate_options {
    const char *model;
    const char *tokens;    /* same layout as calib.h5 */
    const char *reference; /* NULL: perplexity only */
    bool f32;              /* else bf16 */
    int64_t samples;       /* 0: all */
    int64_t unit_tokens;
    int64_t position_bins; /* 0: no figures by position; at most 10000 */
    int threads;
} mq_evaluate_options;

/** A figure and its 95 % confidence interval over documents (samples of the token file): NaN where
 *  there is none, as with a single document. Method and source: base/ratio.h. */
typedef struct mq_estimate {
    double value, low, high;
} mq_estimate;

typedef struct mq_figures {
    int64_t tokens;         /* predicted: all but the first of each sample */
    int64_t documents;      /* samples with a predicted token; what the intervals rest on */
    mq_estimate perplexity; /* exp(mean NLL); the interval is that of the logarithm */
    /* NaN without a reference: */
    mq_estimate reference_perplexity;
    mq_estimate log_perplexity_difference; /* log perplexity - log reference perplexity, by pairs */
    mq_estimate kl;   /* mean KL(reference || model) per predicted token, nats */
    mq_estimate top1; /* share of tokens with the same most likely successor */
} mq_figures;

/** Figures of the predicted tokens at positions begin .. end - 1 of their samples (the first token
 *  of a sample is position 0 and is never predicted): `position` is the number of tokens that the
 *  model has seen. */
typedef struct mq_position_figures {
    int64_t begin, end;
    mq_figures figures;
} mq_position_figures;

/** Sums over the predicted tokens of one sample, nats. 0 without a reference where it needs one. */
typedef struct mq_document {
    int64_t tokens, top1;
    double nll, reference_nll, kl;
} mq_document;

typedef struct mq_evaluation {
    mq_figures figures;
    int64_t samples;
    mq_document *document; /* (samples) in the order of the file */
    int64_t n_bins;
    mq_position_figures *by_position; /* (n_bins) equal shares of the longest sample's positions */
    double seconds;
} mq_evaluation;

void mq_evaluate_defaults(mq_evaluate_options *options);

/** Perplexity over a token file, and KL and top-1 agreement with a reference model of the same
 *  vocabulary. Works on dense folders and on GPTQ outputs. The result, the same on every rank and
 *  for any number of ranks, is freed with mq_evaluation_free; on failure there is nothing to free.
 *  Memory beside the models: 48 bytes a sample and bin on every rank. */
mq_status mq_evaluate(MPI_Comm comm, const mq_evaluate_options *options, mq_evaluation *result);

/** Not collective. Leaves *result as {0}; safe on that. */
void mq_evaluation_free(mq_evaluation *result);

typedef struct mq_verification {
    int64_t tensors, layers; /* tensors in all; quantised linear layers */
    int64_t bytes;
    double worst_error; /* largest relative error of a layer's weights; NaN without a source */
    char worst_layer[256];
} mq_verification;

/** Checks an output folder: headers, ranges, shapes, zero points, scales, g_idx, checksums against
 *  mq_report.json; with `source` (or NULL) also how far the weights are from the source's. */
mq_status mq_verify(MPI_Comm comm, const char *output, const char *source, int threads,
                    mq_verification *result);

#ifdef __cplusplus
}
#endif
#endif
