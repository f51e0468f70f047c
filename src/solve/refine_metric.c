#include "ops/ops.h"
#include "solve/grid.h"
#include "solve/simd.h"
#include "solve/sweep.h"

/* Coordinate descent for rows that share an output metric. The loss tr(A E H E^T) has the gradient
 * A G, G = E H, and the curvature A_ii H_kk: down column k, row i goes by
 *     g_i = sum_j A_ij / A_ii G_jk
 * and the rows after it see the step. Rows are in the metric's order here. */

enum { ROWS = MQ_ROW_BLOCK, PANEL = MQ_SOLVE_PANEL, SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1 };

typedef struct work {
    float g[PANEL][ROWS]; /* E H, kept up to date for columns still to come */
    float w[PANEL][ROWS];
    float e[PANEL][ROWS];
    float scale[PANEL][ROWS];
    float zero[PANEL][ROWS];
    float code[PANEL][ROWS]; /* less its zero point */
    float product[ROWS * PANEL];
    double loss[ROWS];
} work;

static void load(work *s, const mq_sweep *p, const mq_refine_block *block)
{
    const mq_row_block *b = block->block;
    int64_t group = b->quant.group, n_groups = p->n / group;
    for (int64_t i = 0; i < ROWS; i++) {
        int64_t r = b->metric->row[i];
        const float *w = b->w + r * p->n + p->k0, *e = b->e + r * p->n + p->k0;
        for (int64_t k = 0; k < p->size; k++) {
            int64_t j = p->k0 + k;
            float scale = block->scales[r * n_groups + j / group];
            s->g[k][i] = s->product[r * p->size + k];
            s->w[k][i] = w[k];
            s->e[k][i] = e[k];
            s->scale[k][i] = scale != 0 ? scale : 1; /* padding rows */
            s->zero[k][i] = (float)mq_zero_at(b, n_groups, r, j / group);
            s->code[k][i] = (float)b->codes[r * p->n + j] - s->zero[k][i];
        }
        s->loss[i] = b->loss[r];
    }
}

/* Column k; leaves the change of e. False when no row changed. */
MQ_SIMD static bool step_rows(work *s, const mq_row_metric *m, int64_t k, float curve, float top,
                              float *change)
{
    float g[ROWS] = {0};
    bool changed = false;
    for (int64_t i = 0; i < ROWS; i++) {
        const float *ratio = m->ratio + i * ROWS;
        for (int64_t j = m->begin[i]; j < m->end[i]; j++) g[j] += ratio[j] * s->g[k][i];
    }
    for (int64_t i = 0; i < ROWS; i++) {
        float scale = s->scale[k][i], code = s->code[k][i], zero = s->zero[k][i];
        float q = mq_round_even(mq_clamp(code + g[i] / curve / scale, -zero, top - zero));
        float d = (q - code) * scale;
        change[i] = 0;
        if (!(d * (2 * g[i] - d * curve) > 0)) continue;
        float e = s->w[k][i] - q * scale;
        change[i] = e - s->e[k][i];
        changed = true;
        s->loss[i] -= (double)(d * (2 * s->g[k][i] - d * curve));
        s->code[k][i] = q;
        s->e[k][i] = e;
        const float *ratio = m->ratio + i * ROWS;
        for (int64_t j = i + 1; j < m->end[i]; j++) g[j] += ratio[j] * (change[i] * curve);
    }
    return changed;
}

MQ_SIMD static void descend_panel(work *s, const mq_sweep *p, const mq_row_block *b)
{
    float top = (float)((1 << b->quant.bits) - 1), change[ROWS];
    for (int64_t k = 0; k < p->size; k++) {
        const float *h = p->h + k * p->n + p->k0;
        /* A dead column stays. */
        if (!(h[k] > 0) || !step_rows(s, b->metric, k, h[k], top, change)) continue;
        for (int64_t j = k + 1; j < p->size; j++) {
            for (int l = 0; l < ROWS; l++) s->g[j][l] += change[l] * h[j];
        }
    }
}

static void store(const work *s, const mq_sweep *p, mq_row_block *b)
{
    for (int64_t i = 0; i < ROWS; i++) {
        int64_t r = b->metric->row[i];
        for (int64_t k = 0; k < p->size; k++) {
            float code = s->code[k][i] + s->zero[k][i];
            b->e[r * p->n + p->k0 + k] = s->e[k][i];
            b->codes[r * p->n + p->k0 + k] = (uint8_t)(int)code;
        }
        b->loss[r] = s->loss[i];
    }
}

mq_status mq_descend_coupled(const mq_sweep *p, mq_refine_block *block)
{
    work *s = mq_scratch(SCRATCH_SLOT, sizeof *s);
    if (!s) return mq_fail(MQ_E_MEMORY, "no memory for the descent on codes");
    MQ_TRY(mq_sweep_gradient(p, block->block->e, s->product));
    load(s, p, block);
    descend_panel(s, p, block->block);
    store(s, p, block->block);
    return MQ_OK;
}
