#include "ops/ops.h"
#include "solve/grid.h"
#include "solve/simd.h"
#include "solve/sweep.h"

/* Coordinate descent on codes. In a panel the columns go one after another, 32 rows at once;
 * a change of one column's error reaches the gradient of the panel's later columns at once, that of
 * later panels by their product. */

enum { LANES = 32, PANEL = MQ_SOLVE_PANEL, SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1 };

typedef struct strip {
    float g[PANEL][LANES]; /* e H, kept up to date for columns still to come */
    float w[PANEL][LANES];
    float e[PANEL][LANES];
    float scale[PANEL][LANES];
    float zero[PANEL][LANES];
    float code[PANEL][LANES]; /* less its zero point */
    double loss[LANES];
} strip;

typedef struct work {
    float g[MQ_ROW_BLOCK * PANEL]; /* (128, size) */
    float curve[PANEL];            /* H_kk */
    float inverse[PANEL];          /* 1 / H_kk; 0 for a dead column, which then stays */
    strip strip;
} work;

/* Rows [r0, r0 + LANES) of the panel. */
static void load_strip(strip *s, const mq_sweep *p, const mq_refine_block *block, const float *g,
                       int64_t r0)
{
    const mq_row_block *b = block->block;
    int64_t group = b->quant.group, n_groups = p->n / group;
    for (int64_t l = 0; l < LANES; l++) {
        const float *w = b->w + (r0 + l) * p->n + p->k0, *e = b->e + (r0 + l) * p->n + p->k0;
        const float *scales = block->scales + (r0 + l) * n_groups;
        const uint8_t *codes = b->codes + (r0 + l) * p->n;
        for (int64_t k = 0; k < p->size; k++) {
            int64_t j = p->order[p->k0 + k];
            float scale = scales[j / group];
            s->g[k][l] = g[(r0 + l) * p->size + k];
            s->w[k][l] = w[k];
            s->e[k][l] = e[k];
            s->scale[k][l] = scale != 0 ? scale : 1; /* padding rows */
            s->zero[k][l] = (float)mq_zero_at(b, n_groups, r0 + l, j / group);
            s->code[k][l] = (float)codes[j] - s->zero[k][l];
        }
        s->loss[l] = b->loss[r0 + l];
    }
}

/* Column k: the best code under the errors of all others. Leaves the change of e in `change`;
 * false when no row changed. */
static inline bool step_column(strip *s, int64_t k, float curve, float inverse, float top,
                               float *change)
{
    int changed = 0;
    for (int l = 0; l < LANES; l++) {
        float g = s->g[k][l], scale = s->scale[k][l], code = s->code[k][l], zero = s->zero[k][l];
        float q = mq_round_even(mq_clamp(code + g * inverse / scale, -zero, top - zero));
        float d = (q - code) * scale, gain = d * (2 * g - d * curve);
        bool take = gain > 0;
        float e = take ? s->w[k][l] - q * scale : s->e[k][l];
        change[l] = e - s->e[k][l];
        changed |= take;
        s->code[k][l] = take ? q : code;
        s->loss[l] -= take ? (double)gain : 0;
        s->e[k][l] = e;
    }
    return changed != 0;
}

MQ_SIMD static void descend_strip(strip *s, const mq_sweep *p, const work *w, int bits)
{
    float top = (float)((1 << bits) - 1);
    for (int64_t k = 0; k < p->size; k++) {
        float change[LANES];
        if (!step_column(s, k, w->curve[k], w->inverse[k], top, change)) continue;
        const float *h = p->h + k * p->n + p->k0;
        for (int64_t j = k + 1; j < p->size; j++) {
            for (int l = 0; l < LANES; l++) s->g[j][l] += change[l] * h[j];
        }
    }
}

static void store_strip(const strip *s, const mq_sweep *p, mq_row_block *b, int64_t r0)
{
    for (int64_t l = 0; l < LANES; l++) {
        float *e = b->e + (r0 + l) * p->n + p->k0;
        uint8_t *codes = b->codes + (r0 + l) * p->n;
        for (int64_t k = 0; k < p->size; k++) {
            e[k] = s->e[k][l];
            codes[p->order[p->k0 + k]] = (uint8_t)(int)(s->code[k][l] + s->zero[k][l]);
        }
        b->loss[r0 + l] = s->loss[l];
    }
}

static mq_status descend_task(void *context, int64_t i)
{
    const mq_sweep *p = context;
    mq_refine_block *block = &p->blocks[i];
    if (block->block->metric) return mq_descend_coupled(p, block);
    work *w = mq_scratch(SCRATCH_SLOT, sizeof *w);
    if (!w) return mq_fail(MQ_E_MEMORY, "no memory for the descent on codes");
    MQ_TRY(mq_sweep_gradient(p, block->block->e, w->g));
    for (int64_t k = 0; k < p->size; k++) {
        w->curve[k] = p->h[k * p->n + p->k0 + k];
        w->inverse[k] = w->curve[k] > 0 ? 1 / w->curve[k] : 0;
    }
    for (int64_t r0 = 0; r0 < MQ_ROW_BLOCK; r0 += LANES) {
        load_strip(&w->strip, p, block, w->g, r0);
        descend_strip(&w->strip, p, w, block->block->quant.bits);
        store_strip(&w->strip, p, block->block, r0);
    }
    return MQ_OK;
}

mq_status mq_descend_codes(mq_refine_block *blocks, int64_t n_blocks, int64_t n,
                           const int64_t *order, mq_rows_source rows, void *context)
{
    mq_sweep s = {.blocks = blocks, .n_blocks = n_blocks, .n = n, .order = order};
    MQ_TRY(mq_sweep_panels(&s, mq_sweep_check(&s), order, rows, context, descend_task));
    return mq_sweep_rebuild(&s);
}
