#include "solve/quadratic.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "ops/gemm.h"
#include "ops/ops.h"

/* x H x^T = sum over k of x_k (H_kk x_k + 2 sum over j < k of H_kj x_j): the lower triangle with
 * its off-diagonal entries doubled, a panel of 128 rows at a time. */

enum { PANEL = MQ_SOLVE_PANEL, ROWS = MQ_ROW_BLOCK, SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1 };

typedef struct walk {
    const float *const *x;
    int64_t n;
    double unit;
    int64_t k0, k1;
    double *rows; /* (k1 - k0, k1) of H */
    float *panel; /* the same in units, doubled left of the diagonal and 0 right of it */
    double *loss;
} walk;

static mq_status fill_task(void *context, int64_t i)
{
    const walk *p = context;
    int64_t k = p->k0 + i;
    const double *from = p->rows + i * p->k1, half = 0.5 * p->unit;
    float *to = p->panel + i * p->k1;
    for (int64_t j = 0; j < k; j++) to[j] = (float)(from[j] / half);
    to[k] = (float)(from[k] / p->unit);
    for (int64_t j = k + 1; j < p->k1; j++) to[j] = 0;
    return MQ_OK;
}

/* The panel's part of the losses of block b. */
static mq_status add_task(void *context, int64_t b)
{
    const walk *p = context;
    int64_t nk = p->k1 - p->k0;
    const mq_gemm_shape shape = {.m = ROWS,
                                 .n = nk,
                                 .k = p->k1,
                                 .lda = p->n,
                                 .ldb = p->k1,
                                 .ldc = nk,
                                 .in = MQ_F32,
                                 .out = MQ_F32,
                                 .b_trans = true};
    float *y = mq_scratch(SCRATCH_SLOT, ROWS * PANEL * sizeof *y);
    if (!y) return mq_fail(MQ_E_MEMORY, "no memory for a panel of losses");
    MQ_TRY(mq_gemm(&shape, p->x[b], p->panel, y));
    for (int64_t r = 0; r < ROWS; r++) {
        const float *x = p->x[b] + r * p->n + p->k0;
        double *loss = &p->loss[b * ROWS + r];
        for (int64_t k = 0; k < nk; k++) {
            *loss += (double)y[r * nk + k] * (double)x[k] * p->unit;
        }
    }
    return MQ_OK;
}

static mq_status walk_panels(walk *p, int64_t n_blocks, mq_entry_source source, void *context)
{
    MQ_TRY(mq_alloc(p->n, PANEL * sizeof *p->rows, "rows of a Hessian", &p->rows));
    MQ_TRY(mq_alloc(p->n, PANEL * sizeof *p->panel, "rows of a Hessian", &p->panel));
    for (; p->k0 < p->n; p->k0 = p->k1) {
        p->k1 = mq_min_i64(p->k0 + PANEL, p->n);
        MQ_TRY(source(context, p->k0, p->k1, 0, p->k1, p->rows));
        MQ_TRY(mq_parallel_for(p->k1 - p->k0, fill_task, p));
        MQ_TRY(mq_parallel_for(n_blocks, add_task, p));
    }
    return MQ_OK;
}

mq_status mq_quadratic_rows(const float *const *x, int64_t n_blocks, int64_t n, double unit,
                            mq_entry_source source, void *context, double *loss)
{
    walk p = {.x = x, .n = n, .unit = unit, .loss = loss};
    for (int64_t r = 0; r < n_blocks * ROWS; r++) loss[r] = 0;
    mq_status status = walk_panels(&p, n_blocks, source, context);
    mq_free(&p.rows);
    mq_free(&p.panel);
    return status;
}
