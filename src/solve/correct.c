#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm.h"
#include "ops/ops.h"
#include "solve/simd.h"
#include "solve/solve.h"

/* Z (H + lambda I) = B for blocks of 128 rows, with H + lambda I = M P M^T, P = diag(R)^2:
 *     Y M^T = B      panels descending: solve inside the panel, take Y_p M[:k0, p]^T from the rest
 *     V = Y P^-1
 *     Z M = V        panels ascending: take Z[:, :k0] M[:k0, p] away, solve inside the panel
 * Products only add, so the second half carries -Z. */

enum { PANEL = MQ_SOLVE_PANEL, ROWS = MQ_ROW_BLOCK, SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1 };

typedef struct walk {
    mq_row_block *blocks;
    const float *m; /* (k0 + nk, nk): the current panel of M */
    const double *pivot;
    int64_t n, k0, nk;
    float transposed[PANEL * PANEL]; /* its last nk rows, transposed: (nk, nk) */
} walk;

/* Row x (nk) of Y M^T = B. */
MQ_SIMD static void solve_backward(float *x, const float *transposed, int64_t nk)
{
    for (int64_t k = nk - 1; k > 0; k--) {
        const float *m = transposed + k * nk;
        float y = x[k];
        for (int64_t j = 0; j < k; j++) x[j] -= y * m[j];
    }
}

/* Row x (nk) of Z M = V. */
MQ_SIMD static void solve_forward(float *x, const float *m, int64_t nk)
{
    for (int64_t k = 0; k < nk; k++) {
        float z = x[k];
        for (int64_t j = k + 1; j < nk; j++) x[j] -= z * m[k * nk + j];
    }
}

static mq_status backward_task(void *context, int64_t b)
{
    const walk *p = context;
    float *e = p->blocks[b].e + p->k0;
    float *minus_y = mq_scratch(SCRATCH_SLOT, (size_t)(ROWS * PANEL) * sizeof *minus_y);
    if (!minus_y) return mq_fail(MQ_E_MEMORY, "no memory for a tile of the correction");
    for (int64_t r = 0; r < ROWS; r++) {
        float *x = e + r * p->n;
        solve_backward(x, p->transposed, p->nk);
        for (int64_t k = 0; k < p->nk; k++) minus_y[r * p->nk + k] = -x[k];
    }
    if (p->k0 == 0) return MQ_OK;
    const mq_gemm_shape shape = {.m = ROWS,
                                 .n = p->k0,
                                 .k = p->nk,
                                 .lda = p->nk,
                                 .ldb = p->nk,
                                 .ldc = p->n,
                                 .in = MQ_F32,
                                 .out = MQ_F32,
                                 .b_trans = true,
                                 .accumulate = true};
    return mq_gemm(&shape, minus_y, p->m, p->blocks[b].e);
}

static mq_status forward_task(void *context, int64_t b)
{
    const walk *p = context;
    const mq_row_block *block = &p->blocks[b];
    float *e = block->e + p->k0;
    for (int64_t r = 0; r < ROWS; r++) {
        for (int64_t k = 0; k < p->nk; k++) {
            e[r * p->n + k] = (float)((double)e[r * p->n + k] / p->pivot[p->k0 + k]);
        }
    }
    if (p->k0 > 0) {
        const mq_gemm_shape shape = {.m = ROWS,
                                     .n = p->nk,
                                     .k = p->k0,
                                     .lda = p->n,
                                     .ldb = p->nk,
                                     .ldc = p->n,
                                     .in = MQ_F32,
                                     .out = MQ_F32,
                                     .accumulate = true};
        MQ_TRY(mq_gemm(&shape, block->e, p->m, e));
    }
    for (int64_t r = 0; r < ROWS; r++) {
        float *x = e + r * p->n, *w = block->w + r * p->n + p->k0;
        solve_forward(x, p->m + p->k0 * p->nk, p->nk);
        for (int64_t k = 0; k < p->nk; k++) {
            w[k] += x[k];
            x[k] = -x[k];
        }
    }
    return MQ_OK;
}

static void take_panel(walk *p, int64_t n, int64_t k0)
{
    p->k0 = k0;
    p->nk = mq_min_i64(PANEL, n - k0);
    const float *square = p->m + k0 * p->nk;
    for (int64_t k = 0; k < p->nk; k++) {
        for (int64_t j = 0; j < p->nk; j++) p->transposed[k * p->nk + j] = square[j * p->nk + k];
    }
}

mq_status mq_correct_rows(mq_row_block *blocks, int64_t n_blocks, int64_t n, const double *pivot,
                          mq_panel_source panel, void *context)
{
    /* Panels are collective: a failure of this rank's own work must not stop it asking. */
    mq_status status = MQ_OK;
    walk p = {.blocks = blocks, .pivot = pivot, .n = n};
    for (int64_t k0 = (n - 1) / PANEL * PANEL; k0 >= 0; k0 -= PANEL) {
        MQ_TRY(panel(context, k0, mq_min_i64(k0 + PANEL, n), &p.m));
        take_panel(&p, n, k0);
        if (status == MQ_OK) status = mq_parallel_for(n_blocks, backward_task, &p);
    }
    for (int64_t k0 = 0; k0 < n; k0 += PANEL) {
        MQ_TRY(panel(context, k0, mq_min_i64(k0 + PANEL, n), &p.m));
        take_panel(&p, n, k0);
        if (status == MQ_OK) status = mq_parallel_for(n_blocks, forward_task, &p);
    }
    return status;
}
