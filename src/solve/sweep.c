#include "solve/sweep.h"

#include "base/checked.h"
#include "ops/gemm.h"
#include "solve/grid.h"

mq_status mq_sweep_check(const mq_sweep *sweep)
{
    for (int64_t b = 0; b < sweep->n_blocks; b++) {
        MQ_TRY(mq_check_quant(&sweep->blocks[b].block->quant, sweep->n));
    }
    return MQ_OK;
}

mq_status mq_sweep_panels(mq_sweep *sweep, mq_status status, const int64_t *panel_order,
                          mq_rows_source rows, void *context, mq_task task)
{
    for (int64_t k0 = 0; k0 < sweep->n; k0 += MQ_SOLVE_PANEL) {
        int64_t k1 = mq_min_i64(k0 + MQ_SOLVE_PANEL, sweep->n);
        /* Panels are collective: a failure of this rank's own work must not stop it asking. */
        MQ_TRY(rows(context, panel_order, k0, k1, &sweep->h));
        if (status != MQ_OK) continue;
        sweep->k0 = k0;
        sweep->size = k1 - k0;
        status = mq_parallel_for(sweep->n_blocks, task, sweep);
    }
    return status;
}

mq_status mq_sweep_product(const mq_sweep *sweep, const float *e, int64_t j0, int64_t j1, float *g)
{
    const mq_gemm_shape shape = {.m = MQ_ROW_BLOCK,
                                 .n = sweep->size,
                                 .k = j1 - j0,
                                 .lda = sweep->n,
                                 .ldb = sweep->n,
                                 .ldc = sweep->size,
                                 .in = MQ_F32,
                                 .out = MQ_F32,
                                 .b_trans = true};
    return mq_gemm(&shape, e + j0, sweep->h + j0, g);
}

mq_status mq_sweep_gradient(const mq_sweep *sweep, const float *e, float *g)
{
    return mq_sweep_product(sweep, e, 0, sweep->n, g);
}

void mq_sweep_rebuild_row(const mq_sweep *sweep, mq_refine_block *block, int64_t r)
{
    mq_row_block *b = block->block;
    int64_t n = sweep->n, group = b->quant.group;
    const float *w = b->w + r * n, *scales = block->scales + r * (n / group);
    const uint8_t *codes = b->codes + r * n;
    float *e = b->e + r * n;
    b->error2[r] = 0;
    for (int64_t k = 0; k < n; k++) {
        int64_t j = sweep->order[k];
        int zero = mq_zero_at(b, n / group, r, j / group);
        e[k] = w[k] - (float)(codes[j] - zero) * scales[j / group];
        b->error2[r] += (double)e[k] * (double)e[k];
    }
}

static mq_status rebuild_task(void *context, int64_t i)
{
    const mq_sweep *sweep = context;
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) mq_sweep_rebuild_row(sweep, &sweep->blocks[i], r);
    return MQ_OK;
}

mq_status mq_sweep_rebuild(mq_sweep *sweep)
{
    return mq_parallel_for(sweep->n_blocks, rebuild_task, sweep);
}
