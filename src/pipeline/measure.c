#include "pipeline/measure.h"

#include "base/log.h"
#include "pipeline/experts.h"
#include "pipeline/row_codes.h"
#include "plan/mix.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* Of the outputs, or of the weights where there was no factor to measure with. */
static double relative_loss(const mq_tap_system *s, const mq_tap_layer *layer)
{
    int part = s->factor ? MQ_STAT_LOSS : MQ_STAT_ERROR2;
    int whole = s->factor ? MQ_STAT_ENERGY : MQ_STAT_WEIGHT2;
    double of = mq_tap_result_sum(layer, whole);
    return of > 0 ? mq_tap_result_sum(layer, part) / of : 0;
}

/* Scales and codes at the width that run->result has; only their statistics are kept. */
static mq_status solve_rows(mq_run *run, int64_t block, const mq_tap_judge *judge, mq_tap_system *s)
{
    mq_status status = MQ_OK;
    for (int64_t p = 0; p < mq_row_passes(run) && status == MQ_OK; p++) {
        mq_row_work w = {0};
        status = mq_row_work_load(run, block, s, p, &w);
        if (status == MQ_OK) status = mq_row_work_scales(judge, &w);
        status = mq_agree(run->comm, status);
        mq_timing_lap(&run->timing, MQ_T_SCALES);
        if (status == MQ_OK) status = mq_agree(run->comm, mq_row_codes(run, 0, &w));
        mq_row_work_free(&w);
    }
    return status;
}

static mq_status every_width(mq_run *run, int64_t block, const mq_tap_judge *judge,
                             mq_tap_system *s, mq_measured *m)
{
    for (int j = 0; j < m->scheme->n_widths; j++) {
        for (int l = 0; l < run->result->n_layers; l++) {
            mq_tap_layer_set_bits(&run->result->layer[l], m->scheme->width[j]);
        }
        MQ_TRY(solve_rows(run, block, judge, s));
        MQ_TRY(mq_tap_result_publish_stats(run->comm, run->result));
        for (int l = 0; l < run->result->n_layers; l++) {
            const mq_tap_layer *layer = &run->result->layer[l];
            if (!mq_mix_is_free(m->scheme, block, layer->linear)) continue;
            double loss = relative_loss(s, layer);
            MQ_TRY(mq_run_check_loss(run, block, layer->linear, loss));
            m->loss[mq_measured_layer(m, block, layer->linear) * MQ_MAX_WIDTHS + j] = loss;
        }
        mq_timing_lap(&run->timing, MQ_T_LDLQ);
    }
    return MQ_OK;
}

static mq_status measure_layers(mq_run *run, int64_t block, mq_tap_id tap, mq_measured *m)
{
    mq_hessian *h = NULL;
    mq_tap_system s = {0};
    mq_tap_judge judge = {0};
    mq_status status = mq_run_hessian(run, block, tap, NULL, &h);
    if (status == MQ_OK) status = mq_run_find_ranges(run, block, h);
    if (status == MQ_OK) status = mq_agree(run->comm, mq_tap_system_create(run, h, &s));
    if (status == MQ_OK) status = mq_tap_system_factor(run, block, tap, run->solver.damping, &s);
    mq_timing_lap(&run->timing, MQ_T_FACTOR);
    if (status == MQ_OK) status = mq_agree(run->comm, mq_tap_judge_create(run, &s, &judge));
    if (status == MQ_OK) status = every_width(run, block, &judge, &s, m);
    mq_tap_judge_free(&judge);
    mq_tap_system_destroy(&s);
    mq_hessian_destroy(&h);
    return status;
}

static bool any_free(const mq_run *run, int64_t block)
{
    for (int l = 0; l < run->result->n_layers; l++) {
        if (mq_mix_is_free(run->scheme, block, run->result->layer[l].linear)) return true;
    }
    return false;
}

static mq_status measure_tap(mq_run *run, int64_t block, mq_tap_id tap, mq_measured *m)
{
    mq_linear_id writer = MQ_N_LINEARS;
    MQ_TRY(mq_run_produce(run, tap));
    MQ_TRY(mq_agree(run->comm, mq_tap_result_bind(run->result, run->scheme, block, tap)));
    if (mq_tap_writes_residual(tap, &writer)) {
        MQ_TRY(mq_run_added(run, tap, writer, &m->added[mq_measured_layer(m, block, writer)]));
    }
    return any_free(run, block) ? measure_layers(run, block, tap, m) : MQ_OK;
}

/* A mq_batch_visit of one; context: the mq_measured. */
static mq_status measure_expert(mq_run *run, int64_t block, int64_t expert, int64_t n, bool mid,
                                void *context)
{
    mq_tap_id tap = mq_expert_tap(expert, mid);
    (void)n;
    mq_experts_take(run, block, expert, mid);
    mq_status status = measure_tap(run, block, tap, context);
    mq_experts_release(run, tap);
    return status;
}

/* How much of a layer's relative loss arrives in what its sub-block adds to the residual stream. o
 * and down are what is added, and v goes through the attention as it is. Errors of q and k change
 * weights of a mean, the softmax's, which leaves a quarter; so do those of the layers that make the
 * queries of latent attention, while the others there make values too, as do those of linear
 * attention. The gate's count twice: where it is nearly shut its output is far smaller than the
 * change that its input makes. Fitted to the divergence that each layer causes by itself
 * (docs/how-it-works.md). */
static const double arrives[MQ_N_LINEARS] = {
    [MQ_Q] = 0.25,   [MQ_K] = 0.25, [MQ_V] = 1,      [MQ_Q_A] = 0.25, [MQ_KV_A] = 1,
    [MQ_Q_B] = 0.25, [MQ_KV_B] = 1, [MQ_IN_QKV] = 1, [MQ_IN_Z] = 1,   [MQ_O] = 1,
    [MQ_GATE] = 2,   [MQ_UP] = 1,   [MQ_DOWN] = 1,
};

/* A layer of several is as sensitive as the most sensitive of them; gates multiply what arrives. */
static double arrives_of(const mq_arch *arch, mq_linear_id linear)
{
    bool more = arch->fused_qkv || arch->attention_gate;
    return arrives[linear == MQ_Q && more ? MQ_V : mq_linear_role(linear)];
}

/* At 2 bits a layer by itself causes 1.6 times the divergence that its loss would make one expect
 * from 3 bits (demo model, geometric mean over layers: 1.2 for down to 2 for q, k and v). */
static double steepness(int bits)
{
    return bits == 2 ? 1.6 : 1;
}

/* Harm: the error's share of the residual stream. */
static void set_harm(int64_t block, mq_measured *m)
{
    for (int l = 0; l < mq_arch_n_linears(m->scheme->arch); l++) {
        double added = mq_measured_added(m, block, (mq_linear_id)l);
        for (int j = 0; j < m->scheme->n_widths; j++) {
            int64_t i = mq_measured_layer(m, block, (mq_linear_id)l) * MQ_MAX_WIDTHS + j;
            m->harm[i] = m->loss[i] * added * arrives_of(m->scheme->arch, (mq_linear_id)l) *
                         steepness(m->scheme->width[j]);
        }
    }
}

/* Mean relative losses of the block's layers at each width. */
static void log_block(const mq_measured *m, int64_t block, double walk_began, double block_began)
{
    int64_t done = block + 1, all = m->scheme->last_block, n = 0;
    double now = mq_seconds(), eta = (now - walk_began) / (double)done * (double)(all - done);
    char text[160] = "nothing to choose";
    size_t used = 0;
    for (int l = 0; l < mq_arch_n_linears(m->scheme->arch); l++)
        n += mq_mix_is_free(m->scheme, block, (mq_linear_id)l);
    for (int j = 0; j < m->scheme->n_widths && n > 0; j++) {
        double sum = 0;
        for (int l = 0; l < mq_arch_n_linears(m->scheme->arch); l++) {
            sum += m->loss[mq_measured_layer(m, block, (mq_linear_id)l) * MQ_MAX_WIDTHS + j];
        }
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%.2e at %d",
                                 j ? ", " : "mean relative loss ", sum / (double)n,
                                 m->scheme->width[j]);
    }
    mq_log("measured block %" PRId64 " of %" PRId64 ": %s%s; %.1f s, ETA %.0f s", done, all, text,
           n > 0 ? " bits" : "", now - block_began, eta);
}

static mq_status measure_block(mq_run *run, int64_t block, mq_measured *m)
{
    mq_tap_id taps[MQ_N_TAPS];
    int n_taps = mq_arch_taps(run->arch, block, taps);
    MQ_TRY(mq_run_read_block(run, block));
    for (int t = 0; t < n_taps; t++) {
        MQ_TRY(measure_tap(run, block, taps[t], m));
        bool routed = taps[t] == MQ_TAP_MLP_IN && run->arch->block[block].routed;
        if (routed) MQ_TRY(mq_run_experts(run, block, 1, measure_expert, m));
    }
    set_harm(block, m);
    return mq_run_finish_block(run);
}

static mq_status walk(mq_run *run, mq_measured *m)
{
    double started = mq_seconds();
    MQ_TRY(mq_run_embed(run));
    for (int64_t b = 0; b < run->scheme->last_block; b++) {
        double block_began = mq_seconds();
        MQ_TRY(measure_block(run, b, m));
        log_block(m, b, started, block_began);
    }
    return MQ_OK;
}

mq_status mq_run_measure(mq_run *run, mq_measured **out)
{
    int n_streams = run->n_streams;
    *out = NULL;
    mq_status status = mq_agree(run->comm, mq_measured_create(run->scheme, out));
    /* No weights are replaced, so a second stream would be the same. */
    run->n_streams = 1;
    if (status == MQ_OK) status = walk(run, *out);
    run->n_streams = n_streams;
    if (status != MQ_OK) mq_measured_destroy(out);
    return status;
}
