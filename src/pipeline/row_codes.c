#include "pipeline/row_codes.h"

#include "pipeline/refine_tap.h"
#include "pipeline/row_guard.h"

static mq_status solve(const mq_run *run, int rounds, mq_row_work *w, mq_row_guard *guard)
{
    mq_tap_system *s = w->system;
    MQ_TRY(mq_row_guard_create(run, w, guard));
    mq_status status = mq_agree(
        run->comm, mq_ldlq(w->block, w->n_blocks, s->n, s->order, s->r, mq_tap_system_panel, s));
    if (status == MQ_OK) status = mq_refine_tap(run, rounds, w);
    return status == MQ_OK ? mq_row_guard_apply(w, guard) : status;
}

mq_status mq_row_codes(const mq_run *run, int rounds, mq_row_work *w)
{
    mq_row_guard guard = {0};
    const mq_tap_system *s = w->system;
    if (!s->factor) return mq_round_nearest(w->block, w->n_blocks, s->n, s->order);
    mq_status status = solve(run, rounds, w, &guard);
    mq_row_guard_free(&guard);
    return status;
}
