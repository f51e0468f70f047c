#include "base/checked.h"
#include "ops/gemm.h"
#include "ops/ops.h"
#include "solve/grid.h"
#include "solve/simd.h"
#include "solve/sweep.h"

#include <math.h>

/* One sweep over the columns: the codes of a group one after another under its scale, then its
 * scale in closed form under its codes, then the next group. In a panel 32 rows go at once; a
 * change reaches the gradient of the panel's later columns at once, that of later panels by their
 * product.
 *
 * With z the group's codes minus their zero, the loss as a function of a step ds of its scale is
 *     loss - 2 ds slope + ds^2 curve,   slope = G_g . z_g,   curve = z_g H_gg z_g^T.
 * Both grow column by column: y = z H over the group's columns so far gives the pairs of columns in
 * curve, what a change of an error does to the slope of the columns before it, and, when the group
 * is done, what the step does to the gradient of the columns after it. Where the group began before
 * the panel, y starts from a product. */

enum {
    LANES = 32,
    PANEL = MQ_SOLVE_PANEL,
    DEPTH = 512, /* columns of z that are converted at once */
    SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1
};

typedef struct strip {
    float g[PANEL][LANES]; /* e H */
    float y[PANEL][LANES]; /* z H over the group's columns so far */
    float w[PANEL][LANES];
    float e[PANEL][LANES];
    float z[PANEL][LANES];
    float scale[LANES], zero[LANES]; /* of the group */
    double slope[LANES], curve[LANES], loss[LANES];
} strip;

typedef struct work {
    float g[MQ_ROW_BLOCK * PANEL];
    float y[MQ_ROW_BLOCK * PANEL];
    float z[MQ_ROW_BLOCK * DEPTH];
    strip strip;
} work;

/* y (128, size) = z[:, c0:c1] . H[c0:c1, panel]: columns of one group. */
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

/* Rows [r0, r0 + LANES) of the panel; `past`: its first group began before it. */
static void load_strip(const mq_sweep *p, const mq_refine_block *block, work *w, int64_t r0,
                       bool past)
{
    strip *s = &w->strip;
    const mq_row_block *b = block->block;
    int64_t group = b->quant.group, n_groups = p->n / group;
    for (int64_t l = 0; l < LANES; l++) {
        int64_t r = r0 + l, at = r * p->n + p->k0;
        for (int64_t k = 0; k < p->size; k++) {
            s->g[k][l] = w->g[r * p->size + k];
            s->y[k][l] = past ? w->y[r * p->size + k] : 0;
            s->w[k][l] = b->w[at + k];
            s->e[k][l] = b->e[at + k];
            s->z[k][l] =
                (float)(b->codes[at + k] - mq_zero_at(b, n_groups, r, (p->k0 + k) / group));
        }
        s->slope[l] = past ? block->slope[r] : 0;
        s->curve[l] = past ? block->curve[r] : 0;
        s->loss[l] = b->loss[r];
    }
}

static void load_group(const mq_sweep *p, const mq_refine_block *block, strip *s, int64_t r0,
                       int64_t g)
{
    int64_t n_groups = p->n / block->block->quant.group;
    for (int64_t l = 0; l < LANES; l++) {
        float scale = block->scales[(r0 + l) * n_groups + g];
        s->scale[l] = scale != 0 ? scale : 1; /* padding rows */
        s->zero[l] = (float)mq_zero_at(block->block, n_groups, r0 + l, g);
    }
}

/* Column k gets its best codes under the errors of all others, and its part in slope and curve.
 * h: H_kk; inverse: 1 / h, or 0 for a dead column, which then stays. Leaves the change of e. */
static inline void step_column(strip *s, int64_t k, float h, float inverse, float top,
                               float *change)
{
    for (int l = 0; l < LANES; l++) {
        float g = s->g[k][l], y = s->y[k][l], z = s->z[k][l], scale = s->scale[l];
        float q = mq_round_even(mq_clamp(z + g * inverse / scale, -s->zero[l], top - s->zero[l]));
        float d = (q - z) * scale, gain = d * (2 * g - d * h);
        bool take = gain > 0;
        float e = take ? s->w[k][l] - q * scale : s->e[k][l];
        change[l] = e - s->e[k][l];
        z = take ? q : z;
        s->z[k][l] = z;
        s->e[k][l] = e;
        s->loss[l] -= take ? (double)gain : 0;
        s->slope[l] += (double)(z * (g + change[l] * h)) + (double)(change[l] * y);
        s->curve[l] += (double)(z * (2 * y + z * h));
    }
}

/* The group's columns [a, b) of the panel. */
MQ_SIMD static void step_columns(strip *s, const mq_sweep *p, int64_t a, int64_t b, int bits)
{
    float top = (float)((1 << bits) - 1);
    for (int64_t k = a; k < b; k++) {
        const float *h = p->h + k * p->n + p->k0;
        float change[LANES];
        step_column(s, k, h[k], h[k] > 0 ? 1 / h[k] : 0, top, change);
        for (int64_t j = k + 1; j < p->size; j++) {
            for (int l = 0; l < LANES; l++) s->g[j][l] += change[l] * h[j];
            for (int l = 0; l < LANES; l++) s->y[j][l] += s->z[k][l] * h[j];
        }
    }
}

/* The scale with its step, on the grid, or as it was where that would not lower the loss; adds what
 * the step does to the loss. */
static float choose_scale(double slope, double curve, const mq_quant *quant, int64_t g, float scale,
                          double *loss)
{
    if (!(curve > 0)) return scale;
    double target = (double)scale + slope / curve;
    if (!(target * (double)scale > 0)) return scale;
    float rounded = copysignf(mq_round_scale(quant, g, (float)fabs(target)), scale);
    double step = (double)rounded - (double)scale, change = step * (step * curve - 2 * slope);
    if (!(change < 0)) return scale;
    *loss += change;
    return rounded;
}

/* Errors of the group's columns before the panel, under the new scale. */
static void rescale_past(const mq_sweep *p, const mq_row_block *b, int64_t r, int64_t g,
                         float scale)
{
    int64_t group = b->quant.group;
    int zero = mq_zero_at(b, p->n / group, r, g);
    for (int64_t j = r * p->n + g * group; j < r * p->n + p->k0; j++) {
        b->e[j] = b->w[j] - (float)(b->codes[j] - zero) * scale;
    }
}

/* Group g ends before column b of the panel; its columns there begin at a. step (LANES): of the
 * scales. */
static void end_group(strip *s, const mq_sweep *p, mq_refine_block *block, int64_t r0, int64_t g,
                      int64_t a, int64_t b, float *step)
{
    const mq_row_block *rows = block->block;
    int64_t n_groups = p->n / rows->quant.group;
    for (int64_t l = 0; l < LANES; l++) {
        float *scale = block->scales + (r0 + l) * n_groups + g, old = *scale;
        *scale = choose_scale(s->slope[l], s->curve[l], &rows->quant, g, old, &s->loss[l]);
        step[l] = *scale - old;
        s->slope[l] = s->curve[l] = 0;
        if (step[l] == 0) continue;
        rescale_past(p, rows, r0 + l, g, *scale);
        for (int64_t k = a; k < b; k++) s->e[k][l] = s->w[k][l] - s->z[k][l] * *scale;
    }
}

/* Columns [b, size) of the panel feel the step; the next group starts from nothing. */
MQ_SIMD static void apply_step(strip *s, const float *step, int64_t b, int64_t size)
{
    for (int64_t k = b; k < size; k++) {
        for (int l = 0; l < LANES; l++) s->g[k][l] -= step[l] * s->y[k][l];
        for (int l = 0; l < LANES; l++) s->y[k][l] = 0;
    }
}

static void sweep_strip(strip *s, const mq_sweep *p, mq_refine_block *block, int64_t r0)
{
    const mq_quant *quant = &block->block->quant;
    for (int64_t a = 0; a < p->size;) {
        int64_t g = (p->k0 + a) / quant->group, end = (g + 1) * quant->group - p->k0;
        int64_t b = mq_min_i64(end, p->size);
        load_group(p, block, s, r0, g);
        step_columns(s, p, a, b, quant->bits);
        if (end <= p->size) {
            float step[LANES];
            end_group(s, p, block, r0, g, a, b, step);
            apply_step(s, step, b, p->size);
        }
        a = b;
    }
}

static void store_strip(const strip *s, const mq_sweep *p, mq_refine_block *block, int64_t r0)
{
    mq_row_block *b = block->block;
    int64_t group = b->quant.group, n_groups = p->n / group;
    for (int64_t l = 0; l < LANES; l++) {
        int64_t r = r0 + l, at = r * p->n + p->k0;
        for (int64_t k = 0; k < p->size; k++) {
            int zero = mq_zero_at(b, n_groups, r, (p->k0 + k) / group);
            b->e[at + k] = s->e[k][l];
            b->codes[at + k] = (uint8_t)((int)s->z[k][l] + zero);
        }
        block->slope[r] = s->slope[l];
        block->curve[r] = s->curve[l];
        b->loss[r] = s->loss[l];
    }
}

static mq_status sweep_task(void *context, int64_t i)
{
    const mq_sweep *p = context;
    mq_refine_block *block = &p->blocks[i];
    if (block->block->metric) return mq_descend_coupled(p, block);
    work *w = mq_scratch(SCRATCH_SLOT, sizeof *w);
    if (!w) return mq_fail(MQ_E_MEMORY, "no memory for the refinement of rows");
    int64_t first = p->k0 - p->k0 % block->block->quant.group;
    MQ_TRY(mq_sweep_gradient(p, block->block->e, w->g));
    MQ_TRY(add_past(p, block->block, first, p->k0, w));
    for (int64_t r0 = 0; r0 < MQ_ROW_BLOCK; r0 += LANES) {
        load_strip(p, block, w, r0, first < p->k0);
        sweep_strip(&w->strip, p, block, r0);
        store_strip(&w->strip, p, block, r0);
    }
    return MQ_OK;
}

mq_status mq_refine_sweep(mq_refine_block *blocks, int64_t n_blocks, int64_t n, mq_rows_source rows,
                          void *context)
{
    mq_sweep s = {.blocks = blocks, .n_blocks = n_blocks, .n = n};
    return mq_sweep_panels(&s, mq_sweep_check(&s), rows, context, sweep_task);
}
