#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm.h"
#include "solve/grid.h"
#include "solve/tile.h"

/* LDLQ, left-looking. For the panel of columns [k0, k1) of a block of 128 rows:
 *     T = W[:, k0:k1] + E[:, :k0] . M[:k0, k0:k1]           one product
 *     column by column inside the panel                      tile.c
 *     Y = W[:, :k1] . M[:k1, k0:k1];  energy += (Y R_kk)^2   one product
 * The second product measures w (H + lambda I) w^T = |w M diag(R)|^2, what losses are relative to.
 * Both have shapes that depend on n alone, so the bits do not depend on who owns the rows. */

enum { PANEL = MQ_SOLVE_PANEL, ROWS = MQ_ROW_BLOCK };

typedef struct walk {
    mq_row_block *blocks;
    const float *m;  /* (k0 + n, n): the current panel of M */
    const double *r; /* (n) diagonal of R in the panel */
    mq_tile_place place;
} walk;

static mq_status multiply(const walk *p, const float *a, int64_t k, bool accumulate, float *c)
{
    mq_gemm_shape shape = {.m = ROWS,
                           .n = p->place.n,
                           .k = k,
                           .lda = p->place.n_in,
                           .ldb = p->place.n,
                           .ldc = p->place.n,
                           .in = MQ_F32,
                           .out = MQ_F32,
                           .accumulate = accumulate};
    return mq_gemm(&shape, a, p->m, c);
}

static mq_status add_energy(const walk *p, const mq_row_block *block, float *y)
{
    int64_t n = p->place.n;
    MQ_TRY(multiply(p, block->w, p->place.k0 + n, false, y));
    for (int64_t r = 0; r < ROWS; r++) {
        double sum = block->energy[r];
        for (int64_t k = 0; k < n; k++) {
            double x = (double)y[r * n + k] * p->r[k];
            sum += x * x;
        }
        block->energy[r] = sum;
    }
    return MQ_OK;
}

/* The current panel of block b. */
static mq_status panel_task(void *context, int64_t b)
{
    const walk *p = context;
    mq_row_block *block = &p->blocks[b];
    mq_tile *tile = mq_tile_scratch();
    if (!tile) return mq_fail(MQ_E_MEMORY, "no memory for a tile of the solver");
    MQ_TRY(add_energy(p, block, tile->t));
    mq_tile_fill(tile, block, &p->place);
    if (p->place.k0 > 0) MQ_TRY(multiply(p, block->e, p->place.k0, true, tile->t));
    mq_tile_quantise(tile, block, &p->place);
    return MQ_OK;
}

static mq_status check_and_clear(mq_row_block *blocks, int64_t n_blocks, int64_t n)
{
    for (int64_t b = 0; b < n_blocks; b++) {
        MQ_TRY(mq_check_quant(&blocks[b].quant, n));
        MQ_TRY(mq_check_zeros(&blocks[b].quant, blocks[b].zeros));
        for (int64_t r = 0; r < ROWS; r++) {
            blocks[b].loss[r] = blocks[b].energy[r] = 0;
            blocks[b].error2[r] = blocks[b].weight2[r] = 0;
        }
    }
    return MQ_OK;
}

mq_status mq_ldlq(mq_row_block *blocks, int64_t n_blocks, int64_t n, const int64_t *order,
                  const double *r_diagonal, mq_panel_source panel, void *context)
{
    /* Panels are collective: a failure of this rank's own work must not stop it asking. */
    mq_status status = check_and_clear(blocks, n_blocks, n);
    double r_squared[PANEL];
    walk p = {.blocks = blocks, .place = {.n_in = n, .order = order, .r_squared = r_squared}};
    for (int64_t k0 = 0; k0 < n; k0 += PANEL) {
        int64_t k1 = mq_min_i64(k0 + PANEL, n);
        MQ_TRY(panel(context, k0, k1, &p.m));
        if (status != MQ_OK) continue;
        p.place.k0 = k0;
        p.place.n = k1 - k0;
        p.place.m = p.m + k0 * (k1 - k0);
        p.r = r_diagonal + k0;
        for (int64_t k = 0; k < k1 - k0; k++) r_squared[k] = p.r[k] * p.r[k];
        status = mq_parallel_for(n_blocks, panel_task, &p);
    }
    return status;
}
