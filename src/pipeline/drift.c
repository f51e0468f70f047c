/* Asymmetric calibration: how far the quantised stream has drifted from the original one, as its
 * layers are to make up for it, and the sum of that over all tokens.
 *
 * x are the inputs of a tap and r the residual stream, hats mark the quantised stream. A layer that
 * reads the normed residual stream aims at W x: its drift is x - x^, the same for all layers of the
 * tap, and W is applied to the sum (algorithms.md 4). A layer that writes to the residual stream
 * aims at what the stream is after it, so that it makes up for earlier losses too; its drift is
 *     (r + W x) - (r^ + W x^),
 * r divided by the multiplier of what is added, where there is one, for W x is taken before it.
 * Where a norm stands before the addition nothing linear leads from W x^ to the stream, and the
 * experts of a token share what is to be made up for: such a layer aims at W x, like the others.
 * Its drift is W (x - x^), which is what they get in the end, since x may be wider than the
 * residual stream. */
#include "pipeline/experts.h"

#include "base/log.h"
#include "base/memory.h"
#include "ops/gemm.h"
#include "ops/kernels.h"

#include <inttypes.h>

static mq_status unit_drift(const mq_run *run, mq_tap_id tap, int64_t u)
{
    const mq_stream *now = &run->stream[MQ_QUANTISED], *then = &run->stream[MQ_ORIGINAL];
    const mq_calib *calib = mq_run_units(run, tap);
    int64_t n_tok = calib->unit[u].n_tokens, hidden = run->arch->hidden,
            width = now->tap[mq_tap_kind(tap)].width;
    mq_dtype dtype = now->x.dtype;
    void *drift = mq_activations_unit(&run->drift, calib, u);
    mq_linear_id linear = MQ_N_LINEARS;
    bool writes = mq_tap_writes_residual(tap, &linear);
    void *inputs = writes ? run->work : drift;
    MQ_TRY(mq_difference(mq_activations_unit(&then->tap[mq_tap_kind(tap)], calib, u),
                         mq_activations_unit(&now->tap[mq_tap_kind(tap)], calib, u), n_tok * width,
                         inputs, dtype));
    if (!writes) return MQ_OK;
    MQ_TRY(mq_linear(inputs, n_tok, width, then->weights->w[linear], hidden, NULL, drift, hidden,
                     dtype));
    if (!mq_arch_adds_alone(run->arch, linear)) return MQ_OK;
    return mq_add_difference(mq_activations_unit(&then->x, calib, u),
                             mq_activations_unit(&now->x, calib, u), 1 / run->arch->residual_scale,
                             n_tok * hidden, drift, dtype);
}

mq_status mq_run_drift(mq_run *run, mq_tap_id tap)
{
    mq_status status = MQ_OK;
    mq_linear_id linear;
    if (run->n_streams < 2) return MQ_OK;
    bool writes = mq_tap_writes_residual(tap, &linear);
    run->drift.width =
        writes ? run->arch->hidden : run->stream[MQ_QUANTISED].tap[mq_tap_kind(tap)].width;
    for (int64_t u = 0; u < mq_run_units(run, tap)->n_local_units && status == MQ_OK; u++) {
        status = unit_drift(run, tap, u);
    }
    status = mq_agree(run->comm, status);
    mq_timing_lap(&run->timing, MQ_T_FORWARD);
    return status;
}

static mq_status add_units(const mq_run *run, mq_tap_id tap, mq_cross *cross)
{
    const mq_activations *x = &run->stream[MQ_QUANTISED].tap[mq_tap_kind(tap)];
    const mq_calib *units = mq_run_units(run, tap);
    for (int64_t u = 0; u < units->n_local_units; u++) {
        MQ_TRY(mq_cross_add(cross, mq_activations_unit(&run->drift, units, u),
                            mq_activations_unit(x, units, u), x->dtype, units->unit[u].n_tokens));
    }
    return MQ_OK;
}

static mq_status sum_cross(mq_run *run, mq_tap_id tap, const mq_hessian *h, const double *largest,
                           mq_cross *cross)
{
    MQ_TRY(mq_cross_set_grid(cross, run->comm, largest, h->exponent, run->calib->n_units));
    MQ_TRY(mq_agree(run->comm, add_units(run, tap, cross)));
    mq_timing_lap(&run->timing, MQ_T_HESSIAN);
    MQ_TRY(mq_cross_reduce(cross, run->comm));
    mq_timing_lap(&run->timing, MQ_T_REDUCE);
    return MQ_OK;
}

mq_status mq_run_cross(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *h,
                       mq_cross **out)
{
    double *largest = NULL;
    *out = NULL;
    if (run->n_streams < 2) return MQ_OK;
    mq_status status = mq_alloc(run->drift.width, sizeof *largest, "column bounds", &largest);
    if (status == MQ_OK)
        status = mq_activations_bounds(&run->drift, mq_run_units(run, tap), largest);
    if (status == MQ_OK) status = mq_cross_create(run->drift.width, h->n, out);
    status = mq_agree(run->comm, status);
    if (status == MQ_OK) status = sum_cross(run, tap, h, largest, *out);
    if (status == MQ_E_NUMERIC && run->solver.go_on) {
        mq_warn("%s: NOT CORRECTED for the errors of earlier layers: the drift's %s",
                mq_tap_place(block, tap).text, mq_message());
        mq_cross_destroy(out);
        mq_free(&largest);
        return MQ_OK;
    }
    if (status != MQ_OK) mq_fail_in(status, "%s", mq_tap_place(block, tap).text);
    if (status != MQ_OK || (*out)->is_zero) mq_cross_destroy(out);
    mq_free(&largest);
    return status;
}
