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
    const char *model;  /* Hugging Face folder */
    const char *calib;  /* calib.h5 */
    const char *output; /* folder to make */
    const char *format; /* "gptq" */
    int bits;           /* 2, 3, 4 or 8 */
    int64_t group;      /* columns per scale, -1: the whole row */
    double damping;     /* lambda as a share of the mean diagonal of H */
    int64_t samples;    /* use the first so many of the file; 0: all */
    int64_t unit_tokens;
    int64_t first_block, last_block; /* quantise blocks [first, last); last < 0: to the end */
    const char *const *skip;         /* patterns of modules that stay as they are */
    int n_skip;
    const mq_override *override_;
    int n_override;
    uint64_t max_shard_bytes;
    int64_t distribute_above; /* factor matrices wider than this on all ranks */
    int threads;              /* per rank */
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
    int threads;
} mq_evaluate_options;

typedef struct mq_evaluation {
    double perplexity;
    double reference_perplexity; /* NaN without a reference */
    double kl;                   /* mean KL(reference || model) per predicted token, nats; or NaN */
    double top1;                 /* share of tokens with the same most likely successor; or NaN */
    int64_t tokens;              /* predicted: all but the first of each sample */
    int64_t samples;
    double seconds;
} mq_evaluation;

void mq_evaluate_defaults(mq_evaluate_options *options);

/** Perplexity over a token file, and KL and top-1 agreement with a reference model of the same
 *  vocabulary. Works on dense folders and on GPTQ outputs. */
mq_status mq_evaluate(MPI_Comm comm, const mq_evaluate_options *options, mq_evaluation *result);

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
