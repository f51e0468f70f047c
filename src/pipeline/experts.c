#include "pipeline/experts.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"
#include "par/collectives.h"
#include "pipeline/samples.h"

#include <inttypes.h>
#include <string.h>

/* ---- memory --------------------------------------------------------------------------------- */

void mq_experts_destroy(mq_experts **experts)
{
    mq_experts *x = *experts;
    if (!x) return;
    for (int s = 0; s < MQ_MAX_STREAMS; s++) {
        for (int64_t u = 0; x->route[s] && u < x->calib->n_local_units; u++) {
            mq_routes_free(&x->route[s][u]);
        }
        mq_free(&x->route[s]);
        mq_activations_free(&x->sum[s]);
    }
    for (int64_t i = 0; x->kept && i < x->batch; i++) mq_activations_free(&x->kept[i]);
    mq_free(&x->kept);
    mq_free(&x->n_routed);
    mq_free(&x->unit);
    mq_free(&x->offset);
    mq_expert_room_free(&x->room);
    mq_free(experts);
}

static mq_status create_stream(const mq_run *run, int s, mq_experts *x)
{
    const mq_calib *calib = run->calib;
    MQ_TRY(mq_alloc(calib->n_local_units, sizeof *x->route[s], "routes", &x->route[s]));
    for (int64_t u = 0; u < calib->n_local_units; u++) {
        MQ_TRY(mq_routes_create(run->arch, calib->unit[u].n_tokens, &x->route[s][u]));
    }
    return mq_activations_create(calib, run->arch->hidden, MQ_F32, "sum of experts", &x->sum[s]);
}

static mq_status create(mq_run *run, int64_t batch)
{
    const mq_calib *calib = run->calib;
    int64_t n_offsets = calib->n_local_units;
    MQ_TRY(mq_alloc(1, sizeof *run->experts, "experts", &run->experts));
    mq_experts *x = run->experts;
    x->calib = calib;
    x->batch = batch;
    MQ_TRY(mq_alloc(batch, sizeof *x->kept, "experts", &x->kept));
    x->part = *calib;
    for (int64_t u = 0; u < calib->n_local_units; u++) n_offsets += calib->unit[u].n_samples;
    MQ_TRY(mq_alloc(calib->n_local_units, sizeof *x->unit, "units of an expert", &x->unit));
    MQ_TRY(mq_alloc(n_offsets, sizeof *x->offset, "units of an expert", &x->offset));
    MQ_TRY(
        mq_alloc(run->arch->moe.routing.n_experts, sizeof *x->n_routed, "experts", &x->n_routed));
    x->part.unit = x->unit;
    for (int s = 0; s < run->n_streams; s++) MQ_TRY(create_stream(run, s, x));
    return mq_expert_room_create(run->arch, MQ_BF16, calib->max_unit_tokens, &x->room);
}

/* ---- routes --------------------------------------------------------------------------------- */

/* Tokens of samples that are left out go nowhere: skipped (n_tokens) of the u-th local unit, whose
 * first sample has this rank's number *sample. */
static void mark_skipped(const mq_run *run, int64_t u, int64_t *sample, uint8_t *skipped)
{
    const mq_unit *unit = &run->calib->unit[u];
    for (int64_t s = 0; s < unit->n_samples; s++, (*sample)++) {
        memset(skipped + unit->offset[s], run->left_out && run->left_out[*sample],
               (size_t)(unit->offset[s + 1] - unit->offset[s]));
    }
}

static mq_status route_stream(const mq_run *run, int s, uint8_t *skipped)
{
    mq_experts *x = run->experts;
    const mq_stream *stream = &run->stream[s];
    const mq_activations *y = &stream->tap[MQ_TAP_MLP_IN];
    int64_t sample = 0;
    for (int64_t u = 0; u < run->calib->n_local_units; u++) {
        mark_skipped(run, u, &sample, skipped);
        MQ_TRY(mq_mixture_route(stream->weights, mq_activations_unit(y, run->calib, u),
                                run->calib->unit[u].n_tokens, skipped, &x->route[s][u]));
    }
    return MQ_OK;
}

static mq_status route_all(const mq_run *run)
{
    mq_experts *x = run->experts;
    uint8_t *skipped = NULL;
    mq_status status = mq_alloc(run->calib->max_unit_tokens, 1, "tokens left out", &skipped);
    for (int s = 0; s < run->n_streams && status == MQ_OK; s++) {
        status = route_stream(run, s, skipped);
    }
    mq_free(&skipped);
    for (int64_t u = 0; u < run->calib->n_local_units && status == MQ_OK; u++) {
        const int64_t *begin = x->route[MQ_QUANTISED][u].begin;
        for (int64_t e = 0; e < run->arch->moe.routing.n_experts; e++) {
            x->n_routed[e] += begin[e + 1] - begin[e];
        }
    }
    return status;
}

/* Spoilt samples are found before they are routed. */
static mq_status begin(mq_run *run, int64_t block, int64_t batch)
{
    double *largest = NULL;
    mq_status status = create(run, batch);
    if (status == MQ_OK) {
        status = mq_alloc(run->arch->hidden, sizeof *largest, "column bounds", &largest);
    }
    status = mq_agree(run->comm, status);
    if (status == MQ_OK) status = mq_run_bounds(run, block, MQ_TAP_MLP_IN, largest);
    mq_free(&largest);
    if (status == MQ_OK) status = mq_agree(run->comm, route_all(run));
    if (status != MQ_OK) return status;
    return mq_sum_i64(run->comm, run->experts->n_routed, run->arch->moe.routing.n_experts);
}

/* ---- the expert in hand ---------------------------------------------------------------------- */

const mq_calib *mq_run_units(const mq_run *run, mq_tap_id tap)
{
    bool part = tap >= MQ_TAP_EXPERTS && run->experts && !run->experts->all_tokens;
    return part ? &run->experts->part : run->calib;
}

int64_t mq_run_token(const mq_run *run, mq_tap_id tap, int64_t u, int64_t row)
{
    if (mq_run_units(run, tap) == run->calib) return row;
    const mq_routes *route = &run->experts->route[MQ_QUANTISED][u];
    return route->token[route->begin[run->experts->expert] + row];
}

int64_t mq_run_routed_tokens(const mq_run *run, mq_tap_id tap)
{
    int64_t expert = mq_tap_expert(tap);
    return expert < 0 ? -1 : run->experts->n_routed[expert];
}

bool mq_run_takes_all_tokens(const mq_run *run, int64_t block, mq_tap_id tap)
{
    int64_t routed = mq_run_routed_tokens(run, tap);
    double least = run->solver.expert_coverage * (double)mq_arch_tap_width(run->arch, block, tap);
    return routed >= 0 && (run->solver.all_experts || routed == 0 || (double)routed < least);
}

/* Offsets of a unit's samples among the rows that go to the expert; returns those after them. */
static int64_t *cut_samples(const mq_unit *unit, const mq_routes *route, int64_t expert,
                            int64_t *offset)
{
    int64_t row = route->begin[expert], end = route->begin[expert + 1], first = row;
    for (int64_t s = 0; s < unit->n_samples; s++) {
        *offset++ = row - first;
        while (row < end && route->token[row] < unit->offset[s + 1]) row++;
    }
    *offset++ = row - first;
    return offset;
}

/* The units of the run with the tokens of one expert alone. */
void mq_experts_take(mq_run *run, int64_t block, int64_t expert, bool mid)
{
    mq_experts *x = run->experts;
    x->all_tokens = mq_run_takes_all_tokens(run, block, mq_expert_tap(expert, mid));
    int64_t *offset = x->offset, at = 0;
    x->expert = expert;
    for (int64_t u = 0; u < run->calib->n_local_units; u++) {
        const mq_unit *unit = &run->calib->unit[u];
        const mq_routes *route = &x->route[MQ_QUANTISED][u];
        x->unit[u] = *unit;
        x->unit[u].n_tokens = route->begin[expert + 1] - route->begin[expert];
        x->unit[u].token_begin = at;
        x->unit[u].offset = offset;
        x->unit[u].position = NULL;
        offset = cut_samples(unit, route, expert, offset);
        at += x->unit[u].n_tokens;
    }
    x->part.n_local_tokens = at;
    x->part.n_tokens = x->n_routed[expert];
}

/* in (n, hidden): what the expert in hand reads of the u-th local unit; returns n. */
static mq_status gather(const mq_run *run, const mq_stream *stream, int64_t u, void *in)
{
    const mq_experts *x = run->experts;
    const mq_routes *route = &x->route[MQ_QUANTISED][u];
    const mq_activations *y = &stream->tap[MQ_TAP_MLP_IN];
    const void *rows = mq_activations_unit(y, run->calib, u);
    if (x->all_tokens) {
        memcpy(in, rows,
               (size_t)(run->calib->unit[u].n_tokens * y->width) * mq_dtype_size(y->dtype));
        return MQ_OK;
    }
    return mq_expert_gather(stream->weights, route, route->begin[x->expert], x->unit[u].n_tokens,
                            rows, in);
}

mq_status mq_experts_produce(mq_run *run, mq_stream *stream, mq_tap_id tap)
{
    mq_experts *x = run->experts;
    const mq_calib *units = mq_run_units(run, tap);
    mq_activations *out = &stream->tap[mq_tap_kind(tap)];
    MQ_TRY(mq_activations_create(units, mq_arch_tap_width(run->arch, stream->weights->block, tap),
                                 stream->x.dtype, mq_tap_name(tap), out));
    for (int64_t u = 0; u < units->n_local_units; u++) {
        void *to = mq_activations_unit(out, units, u);
        if (units->unit[u].n_tokens == 0) continue;
        MQ_TRY(gather(run, stream, u, mq_tap_is_expert_mid(tap) ? x->room.in : to));
        if (!mq_tap_is_expert_mid(tap)) continue;
        MQ_TRY(mq_expert_mid(stream->weights, x->expert, x->room.in, units->unit[u].n_tokens,
                             x->room.work, to));
    }
    return MQ_OK;
}

/* ---- what experts make ----------------------------------------------------------------------- */

/* The rows between up and down of the tokens that a stream routes to the expert in hand, of the
 * u-th local unit: kept from the tap where that was over these tokens, else made anew. */
static mq_status find_mid(const mq_run *run, int s, int64_t u, const void **mid)
{
    mq_experts *x = run->experts;
    const mq_stream *stream = &run->stream[s];
    const mq_routes *route = &x->route[s][u];
    const mq_activations *y = &stream->tap[MQ_TAP_MLP_IN];
    const mq_activations *kept = &x->kept[x->expert - x->first];
    int64_t first = route->begin[x->expert], n = route->begin[x->expert + 1] - first;
    if (s == MQ_QUANTISED && kept->rows) {
        *mid = mq_activations_unit(kept, &x->part, u);
        return MQ_OK;
    }
    *mid = x->room.mid;
    MQ_TRY(mq_expert_gather(stream->weights, route, first, n, mq_activations_unit(y, run->calib, u),
                            x->room.in));
    return mq_expert_mid(stream->weights, x->expert, x->room.in, n, x->room.work, x->room.mid);
}

mq_status mq_experts_outputs(const mq_run *run, int s, int64_t u, mq_expert_rows *out)
{
    const mq_experts *x = run->experts;
    const mq_routes *route = &x->route[s][u];
    const void *mid = NULL;
    int64_t first = route->begin[x->expert];
    *out = (mq_expert_rows){.n = route->begin[x->expert + 1] - first,
                            .token = route->token + first,
                            .weight = mq_expert_weights(run->arch, route, first),
                            .rows = x->room.out};
    if (out->n == 0) return MQ_OK;
    MQ_TRY(find_mid(run, s, u, &mid));
    return mq_expert_out(run->stream[s].weights, x->expert, mid, out->n, x->room.out);
}

static mq_status add_outputs(const mq_run *run)
{
    mq_experts *x = run->experts;
    for (int s = 0; s < run->n_streams; s++) {
        for (int64_t u = 0; u < run->calib->n_local_units; u++) {
            mq_expert_rows y;
            MQ_TRY(mq_experts_outputs(run, s, u, &y));
            if (y.n == 0) continue;
            MQ_TRY(mq_scatter_add(y.rows, run->arch->hidden, run->stream[s].x.dtype, y.token,
                                  y.weight, y.n, mq_activations_unit(&x->sum[s], run->calib, u)));
        }
    }
    return MQ_OK;
}

void mq_experts_release(mq_run *run, mq_tap_id tap)
{
    mq_experts *x = run->experts;
    int kind = mq_tap_kind(tap);
    mq_activations *mid = &run->stream[MQ_QUANTISED].tap[kind];
    if (mq_tap_is_expert_mid(tap) && !x->all_tokens) {
        x->kept[x->expert - x->first] = *mid;
        *mid = (mq_activations){.rows = NULL};
    }
    for (int s = 0; s < run->n_streams; s++) mq_activations_free(&run->stream[s].tap[kind]);
}

static mq_status add_batch(mq_run *run, int64_t block, int64_t first, int64_t n)
{
    mq_experts *x = run->experts;
    mq_status status = MQ_OK;
    for (int64_t i = 0; i < n; i++) {
        mq_experts_take(run, block, first + i, true);
        if (status == MQ_OK) status = add_outputs(run);
        mq_activations_free(&x->kept[i]);
    }
    status = mq_agree(run->comm, status);
    mq_timing_lap(&run->timing, MQ_T_FORWARD);
    return status;
}

/* All experts at one of their taps. */
static mq_status visit_all(mq_run *run, int64_t block, int64_t batch, bool mid,
                           mq_batch_visit visit, void *context)
{
    int64_t n_experts = run->arch->moe.routing.n_experts;
    for (int64_t e = 0; e < n_experts; e += batch) {
        int64_t n = mq_min_i64(batch, n_experts - e);
        run->experts->first = e;
        MQ_TRY(visit(run, block, e, n, mid, context));
        if (mid) MQ_TRY(add_batch(run, block, e, n));
    }
    return MQ_OK;
}

static mq_status add_to_streams(mq_run *run)
{
    for (int s = 0; s < run->n_streams; s++) {
        mq_stream *stream = &run->stream[s];
        for (int64_t u = 0; u < run->calib->n_local_units; u++) {
            MQ_TRY(mq_add_sum(mq_activations_unit(&run->experts->sum[s], run->calib, u),
                              run->arch->residual_scale, run->calib->unit[u].n_tokens,
                              run->arch->hidden, mq_activations_unit(&stream->x, run->calib, u),
                              stream->x.dtype));
        }
    }
    return MQ_OK;
}

/* Which experts had to take all tokens. */
static void warn_thin(const mq_run *run, int64_t block)
{
    const mq_experts *x = run->experts;
    int64_t n_experts = run->arch->moe.routing.n_experts, n_thin = 0, least = INT64_MAX;
    for (int64_t e = 0; e < n_experts; e++) {
        n_thin += mq_run_takes_all_tokens(run, block, mq_expert_tap(e, false));
        least = mq_min_i64(least, x->n_routed[e]);
    }
    if (n_thin == 0 || run->solver.all_experts) return;
    mq_warn("block %" PRId64 ": %" PRId64 " of %" PRId64
            " experts saw fewer than %g tokens for each input column (the rarest %" PRId64
            " tokens in all) and are calibrated on all tokens instead",
            block, n_thin, n_experts, run->solver.expert_coverage, least);
}

/* What all experts read comes first, whatever the batches: a sample that is left out at the down of
 * one must be in the sums of the same taps for any number of ranks. */
mq_status mq_run_experts(mq_run *run, int64_t block, int64_t batch, mq_batch_visit visit,
                         void *context)
{
    mq_status status = begin(run, block, batch);
    mq_timing_lap(&run->timing, MQ_T_FORWARD);
    if (status == MQ_OK) warn_thin(run, block);
    if (status == MQ_OK) status = visit_all(run, block, batch, false, visit, context);
    if (status == MQ_OK) status = visit_all(run, block, batch, true, visit, context);
    if (status == MQ_OK) status = mq_agree(run->comm, add_to_streams(run));
    mq_experts_destroy(&run->experts);
    mq_timing_lap(&run->timing, MQ_T_FORWARD);
    return status;
}
