/* From a tap's activations to its Hessian. */
#include "pipeline/experts.h"
#include "pipeline/samples.h"

#include "base/memory.h"

#include <inttypes.h>

static mq_status add_units(const mq_run *run, mq_tap_id tap, mq_hessian *half, mq_hessian *h)
{
    const mq_activations *a = &run->stream[MQ_QUANTISED].tap[mq_tap_kind(tap)];
    const mq_calib *units = mq_run_units(run, tap);
    for (int64_t u = 0; u < units->n_local_units; u++) {
        const mq_unit *unit = &units->unit[u];
        const char *rows = mq_activations_unit(a, units, u);
        int64_t cut = half ? mq_unit_half(unit) : 0;
        size_t bytes = (size_t)(cut * a->width) * mq_dtype_size(a->dtype);
        if (half) MQ_TRY(mq_hessian_add(half, rows, a->dtype, cut));
        MQ_TRY(mq_hessian_add(h, rows + bytes, a->dtype, unit->n_tokens - cut));
    }
    int64_t in_half = 0, in_rest = 0;
    mq_run_tokens_left_out(run, units, &in_half, &in_rest);
    h->n_tokens -= half ? in_rest : in_half + in_rest;
    if (half) half->n_tokens -= in_half;
    return MQ_OK;
}

/* half and h are empty; h holds the rest of the tokens until both are summed. */
static mq_status sum_units(mq_run *run, mq_tap_id tap, const double *largest, mq_hessian *half,
                           mq_hessian *h)
{
    const mq_comm *comm = run->comm;
    MQ_TRY(mq_hessian_set_grid(h, comm, largest, run->calib->n_units));
    if (half) MQ_TRY(mq_hessian_set_grid(half, comm, largest, run->calib->n_units));
    MQ_TRY(mq_agree(comm, add_units(run, tap, half, h)));
    mq_timing_lap(&run->timing, MQ_T_HESSIAN);
    MQ_TRY(mq_hessian_reduce(h, comm));
    if (half) {
        MQ_TRY(mq_hessian_reduce(half, comm));
        MQ_TRY(mq_agree(comm, mq_hessian_merge(h, half)));
    }
    mq_timing_lap(&run->timing, MQ_T_REDUCE);
    return MQ_OK;
}

mq_status mq_run_hessian(mq_run *run, int64_t block, mq_tap_id tap, mq_hessian **half,
                         mq_hessian **out)
{
    const mq_activations *a = &run->stream[MQ_QUANTISED].tap[mq_tap_kind(tap)];
    double *largest = NULL;
    *out = NULL;
    mq_status status = mq_alloc(a->width, sizeof *largest, "column bounds", &largest);
    if (status == MQ_OK) status = mq_hessian_create(a->width, out);
    if (status == MQ_OK && half) status = mq_hessian_create(a->width, half);
    status = mq_agree(run->comm, status);
    if (status == MQ_OK) status = mq_run_bounds(run, block, tap, largest);
    if (status == MQ_OK) status = sum_units(run, tap, largest, half ? *half : NULL, *out);
    if (status != MQ_OK) {
        mq_fail_in(status, "%s", mq_tap_place(block, tap).text);
        mq_hessian_destroy(out);
        if (half) mq_hessian_destroy(half);
    }
    mq_free(&largest);
    return status;
}
