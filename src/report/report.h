#ifndef MQ_REPORT_REPORT_H
#define MQ_REPORT_REPORT_H

#include "base/json.h"
#include "calib/calib.h"
#include "model/arch.h"
#include "mpiquant/mpiquant.h"
#include "solve/solve.h"

/* What a run did, layer by layer: mq_report.json. Built on every rank alike, written by rank 0. */

/* Plain data, so that a rank can send it to others; quant.largest is NULL. */
typedef struct mq_layer_result {
    int64_t block;
    mq_linear_id linear;
    mq_quant quant;
    char method[8];       /* "ldlq" or "rtn" (the last resort) */
    double relative_loss; /* e H e^T / w H w^T summed over rows, without the damping; NaN for rtn */
    double nearest_loss;  /* the same had all rows been rounded to nearest under the first scales */
    int64_t nearest_rows; /* that were rounded to nearest because it was better */
    double relative_error; /* |e|^2 / |w|^2 */
    double damping;        /* share of the mean diagonal that succeeded; NaN for rtn */
    double shrinkage;      /* of the entries off the diagonal; NaN for rtn */
    double alpha;          /* share of the correction for the drift of the streams that was made */
    double half_loss; /* relative, of sampled rows that were solved on half of the samples, on */
    double held_out_loss; /* those and on the others; NaN: not measured */
    int attempts;
    char trouble[16];         /* "none", "rank_deficient", "indefinite" or "not_finite" */
    int64_t samples_left_out; /* because they held NaN or inf, here or earlier */
    int64_t tokens;           /* that H was summed over */
    int64_t routed_tokens;    /* that go to the expert; -1 for layers that are of none */
    int64_t rank_bound;       /* rank(H) is at most this */
    int64_t dead;             /* input columns that were zero on every token */
    int64_t scaled;           /* that were scaled */
    double seconds;           /* of the tap, this rank */
} mq_layer_result;

typedef struct mq_report {
    mq_layer_result *layer;
    int64_t n_layers, capacity;
} mq_report;

mq_status mq_report_create(int64_t capacity, mq_report **out);
void mq_report_destroy(mq_report **report);
mq_status mq_report_add(mq_report *report, const mq_layer_result *result);

/** Layers that fell back to round-to-nearest. */
int64_t mq_report_fallbacks(const mq_report *report);

/** Mean and worst relative loss over the layers that have one; worst may be NULL. */
void mq_report_summary(const mq_report *report, double *mean, double *largest,
                       const mq_layer_result **worst);

/** By what share the layers' losses on new samples would fall with twice as many samples, from
 *  their held-out losses; NaN when none has one. (docs/how-it-works.md) */
double mq_report_more_samples(const mq_report *report);

/** The "layers" array. Caller owns it. */
mq_status mq_report_layers(const mq_report *report, const mq_arch *arch, cJSON **out);

/** The model card, Markdown; free with mq_free. needs_rules: transformers cannot load it. */
mq_status mq_report_card(const mq_report *report, const mq_arch *arch,
                         const mq_quantize_options *options, const mq_calib *calib,
                         bool needs_rules, char **out);

#endif
