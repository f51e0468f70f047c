/* From a Hessian to codes: order, damping, one factorisation, then every rank its row blocks. */
#include "pipeline/column_scales.h"
#include "pipeline/correction.h"
#include "pipeline/experts.h"
#include "pipeline/row_codes.h"

#include "base/log.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* Past this share of a layer's own sum of squares little of it is left: F16 scales end at 65504 and
 * at 6e-8. Two bits with one scale a row and data enough stay below a half. */
static const double lost_layer = 0.9;

static void warn_lost(const mq_run *run, const mq_layer_result *r)
{
    char name[256];
    if (r->relative_error < lost_layer) return;
    mq_arch_linear_name(run->arch, r->linear, r->block, name, sizeof name);
    mq_warn("%s: the packed weights are off by %.3g of their sum of squares: too large or too "
            "small for F16 scales, or too little calibration data; keep the layer with --skip",
            name, r->relative_error);
}

mq_status mq_run_check_loss(const mq_run *run, int64_t block, mq_linear_id linear, double loss)
{
    char name[256];
    if (isfinite(loss)) return MQ_OK;
    mq_arch_linear_name(run->arch, linear, block, name, sizeof name);
    return mq_fail(MQ_E_NUMERIC,
                   "%s: the loss of its codes is not a finite number: its weights are too large to "
                   "be worked on in F32; keep it with --skip",
                   name);
}

static int64_t scaled_columns(const mq_tap_system *s)
{
    int64_t n = 0;
    for (int64_t j = 0; j < s->n; j++) n += s->scale[j] != 1;
    return n;
}

static mq_status report_layer(mq_run *run, int64_t block, mq_tap_id tap, const mq_tap_system *s,
                              const mq_damping_choice *damping, bool corrected, int l,
                              double seconds)
{
    const mq_tap_layer *layer = &run->result->layer[l];
    double loss = mq_tap_result_sum(layer, MQ_STAT_LOSS);
    double energy = mq_tap_result_sum(layer, MQ_STAT_ENERGY);
    double error2 = mq_tap_result_sum(layer, MQ_STAT_ERROR2);
    double weight2 = mq_tap_result_sum(layer, MQ_STAT_WEIGHT2);
    bool measured = s->factor != NULL;
    double share = energy > 0 ? 1 / energy : 0; /* no energy: nothing to lose */
    mq_layer_result r = {
        .block = block,
        .linear = layer->linear,
        .quant = layer->quant,
        .relative_loss = measured ? loss * share : NAN,
        .nearest_loss = measured ? mq_tap_result_sum(layer, MQ_STAT_NEAREST_LOSS) * share : NAN,
        .nearest_rows =
            measured ? (int64_t)mq_tap_result_sum(layer, MQ_STAT_NEAREST) : layer->n_out,
        .relative_error = weight2 > 0 ? error2 / weight2 : 0,
        .damping = s->damping.share,
        .shrinkage = s->damping.shrinkage,
        .alpha = corrected && measured ? run->alpha[mq_linear_role(layer->linear)] : 0,
        .half_loss = damping->half_loss[l],
        .held_out_loss = damping->held_out_loss[l],
        .attempts = s->attempts + (s->factor != NULL),
        .samples_left_out = run->samples_left_out,
        .tokens = s->h->n_tokens,
        .routed_tokens = mq_run_routed_tokens(run, tap),
        .rank_bound = mq_hessian_rank_bound(s->h),
        .dead = s->n_dead,
        .scaled = scaled_columns(s),
        .seconds = seconds,
    };
    r.quant.largest = NULL; /* is the tap's */
    snprintf(r.method, sizeof r.method, "%s", s->factor ? "ldlq" : "rtn");
    snprintf(r.trouble, sizeof r.trouble, "%s", mq_trouble_name(s->trouble));
    if (measured) MQ_TRY(mq_run_check_loss(run, block, r.linear, r.relative_loss + energy));
    warn_lost(run, &r);
    return mq_report_add(run->report, &r);
}

static void warn_fallback(const mq_run *run, int64_t block, mq_tap_id tap, const mq_tap_system *s)
{
    for (int l = 0; l < run->result->n_layers; l++) {
        char name[256];
        mq_arch_linear_name(run->arch, run->result->layer[l].linear, block, name, sizeof name);
        if (s->trouble == MQ_TROUBLE_NOT_FINITE) {
            mq_warn("%s: ROUNDED TO NEAREST: no sample is left whose activations can be summed",
                    name);
            continue;
        }
        mq_warn("%s: ROUNDED TO NEAREST: the Hessian of %s (%" PRId64 " tokens, %" PRId64
                " columns) could not be factored at any damping",
                name, mq_tap_name(tap), s->h->n_tokens, s->n);
    }
}

/* What all passes over the rows of a tap share. */
typedef struct pass_context {
    int64_t block;
    mq_tap_id tap;
    const mq_cross *cross; /* NULL: nothing to make up for */
    mq_tap_judge judge;
    mq_head_moments moments;
    bool couple; /* the rows of a head */
} pass_context;

static mq_status solve_pass(mq_run *run, const pass_context *c, mq_row_work *w)
{
    bool correct = c->cross && w->system->factor;
    if (correct) MQ_TRY(mq_correct_tap(run, c->tap, c->cross, w));
    mq_timing_lap(&run->timing, MQ_T_CORRECTION);
    MQ_TRY(mq_agree(run->comm, mq_row_work_scales(&c->judge, w)));
    mq_timing_lap(&run->timing, MQ_T_SCALES);
    if (c->couple) MQ_TRY(mq_agree(run->comm, mq_row_work_metrics(run, &c->moments, w)));
    mq_timing_lap(&run->timing, MQ_T_HEADS);
    /* The errors that the codes are chosen by are those of the corrected, scaled weights. */
    bool other = correct || w->system->scaled;
    mq_status status = mq_row_codes(run, run->solver.refine, w);
    if (status == MQ_OK && other) status = mq_row_work_measure(run, c->block, w);
    MQ_TRY(mq_agree(run->comm, status));
    mq_timing_lap(&run->timing, MQ_T_LDLQ);
    return MQ_OK;
}

static mq_status prepare_passes(mq_run *run, mq_tap_system *s, pass_context *c)
{
    MQ_TRY(mq_agree(run->comm, mq_tap_judge_create(run, s, &c->judge)));
    mq_timing_lap(&run->timing, MQ_T_SCALES);
    c->couple = run->solver.couple && s->factor && mq_arch_couples(run->arch, c->block, c->tap);
    if (c->couple) MQ_TRY(mq_head_moments_create(run, c->block, s, &c->moments));
    mq_timing_lap(&run->timing, MQ_T_HEADS);
    return MQ_OK;
}

/* From the factored system to codes in the node's memory. */
static mq_status solve_rows(mq_run *run, int64_t block, mq_tap_id tap, const mq_cross *cross,
                            mq_tap_system *s)
{
    pass_context c = {.block = block, .tap = tap, .cross = cross};
    mq_status status = prepare_passes(run, s, &c);
    for (int64_t p = 0; p < mq_row_passes(run) && status == MQ_OK; p++) {
        mq_row_work w = {0};
        status = mq_agree(run->comm, mq_row_work_load(run, block, s, p, &w));
        if (status == MQ_OK) status = solve_pass(run, &c, &w);
        mq_row_work_free(&w);
    }
    mq_tap_judge_free(&c.judge);
    mq_head_moments_free(&c.moments);
    if (status == MQ_OK) status = mq_tap_result_publish(run->comm, run->result);
    mq_timing_lap(&run->timing, MQ_T_LDLQ);
    return status;
}

mq_status mq_run_solve(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *h,
                       const mq_damping_choice *damping, const mq_cross *cross)
{
    mq_tap_system s = {0};
    double started = mq_seconds();
    mq_status status = mq_agree(run->comm, mq_tap_system_create(run, h, &s));
    if (status == MQ_OK) status = mq_tap_system_factor(run, block, tap, damping->damping, &s);
    mq_timing_lap(&run->timing, MQ_T_FACTOR);
    if (status == MQ_OK && damping->scale_columns && s.factor) {
        status = mq_scale_columns(run, tap, &s);
    }
    if (status == MQ_OK) status = solve_rows(run, block, tap, cross, &s);
    if (status == MQ_OK && !s.factor) warn_fallback(run, block, tap, &s);
    for (int l = 0; l < run->result->n_layers && status == MQ_OK; l++) {
        status =
            report_layer(run, block, tap, &s, damping, cross != NULL, l, mq_seconds() - started);
    }
    mq_tap_system_destroy(&s);
    if (status != MQ_OK) mq_fail_in(status, "%s", mq_tap_place(block, tap).text);
    return mq_agree(run->comm, status);
}
