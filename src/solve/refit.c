#include "base/checked.h"
#include "ops/gemm.h"
#include "ops/ops.h"
#include "solve/grid.h"
#include "solve/simd.h"
#include "solve/sweep.h"

#include <math.h>

/* Closed-form scales for frozen codes, in original column order. With z the group's codes minus
 * their zero, the loss as a function of a step ds of the group's scale is
 *     loss - 2 ds slope + ds^2 curve,   slope = G_g . z_g,   curve = z_g H_gg z_g^T.
 * A group may begin before the panel and end after it: slope and curve grow panel by panel, since
 * nothing of the row changes until the group's last column. Of the pairs of columns in curve those
 * in earlier panels are counted already, those across come from y = z H of the group's columns
 * before the panel (a product), those inside from the sequential part. When the group is done the
 * step goes to the gradient of the panel's later columns at once. */

enum {
    LANES = 32,
    PANEL = MQ_SOLVE_PANEL,
    DEPTH = 512, /* columns of z that are converted at once */
    SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1
};

typedef struct strip {
    float g[PANEL][LANES]; /* e H */
    float z[PANEL][LANES];
    float y[PANEL][LANES]; /* z H over the group's columns so far */
    double slope[LANES], curve[LANES];
    float step[LANES]; /* ds of the group that has just ended */
} strip;

typedef struct work {
    float g[MQ_ROW_BLOCK * PANEL];
    float y[MQ_ROW_BLOCK * PANEL];
    float z[MQ_ROW_BLOCK * DEPTH];
    strip strip;
} work;

/* y (128, size) = z[:, c0:c1] . H[c0:c1, panel]: original columns, all of one group. */
static mq_status add_past(const mq_sweep *p, const mq_row_block *b, int64_t c0, int64_t c1, work *w)
{
    int64_t group = b->quant.group, n_groups = p->n / group;
    for (int64_t c = c0; c < c1; c += DEPTH) {
        int64_t depth = mq_min_i64(DEPTH, c1 - c);
        for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
            const uint8_t *codes = b->codes + r * p->n + c;
            int zero = mq_zero_at(b, n_groups, r, c0 / group);
            for (int64_t j = 0; j < depth; j++) w->z[r * depth + j] = (float)(codes[j] - zero);
        }
        const mq_gemm_shape shape = {.m = MQ_ROW_BLOCK,
                                     .n = p->size,
                                     .k = depth,
                                     .lda = depth,
                                     .ldb = p->n,
                                     .ldc = p->size,
                                     .in = MQ_F32,
                                     .out = MQ_F32,
                                     .b_trans = true,
                                     .accumulate = c > c0};
        MQ_TRY(mq_gemm(&shape, w->z, p->h + c, w->y));
    }
    return MQ_OK;
}

/* Rows [r0, r0 + LANES) of the panel; `past`: the first group began before it. */
static void load_strip(const mq_sweep *p, const mq_refine_block *block, work *w, int64_t r0,
                       bool past)
{
    strip *s = &w->strip;
    int64_t group = block->block->quant.group, n_groups = p->n / group;
    for (int64_t l = 0; l < LANES; l++) {
        const uint8_t *codes = block->block->codes + (r0 + l) * p->n + p->k0;
        for (int64_t k = 0; k < p->size; k++) {
            s->g[k][l] = w->g[(r0 + l) * p->size + k];
            s->y[k][l] = past ? w->y[(r0 + l) * p->size + k] : 0;
            int zero = mq_zero_at(block->block, n_groups, r0 + l, (p->k0 + k) / group);
            s->z[k][l] = (float)(codes[k] - zero);
        }
        s->slope[l] = past ? block->slope[r0 + l] : 0;
        s->curve[l] = past ? block->curve[r0 + l] : 0;
    }
}

/* The group's columns [a, b) of the panel: adds to its slope and curve, and completes y for the
 * panel's columns from a on. */
MQ_SIMD static void add_segment(strip *s, const mq_sweep *p, int64_t a, int64_t b)
{
    for (int64_t k = a; k < p->size; k++) {
        const float *h = p->h + k * p->n + p->k0;
        float y[LANES] = {0};
        for (int64_t j = a; j < b; j++) {
            for (int l = 0; l < LANES; l++) y[l] += s->z[j][l] * h[j];
        }
        for (int l = 0; l < LANES && k < b; l++) {
            double z = (double)s->z[k][l];
            s->slope[l] += z * (double)s->g[k][l];
            s->curve[l] += z * (2 * (double)s->y[k][l] + (double)y[l]);
        }
        for (int l = 0; l < LANES; l++) s->y[k][l] += y[l];
    }
}

/* The scale with its step, on the grid, or as it was where that would not lower the loss; adds what
 * the step does to the loss. */
static float choose_scale(double slope, double curve, mq_scale_grid grid, float scale, double *loss)
{
    if (!(curve > 0)) return scale;
    double target = (double)scale + slope / curve;
    if (!(target * (double)scale > 0)) return scale;
    float rounded = copysignf(mq_round_scale(grid, (float)fabs(target)), scale);
    double step = (double)rounded - (double)scale, change = step * (step * curve - 2 * slope);
    if (!(change < 0)) return scale;
    *loss += change;
    return rounded;
}

/* The group `g` ends before column b of the panel: its step, into scales and errors. */
static void end_group(strip *s, const mq_sweep *p, mq_refine_block *block, int64_t r0, int64_t g)
{
    const mq_row_block *b = block->block;
    int64_t group = b->quant.group, n_groups = p->n / group;
    for (int64_t l = 0; l < LANES; l++) {
        int zero = mq_zero_at(b, n_groups, r0 + l, g);
        float *scale = block->scales + (r0 + l) * n_groups + g, old = *scale;
        *scale = choose_scale(s->slope[l], s->curve[l], b->quant.grid, old, &b->loss[r0 + l]);
        s->step[l] = *scale - old;
        s->slope[l] = s->curve[l] = 0;
        if (s->step[l] == 0) continue;
        const uint8_t *codes = b->codes + (r0 + l) * p->n;
        float *e = block->e + (r0 + l) * p->n;
        for (int64_t j = g * group; j < (g + 1) * group; j++) {
            e[j] -= s->step[l] * (float)(codes[j] - zero);
        }
    }
}

/* Columns [b, size) of the panel feel the step; the next group starts from nothing. */
MQ_SIMD static void apply_step(strip *s, int64_t b, int64_t size)
{
    for (int64_t k = b; k < size; k++) {
        for (int l = 0; l < LANES; l++) s->g[k][l] -= s->step[l] * s->y[k][l];
        for (int l = 0; l < LANES; l++) s->y[k][l] = 0;
    }
}

static void refit_strip(strip *s, const mq_sweep *p, mq_refine_block *block, int64_t r0)
{
    int64_t group = block->block->quant.group;
    for (int64_t a = 0; a < p->size;) {
        int64_t g = (p->k0 + a) / group, end = (g + 1) * group - p->k0;
        int64_t b = mq_min_i64(end, p->size);
        add_segment(s, p, a, b);
        if (end <= p->size) {
            end_group(s, p, block, r0, g);
            apply_step(s, b, p->size);
        }
        a = b;
    }
    for (int64_t l = 0; l < LANES; l++) {
        block->slope[r0 + l] = s->slope[l];
        block->curve[r0 + l] = s->curve[l];
    }
}

static mq_status refit_task(void *context, int64_t i)
{
    const mq_sweep *p = context;
    mq_refine_block *block = &p->blocks[i];
    if (block->block->metric) return MQ_OK; /* its scales serve another loss */
    work *w = mq_scratch(SCRATCH_SLOT, sizeof *w);
    if (!w) return mq_fail(MQ_E_MEMORY, "no memory for the refit of scales");
    int64_t first = p->k0 - p->k0 % block->block->quant.group;
    MQ_TRY(mq_sweep_gradient(p, block->e, w->g));
    MQ_TRY(add_past(p, block->block, first, p->k0, w));
    for (int64_t r0 = 0; r0 < MQ_ROW_BLOCK; r0 += LANES) {
        load_strip(p, block, w, r0, first < p->k0);
        refit_strip(&w->strip, p, block, r0);
    }
    return MQ_OK;
}

/* Errors in original order. */
static mq_status start_task(void *context, int64_t i)
{
    const mq_sweep *p = context;
    const mq_refine_block *block = &p->blocks[i];
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
        const float *from = block->block->e + r * p->n;
        for (int64_t k = 0; k < p->n; k++) block->e[r * p->n + p->order[k]] = from[k];
    }
    return MQ_OK;
}

mq_status mq_refit_scales(mq_refine_block *blocks, int64_t n_blocks, int64_t n,
                          const int64_t *order, mq_rows_source rows, void *context)
{
    mq_sweep s = {.blocks = blocks, .n_blocks = n_blocks, .n = n, .order = order};
    mq_status status = mq_sweep_check(&s);
    if (status == MQ_OK) status = mq_parallel_for(n_blocks, start_task, &s);
    MQ_TRY(mq_sweep_panels(&s, status, NULL, rows, context, refit_task));
    return mq_sweep_rebuild(&s);
}
