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

mq_status mq_sweep_panels(mq_sweep *sweep, mq_status status, mq_rows_source rows, void *context,
                          mq_task task)
{
    for (int64_t k0 = 0; k0 < sweep->n; k0 += MQ_SOLVE_PANEL) {
        int64_t k1 = mq_min_i64(k0 + MQ_SOLVE_PANEL, sweep->n);
        /* Panels are collective: a failure of this rank's own work must not stop it asking. */
        MQ_TRY(rows(context, k0, k1, &sweep->h));
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
