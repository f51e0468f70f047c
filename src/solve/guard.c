#include "solve/guard.h"

#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm.h"
#include "ops/ops.h"
#include "solve/grid.h"
#include "solve/simd.h"

#include <math.h>
#include <string.h>

enum { ROWS = MQ_ROW_BLOCK, PANEL = MQ_SOLVE_PANEL, SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1 };

typedef struct measurement {
    mq_row_block *blocks;
    const float *m;  /* (k0 + size, size): the current panel of M */
    const double *r; /* (size) diagonal of R in the panel */
    int64_t n, k0, size;
} measurement;

/* Y = E[:, :k1] . M[:k1, k0:k1];  loss += (Y R_kk)^2 */
static mq_status measure_task(void *context, int64_t i)
{
    const measurement *p = context;
    const mq_row_block *b = &p->blocks[i];
    float *y = mq_scratch(SCRATCH_SLOT, ROWS * PANEL * sizeof *y);
    if (!y) return mq_fail(MQ_E_MEMORY, "no memory for a panel of errors");
    const mq_gemm_shape shape = {.m = ROWS,
                                 .n = p->size,
                                 .k = p->k0 + p->size,
                                 .lda = p->n,
                                 .ldb = p->size,
                                 .ldc = p->size,
                                 .in = MQ_F32,
                                 .out = MQ_F32};
    MQ_TRY(mq_gemm(&shape, b->e, p->m, y));
    for (int64_t r = 0; r < ROWS; r++) {
        double sum = p->k0 > 0 ? b->loss[r] : 0;
        for (int64_t k = 0; k < p->size; k++) {
            double x = (double)y[r * p->size + k] * p->r[k];
            sum += x * x;
        }
        b->loss[r] = sum;
    }
    return MQ_OK;
}

mq_status mq_measure_errors(mq_row_block *blocks, int64_t n_blocks, int64_t n,
                            const double *r_diagonal, mq_panel_source panel, void *context)
{
    /* Panels are collective: a failure of this rank's own work must not stop it asking. */
    mq_status status = MQ_OK;
    measurement p = {.blocks = blocks, .n = n};
    for (p.k0 = 0; p.k0 < n; p.k0 += PANEL) {
        int64_t k1 = mq_min_i64(p.k0 + PANEL, n);
        MQ_TRY(panel(context, p.k0, k1, &p.m));
        p.size = k1 - p.k0;
        p.r = r_diagonal + p.k0;
        if (status == MQ_OK) status = mq_parallel_for(n_blocks, measure_task, &p);
    }
    return status;
}

typedef struct guard {
    mq_guard_block *blocks;
    int64_t n;
    const int64_t *order;
} guard;

/* Rounds as tile.c does. */
static void round_row(const guard *p, mq_guard_block *g, int64_t r)
{
    mq_row_block *b = g->block;
    int64_t n = p->n, n_groups = n / b->quant.group;
    const float *w = b->w + r * n, *scales = g->first_scales + r * n_groups;
    uint8_t *codes = b->codes + r * n;
    float *e = b->e + r * n, top = (float)((1 << b->quant.bits) - 1);
    memcpy(g->scales + r * n_groups, scales, (size_t)n_groups * sizeof *scales);
    b->error2[r] = 0;
    for (int64_t k = 0; k < n; k++) {
        int64_t j = p->order[k], group = j / b->quant.group;
        float scale = scales[group] != 0 ? scales[group] : 1; /* padding rows */
        float zero = (float)mq_zero_at(b, n_groups, r, group);
        float q = mq_round_even(mq_clamp(w[k] / scale, -zero, top - zero));
        codes[j] = (uint8_t)(int)(q + zero);
        e[k] = w[k] - q * scale;
        b->error2[r] += (double)e[k] * (double)e[k];
    }
    b->loss[r] = g->nearest_loss[r];
    g->nearest[r] = 1;
}

static mq_status guard_task(void *context, int64_t i)
{
    const guard *p = context;
    mq_guard_block *g = &p->blocks[i];
    const mq_row_metric *metric = g->block->metric;
    for (int64_t begin = 0, end = 0; begin < ROWS; begin = end) {
        double loss = 0, nearest = 0;
        end = metric ? metric->end[begin] : begin + 1;
        for (int64_t at = begin; at < end; at++) {
            int64_t r = metric ? metric->row[at] : at;
            loss += g->block->loss[r];
            nearest += g->nearest_loss[r];
            g->nearest[r] = 0;
        }
        if (!isnan(loss) && !(nearest < loss)) continue;
        for (int64_t at = begin; at < end; at++) {
            round_row(p, g, metric ? metric->row[at] : at);
        }
    }
    return MQ_OK;
}

mq_status mq_keep_nearest(mq_guard_block *blocks, int64_t n_blocks, int64_t n, const int64_t *order)
{
    guard p = {.blocks = blocks, .n = n, .order = order};
    for (int64_t b = 0; b < n_blocks; b++) MQ_TRY(mq_check_quant(&blocks[b].block->quant, n));
    return mq_parallel_for(n_blocks, guard_task, &p);
}
