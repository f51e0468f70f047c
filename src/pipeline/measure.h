#ifndef MQ_PIPELINE_MEASURE_H
#define MQ_PIPELINE_MEASURE_H

#include "base/json.h"
#include "pipeline/run.h"

/* What every width would cost every layer, measured before the run proper: the table that a budget
 * of bits is spent by. The same on every rank. */

typedef struct mq_measured {
    const mq_scheme *scheme;
    double *
        loss; /* (n_blocks, mq_arch_n_linears, MQ_MAX_WIDTHS) relative loss; 0 where not measured */
    double *harm;  /* the same shape: what plan/mix.h adds up */
    double *added; /* (n_blocks, mq_arch_n_linears) for o and down: what they add to the residual
                      stream, mean over tokens of |W x|^2 / |r|^2; 0 for the others */
} mq_measured;

mq_status mq_measured_create(const mq_scheme *scheme, mq_measured **out);
void mq_measured_destroy(mq_measured **measured);

/** Place of a layer in `added`; times MQ_MAX_WIDTHS in the others. */
static inline int64_t mq_measured_layer(const mq_measured *m, int64_t block, mq_linear_id linear)
{
    return block * mq_arch_n_linears(m->scheme->arch) + linear;
}

/** What the layer's sub-block adds to the residual stream. */
double mq_measured_added(const mq_measured *measured, int64_t block, mq_linear_id linear);

/** Walks the original model once: per tap one Hessian and one factorisation, then scales and codes
 *  at every width of the scheme; no weights are replaced and nothing is written. Fills a table for
 *  the layers whose bits the budget chooses. Collective. Caller destroys *out.
 *  Cost: the forward and the Hessians of a run, and its row work once for every width.
 *  Errors: those of the run. Same result for any rank and thread count: bitwise. */
mq_status mq_run_measure(mq_run *run, mq_measured **out);

/** The object "budget" of the report, after mq_mix_choose. Not collective. */
mq_status mq_measured_json(const mq_measured *measured, cJSON **out);

#endif
