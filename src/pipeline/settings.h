#ifndef MQ_PIPELINE_SETTINGS_H
#define MQ_PIPELINE_SETTINGS_H

#include "base/json.h"
#include "mpiquant/mpiquant.h"
#include "solve/order.h"
#include "store/folder.h"

/** What is done to a Hessian before it is factored. */
typedef struct mq_damping {
    double share;     /* of the mean diagonal, added to every diagonal entry */
    double shrinkage; /* share by which the entries off the diagonal are made smaller */
} mq_damping;

/** How hard the solver tries: a preset, and what the options change in it. */
typedef struct mq_solver_settings {
    double alpha; /* asymmetric calibration, where it is not measured; 0: one stream */
    mq_damping damping;
    bool measure_damping;   /* each layer gets what serves held-out samples best, and that above
                               where nothing can be held out */
    bool measure_shrinkage; /* and so is whether there is shrinkage */
    bool measure_alpha;     /* and alpha, where there is one */
    bool scale_columns;     /* of a tap where that serves held-out samples */
    int refine;             /* rounds after LDLQ */
    bool couple;            /* rows of a head are rounded together */
    bool judge;             /* scales are judged by the factor, not by the diagonal alone */
    mq_column_order order;
    bool all_experts;       /* every expert is calibrated on every token, */
    double expert_coverage; /* or one with fewer tokens for each input column than this is */
    bool go_on;             /* after a failure: leave samples out, in the end round to nearest */
} mq_solver_settings;

/** Not collective. Errors: MQ_E_USAGE for an unknown preset or a value out of range. */
mq_status mq_settings_solver(const mq_quantize_options *options, mq_solver_settings *out);

/** How many streams of activations a run carries: two with asymmetric calibration. */
static inline int mq_settings_streams(const mq_solver_settings *solver)
{
    return solver->alpha > 0 ? 2 : 1;
}

/** What the bytes of an output depend on, as one flat object: settings and checksums of the inputs
 *  (config.json; names, places and three 4 KiB samples of every tensor, not all of its bytes; the
 *  whole token file; not the small files that are copied along). For rank 0; not collective. Caller
 * owns *out. */
mq_status mq_settings_json(const mq_quantize_options *options, const mq_solver_settings *solver,
                           mq_folder *source, cJSON **out);

/** Refuses options that make no sense on their own. Not collective. Errors: MQ_E_USAGE. */
mq_status mq_settings_check(const mq_quantize_options *options);

#endif
