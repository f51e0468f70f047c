#include "plan/memory.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"
#include "hessian/cross.h"
#include "hessian/hessian.h"
#include "linalg/factor.h"
#include "model/block.h"
#include "par/collectives.h"

#include <inttypes.h>

static const double mib = 1024.0 * 1024.0;

static mq_status area(int64_t rows, int64_t columns, size_t element, size_t *out)
{
    int64_t count = 0;
    MQ_TRY(mq_mul_i64(rows, columns, &count));
    return mq_mul_size((size_t)count, element, out);
}

static void at_least(size_t bytes, size_t *most)
{
    if (bytes > *most) *most = bytes;
}

/* Of the largest block. */
static mq_status block_weight_bytes(const mq_arch *arch, size_t *out)
{
    *out = 0;
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        size_t all = 0;
        for (int l = 0; l < mq_arch_n_linears(arch); l++) {
            int64_t n_out = 0, n_in = 0;
            size_t bytes = 0;
            if (!mq_arch_has(arch, b, (mq_linear_id)l)) continue;
            mq_arch_linear_shape(arch, b, (mq_linear_id)l, &n_out, &n_in);
            MQ_TRY(area(n_out, n_in, mq_dtype_size(MQ_BF16), &bytes));
            MQ_TRY(mq_add_size(all, bytes, &all));
        }
        at_least(all, out);
    }
    return MQ_OK;
}

/* The wider tap of a routed expert, which at worst has a row for every token. */
static int64_t expert_width(const mq_arch *arch, int64_t block)
{
    return mq_max_i64(mq_arch_tap_width(arch, block, mq_expert_tap(0, false)),
                      mq_arch_tap_width(arch, block, mq_expert_tap(0, true)));
}

/* With routed experts: the F32 sum of what they make, of every token, and where each goes; what the
 * router makes of the tokens of one unit (model/mixture.h), and what one of them holds of
 * the tokens of one unit (model/mixture.h). */
static mq_status add_experts(const mq_arch *arch, const mq_memory_place *place, mq_memory_plan *p)
{
    bool routed = false;
    const mq_routing_kind *routing = &arch->moe.routing;
    size_t sum = 0, room = 0, routes = 0, logits = 0;
    for (int64_t b = 0; b < arch->n_blocks; b++) routed = routed || arch->block[b].routed;
    if (!routed) return MQ_OK;
    MQ_TRY(area(place->rank_tokens, arch->hidden, mq_dtype_size(MQ_F32), &sum));
    MQ_TRY(area(place->unit_tokens, 2 * arch->hidden + 3 * arch->moe.intermediate,
                mq_dtype_size(MQ_BF16), &room));
    MQ_TRY(area(place->rank_tokens, routing->top_k, sizeof(int32_t) + sizeof(float), &routes));
    MQ_TRY(area(place->unit_tokens, routing->n_experts, sizeof(float), &logits));
    MQ_TRY(mq_add_size(p->taps, sum, &p->taps));
    MQ_TRY(mq_add_size(p->taps, routes, &p->taps));
    MQ_TRY(mq_add_size(p->work, logits, &p->work));
    return mq_add_size(p->work, room, &p->work);
}

/* Taps that live together: one is read while the next is made, or while experts have their turn:
 * then what the downs of as many of them as there are ranks read is kept, of a token those of its
 * own. */
static mq_status tap_bytes(const mq_arch *arch, const mq_memory_place *place, size_t *out)
{
    int64_t n_tokens = place->rank_tokens;
    int64_t kept = mq_min_i64(place->ranks, arch->moe.routing.top_k) * arch->moe.intermediate;
    int64_t most = 0;
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        mq_tap_id taps[MQ_N_TAPS];
        int n = mq_arch_taps(arch, b, taps);
        int64_t widest = 0, sum = 0, attention = 0;
        for (int t = 0; t < n; t++) {
            int64_t width = mq_arch_tap_width(arch, b, taps[t]);
            int64_t next = t + 1 < n ? mq_arch_tap_width(arch, b, taps[t + 1]) : 0;
            widest = mq_max_i64(widest, width + next);
            /* What latent attention is made from lives until it is made. */
            if (taps[t] <= MQ_TAP_ATTN_OUT) attention += width;
            sum += width;
        }
        widest = mq_max_i64(widest, attention);
        if (arch->block[b].routed) {
            widest = mq_max_i64(widest, arch->hidden + expert_width(arch, b) + kept);
        }
        most = mq_max_i64(most, arch->parallel_block ? sum : widest);
    }
    return area(n_tokens, most, mq_dtype_size(MQ_BF16), out);
}

/* The best codes so far, and rows of H. */
static mq_status refine_bytes(int64_t rows, int64_t n, size_t *out)
{
    size_t bytes = 0;
    MQ_TRY(area(rows, n, 1, out));
    MQ_TRY(area(MQ_SOLVE_PANEL, n, sizeof(float), &bytes));
    return mq_add_size(*out, bytes, out);
}

/* Rows of W, their errors, and what the judge of scales and then refinement hold. */
static mq_status row_bytes(int64_t rows, int64_t n, const mq_memory_settings *settings, size_t *out)
{
    size_t judge = 0, refine = 0;
    MQ_TRY(area(rows, n, 2 * sizeof(float), out));
    MQ_TRY(area(n, settings->judged_group, sizeof(float), &judge));
    if (settings->refine) MQ_TRY(refine_bytes(rows, n, &refine));
    at_least(judge, &refine);
    return mq_add_size(*out, refine, out);
}

/* What rows of heads are coupled by: moments of q and k, rows of H and, for every thread, of a head
 * that they are made from, and a metric for each of this rank's row blocks. */
static mq_status head_bytes(const mq_arch *arch, int64_t row_blocks, int threads, size_t *out)
{
    int64_t moments = 0, hd = arch->head_dim;
    size_t bytes = 0;
    MQ_TRY(mq_mul_i64(arch->n_heads + arch->n_kv_heads, hd, &moments));
    MQ_TRY(area(moments, hd, sizeof(double), out));
    MQ_TRY(area(MQ_SOLVE_PANEL + threads * hd, arch->hidden, sizeof(float), &bytes));
    MQ_TRY(mq_add_size(*out, bytes, out));
    MQ_TRY(area(row_blocks, 1, sizeof(mq_row_metric), &bytes));
    return mq_add_size(*out, bytes, out);
}

/* While damping is measured: a second Hessian; weights and codes of sampled rows, as they are and
 * scaled, and the errors of each trial, at worst a block of rows for every layer; rows of H. What
 * alpha takes after that is less. */
static mq_status held_out_bytes(int64_t n, int n_linears, size_t hessian, size_t *out)
{
    enum { FLOATS_OF_A_BLOCK = 11, FLOATS_OF_ROWS = 6 };
    int64_t rows = MQ_ROW_BLOCK * (FLOATS_OF_A_BLOCK * (int64_t)n_linears + FLOATS_OF_ROWS);
    MQ_TRY(area(rows, n, sizeof(float), out));
    return mq_add_size(*out, hessian, out);
}

static mq_status tap_solver_bytes(const mq_memory_place *place, const mq_arch *arch, int64_t block,
                                  mq_tap_id tap, const mq_memory_settings *settings,
                                  mq_memory_plan *p)
{
    mq_linear_id linears[MQ_N_LINEARS];
    int64_t n = mq_arch_tap_width(arch, block, tap), rows = 0;
    size_t bytes = 0, cross = 0, held_out = 0;
    bool distributed = n > settings->distribute_above;
    bool alone = mq_tap_expert(tap) >= 0 && !distributed; /* one rank solves an expert */
    int n_linears = mq_arch_tap_linears(arch, block, tap, linears);
    for (int l = 0; l < n_linears; l++) {
        int64_t n_out = 0, n_in = 0;
        mq_arch_linear_shape(arch, block, linears[l], &n_out, &n_in);
        rows += mq_ceil_div(n_out, MQ_ROW_BLOCK);
    }
    MQ_TRY(mq_factor_fits(n, place->ranks, distributed));
    MQ_TRY(mq_hessian_bytes(n, &bytes));
    if (settings->n_streams > 1) {
        mq_linear_id writer;
        int64_t drift = mq_tap_writes_residual(tap, &writer) ? arch->hidden : n;
        MQ_TRY(mq_cross_bytes(drift, n, &cross));
    }
    if (settings->halves) MQ_TRY(held_out_bytes(n, n_linears, bytes, &held_out));
    if (alone) {
        MQ_TRY(mq_add_size(cross, held_out, &cross));
        MQ_TRY(mq_add_size(bytes, cross, &bytes));
        /* Its own, that of the expert being summed, and of what experts read that of all tokens. */
        MQ_TRY(mq_mul_size(bytes, mq_tap_is_expert_mid(tap) ? 2 : 3, &bytes));
    } else {
        at_least(held_out, &cross); /* gone before the cross sum is made */
        MQ_TRY(mq_add_size(bytes, cross, &bytes));
    }
    at_least(bytes, &p->hessian);
    int64_t parts = distributed ? place->ranks : 1;
    MQ_TRY(area(mq_ceil_div(n, parts) + MQ_FACTOR_PANEL, n, sizeof(double), &bytes));
    at_least(bytes, &p->factor);
    rows = mq_min_i64(alone ? rows : mq_ceil_div(rows, place->ranks), settings->pass_blocks);
    MQ_TRY(row_bytes(rows * MQ_ROW_BLOCK, n, settings, &bytes));
    if (alone) MQ_TRY(mq_add_size(bytes, settings->expert_codes, &bytes));
    if (settings->couple && mq_arch_couples(arch, block, tap)) {
        size_t heads = 0;
        MQ_TRY(head_bytes(arch, rows, settings->threads, &heads));
        MQ_TRY(mq_add_size(bytes, heads, &bytes));
    }
    at_least(bytes, &p->rows);
    return MQ_OK;
}

static mq_status solver_bytes(const mq_memory_place *place, const mq_scheme *scheme,
                              const mq_memory_settings *settings, mq_memory_plan *p)
{
    const mq_arch *arch = scheme->arch;
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        mq_tap_id taps[MQ_N_TAPS];
        int n_taps = mq_arch_taps(arch, b, taps);
        for (int t = 0; t < n_taps; t++) {
            MQ_TRY(tap_solver_bytes(place, arch, b, taps[t], settings, p));
        }
        if (!arch->block[b].routed) continue;
        MQ_TRY(tap_solver_bytes(place, arch, b, mq_expert_tap(0, false), settings, p));
        MQ_TRY(tap_solver_bytes(place, arch, b, mq_expert_tap(0, true), settings, p));
    }
    if (!scheme->head.quantise) return MQ_OK;
    return tap_solver_bytes(place, arch, arch->n_blocks - 1, MQ_TAP_HEAD_IN, settings, p);
}

/* What every stream has for itself, and the drift between two. */
static mq_status add_stream(const mq_arch *arch, int64_t n_tokens, mq_memory_plan *p)
{
    size_t drift = 0;
    MQ_TRY(area(n_tokens, mq_arch_normed_width(arch), mq_dtype_size(MQ_BF16), &drift));
    MQ_TRY(mq_mul_size(p->residual, 2, &p->residual));
    MQ_TRY(mq_add_size(p->residual, drift, &p->residual));
    MQ_TRY(mq_mul_size(p->taps, 2, &p->taps));
    return mq_mul_size(p->weights, 2, &p->weights);
}

/* The drift of the outputs of the rows that alpha is measured on. */
static mq_status add_sampled_drift(int64_t n_tokens, int64_t rows, mq_memory_plan *p)
{
    size_t bytes = 0;
    MQ_TRY(area(n_tokens, rows, mq_dtype_size(MQ_BF16), &bytes));
    return mq_add_size(p->residual, bytes, &p->residual);
}

/* With a budget of bits a first walk measures what layers add to the residual stream: the outputs
 * of one unit. */
static mq_status add_measuring(const mq_arch *arch, int64_t unit_tokens, mq_memory_plan *p)
{
    size_t bytes = 0;
    MQ_TRY(area(unit_tokens, arch->hidden, mq_dtype_size(MQ_BF16), &bytes));
    return mq_add_size(p->work, bytes, &p->work);
}

static mq_status sum_up(const mq_memory_place *place, mq_memory_plan *p)
{
    const size_t parts[] = {p->residual, p->taps, p->work, p->hessian, p->factor, p->rows};
    p->rank = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        MQ_TRY(mq_add_size(p->rank, parts[i], &p->rank));
    }
    MQ_TRY(mq_mul_size(p->rank, (size_t)place->ranks_of_node, &p->node));
    MQ_TRY(mq_add_size(p->node, p->weights, &p->node));
    return mq_add_size(p->node, p->codes, &p->node);
}

mq_status mq_memory_plan_for(const mq_memory_place *place, const mq_scheme *scheme,
                             const mq_memory_settings *settings, mq_memory_plan *out)
{
    const mq_arch *arch = scheme->arch;
    int64_t tokens = place->rank_tokens, unit = place->unit_tokens;
    mq_memory_plan *p = out;
    *p = (mq_memory_plan){.codes = settings->codes};
    MQ_TRY(area(tokens, arch->hidden, mq_dtype_size(MQ_BF16), &p->residual));
    MQ_TRY(tap_bytes(arch, place, &p->taps));
    MQ_TRY(mq_block_work_bytes(arch, MQ_BF16, unit, &p->work));
    MQ_TRY(add_experts(arch, place, p));
    MQ_TRY(block_weight_bytes(arch, &p->weights));
    MQ_TRY(solver_bytes(place, scheme, settings, p));
    if (settings->n_streams > 1) MQ_TRY(add_stream(arch, tokens, p));
    MQ_TRY(add_sampled_drift(tokens, settings->drift_rows, p));
    if (scheme->average_bits > 0) MQ_TRY(add_measuring(arch, unit, p));
    return sum_up(place, p);
}

mq_status mq_memory_plan_make(const mq_comm *comm, const mq_scheme *scheme, const mq_calib *calib,
                              const mq_memory_settings *settings, mq_memory_plan *out)
{
    mq_memory_place place = {.ranks = comm->size,
                             .ranks_of_node = comm->node_size,
                             .rank_tokens = calib->n_local_tokens,
                             .unit_tokens = calib->max_unit_tokens};
    MQ_TRY(mq_highest_i64(comm, &place.rank_tokens, 1));
    return mq_agree(comm, mq_memory_plan_for(&place, scheme, settings, out));
}

mq_status mq_memory_plan_check(const mq_comm *comm, const mq_memory_plan *plan)
{
    size_t have = mq_memory_of_node();
    mq_status status = MQ_OK;
    if (have > 0 && plan->node > have) {
        status = mq_fail(MQ_E_MEMORY,
                         "the run needs %.0f MiB on this node (%d ranks of %.0f MiB, %.0f MiB "
                         "shared), which has %.0f MiB: use more nodes, fewer ranks a node, or "
                         "fewer samples (--samples)",
                         (double)plan->node / mib, comm->node_size, (double)plan->rank / mib,
                         (double)(plan->weights + plan->codes) / mib, (double)have / mib);
    }
    return mq_agree(comm, status);
}

void mq_memory_plan_log(const mq_memory_plan *plan)
{
    mq_log("memory plan: %.1f MiB a rank (residual %.1f, taps %.1f, unit %.1f, Hessian %.1f, "
           "factor %.1f, rows %.1f)",
           (double)plan->rank / mib, (double)plan->residual / mib, (double)plan->taps / mib,
           (double)plan->work / mib, (double)plan->hessian / mib, (double)plan->factor / mib,
           (double)plan->rows / mib);
    mq_log("             %.1f MiB shared by a node (weights of a block %.1f, codes of a tap %.1f)",
           (double)(plan->weights + plan->codes) / mib, (double)plan->weights / mib,
           (double)plan->codes / mib);
}
