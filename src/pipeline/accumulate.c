/* From the residual stream to a Hessian: the part of the walk that every rank does with its own
 * units. */
#include "pipeline/run.h"

#include "base/memory.h"
#include "ops/gemm.h"

#include <inttypes.h>

/* What a tap is computed from (model/block.h). */
static void inputs_of(const mq_run *run, mq_tap_id tap, const mq_activations **in,
                      const mq_activations **in2)
{
    *in = *in2 = NULL;
    switch (tap) {
    case MQ_TAP_ATTN_IN:
        break;
    case MQ_TAP_ATTN_OUT:
        *in = &run->tap[MQ_TAP_ATTN_IN];
        break;
    case MQ_TAP_MLP_IN:
        *in = &run->tap[MQ_TAP_ATTN_OUT];
        break;
    default:
        if (run->arch->parallel_block) {
            *in = &run->tap[MQ_TAP_ATTN_IN];
            *in2 = &run->tap[MQ_TAP_ATTN_OUT];
        } else {
            *in = &run->tap[MQ_TAP_MLP_IN];
        }
    }
}

static mq_status produce_units(mq_run *run, mq_tap_id tap)
{
    const mq_activations *in = NULL, *in2 = NULL;
    mq_activations *out = &run->tap[tap];
    inputs_of(run, tap, &in, &in2);
    MQ_TRY(mq_activations_create(run->calib, mq_arch_tap_width(run->arch, tap), run->x.dtype,
                                 mq_tap_name(tap), out));
    for (int64_t u = 0; u < run->calib->n_local_units; u++) {
        MQ_TRY(mq_block_produce(run->weights, run->rope, tap, &run->calib->unit[u],
                                mq_activations_unit(&run->x, run->calib, u),
                                in ? mq_activations_unit(in, run->calib, u) : NULL,
                                in2 ? mq_activations_unit(in2, run->calib, u) : NULL, run->work,
                                mq_activations_unit(out, run->calib, u)));
    }
    return MQ_OK;
}

/* A tap is freed as soon as nothing later in the block reads it. */
static void free_read_taps(mq_run *run, mq_tap_id produced)
{
    bool parallel = run->arch->parallel_block;
    if (produced == MQ_TAP_ATTN_OUT && !parallel) mq_activations_free(&run->tap[MQ_TAP_ATTN_IN]);
    if (produced == MQ_TAP_MLP_IN) mq_activations_free(&run->tap[MQ_TAP_ATTN_OUT]);
    if (produced == MQ_TAP_MLP_MID) {
        for (int t = 0; t < MQ_TAP_MLP_MID; t++) mq_activations_free(&run->tap[t]);
    }
}

mq_status mq_run_produce(mq_run *run, mq_tap_id tap)
{
    mq_status status = mq_agree(run->comm, produce_units(run, tap));
    free_read_taps(run, tap);
    mq_timing_lap(&run->timing, MQ_T_FORWARD);
    return status;
}

/* Largest sum of squares of each column over any one unit: the bound that the grid needs. */
static mq_status column_bounds(const mq_run *run, const mq_activations *a, double *largest)
{
    double *sumsq = NULL;
    mq_status status = mq_alloc(a->width, sizeof *sumsq, "column sums", &sumsq);
    for (int64_t u = 0; u < run->calib->n_local_units && status == MQ_OK; u++) {
        status = mq_column_sumsq(mq_activations_unit(a, run->calib, u), a->dtype,
                                 run->calib->unit[u].n_tokens, a->width, sumsq);
        for (int64_t j = 0; j < a->width && status == MQ_OK; j++) {
            /* Written so that a NaN is kept. */
            if (!(sumsq[j] <= largest[j])) largest[j] = sumsq[j];
        }
    }
    mq_free(&sumsq);
    return status;
}

static mq_status add_units(const mq_run *run, const mq_activations *a, mq_hessian *h)
{
    for (int64_t u = 0; u < run->calib->n_local_units; u++) {
        MQ_TRY(mq_hessian_add(h, mq_activations_unit(a, run->calib, u), a->dtype,
                              run->calib->unit[u].n_tokens));
    }
    return MQ_OK;
}

mq_status mq_run_hessian(mq_run *run, int64_t block, mq_tap_id tap, mq_hessian **out)
{
    const mq_activations *a = &run->tap[tap];
    double *largest = NULL;
    *out = NULL;
    mq_status status = mq_alloc(a->width, sizeof *largest, "column bounds", &largest);
    if (status == MQ_OK) status = column_bounds(run, a, largest);
    if (status == MQ_OK) status = mq_hessian_create(a->width, out);
    status = mq_agree(run->comm, status);
    if (status == MQ_OK)
        status = mq_hessian_set_grid(*out, run->comm, largest, run->calib->n_units);
    if (status == MQ_OK) status = mq_agree(run->comm, add_units(run, a, *out));
    mq_timing_lap(&run->timing, MQ_T_HESSIAN);
    if (status == MQ_OK) status = mq_hessian_reduce(*out, run->comm);
    mq_timing_lap(&run->timing, MQ_T_REDUCE);
    if (status != MQ_OK) {
        mq_fail_in(status, "block %" PRId64 ", %s", block, mq_tap_name(tap));
        mq_hessian_destroy(out);
    }
    mq_free(&largest);
    return status;
}
