/* From a tap's activations to its Hessian. */
#include "pipeline/samples.h"

#include "base/memory.h"

#include <inttypes.h>

static mq_status add_units(const mq_run *run, const mq_activations *a, mq_hessian *h)
{
    for (int64_t u = 0; u < run->calib->n_local_units; u++) {
        MQ_TRY(mq_hessian_add(h, mq_activations_unit(a, run->calib, u), a->dtype,
                              run->calib->unit[u].n_tokens));
    }
    h->n_tokens -= mq_run_tokens_left_out(run);
    return MQ_OK;
}

mq_status mq_run_hessian(mq_run *run, int64_t block, mq_tap_id tap, mq_hessian **out)
{
    const mq_activations *a = &run->stream[MQ_QUANTISED].tap[tap];
    double *largest = NULL;
    *out = NULL;
    mq_status status = mq_alloc(a->width, sizeof *largest, "column bounds", &largest);
    if (status == MQ_OK) status = mq_hessian_create(a->width, out);
    status = mq_agree(run->comm, status);
    if (status == MQ_OK) status = mq_run_bounds(run, block, tap, largest);
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
