#include "ops/ops.h"
#include "solve/sweep.h"

#include <string.h>

enum { SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1 };

enum { AREA = MQ_ROW_BLOCK * MQ_SOLVE_PANEL };

/* The current panel's part of e H e^T: pairs with earlier columns count twice. */
static mq_status measure_task(void *context, int64_t i)
{
    const mq_sweep *s = context;
    mq_row_block *b = s->blocks[i].block;
    float *g = mq_scratch(SCRATCH_SLOT, 2 * AREA * sizeof *g), *own = g + AREA;
    if (!g) return mq_fail(MQ_E_MEMORY, "no memory for a panel of gradients");
    MQ_TRY(mq_sweep_product(s, b->e, 0, s->k0, g));
    MQ_TRY(mq_sweep_product(s, b->e, s->k0, s->k0 + s->size, own));
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
        const float *e = b->e + r * s->n + s->k0;
        double sum = s->k0 > 0 ? b->loss[r] : 0;
        for (int64_t k = 0; k < s->size; k++) {
            int64_t at = r * s->size + k;
            sum += (double)e[k] * (2 * (double)g[at] + (double)own[at]);
        }
        b->loss[r] = sum;
    }
    return MQ_OK;
}

mq_status mq_measure_loss(mq_refine_block *blocks, int64_t n_blocks, int64_t n,
                          const int64_t *order, mq_rows_source rows, void *context)
{
    mq_sweep s = {.blocks = blocks, .n_blocks = n_blocks, .n = n, .order = order};
    return mq_sweep_panels(&s, MQ_OK, order, rows, context, measure_task);
}

static mq_status save_task(void *context, int64_t i)
{
    const mq_sweep *s = context;
    mq_refine_block *b = &s->blocks[i];
    int64_t n_scales = MQ_ROW_BLOCK * (s->n / b->block->quant.group);
    memcpy(b->best_codes, b->block->codes, (size_t)(MQ_ROW_BLOCK * s->n));
    memcpy(b->best_scales, b->scales, (size_t)n_scales * sizeof *b->scales);
    memcpy(b->best_loss, b->block->loss, sizeof b->best_loss);
    return MQ_OK;
}

mq_status mq_refine_save(mq_refine_block *blocks, int64_t n_blocks, int64_t n)
{
    mq_sweep s = {.blocks = blocks, .n_blocks = n_blocks, .n = n};
    MQ_TRY(mq_sweep_check(&s));
    return mq_parallel_for(n_blocks, save_task, &s);
}

static mq_status keep_task(void *context, int64_t i)
{
    const mq_sweep *s = context;
    mq_refine_block *b = &s->blocks[i];
    int64_t n = s->n, n_groups = n / b->block->quant.group;
    /* Rows that share a metric stand or fall together, and every step of theirs lowered its loss.
     */
    if (b->block->metric) return MQ_OK;
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
        if (b->block->loss[r] < b->best_loss[r]) continue;
        memcpy(b->block->codes + r * n, b->best_codes + r * n, (size_t)n);
        memcpy(b->scales + r * n_groups, b->best_scales + r * n_groups,
               (size_t)n_groups * sizeof *b->scales);
        b->block->loss[r] = b->best_loss[r];
        mq_sweep_rebuild_row(s, b, r);
    }
    return MQ_OK;
}

mq_status mq_refine_keep_better(mq_refine_block *blocks, int64_t n_blocks, int64_t n,
                                const int64_t *order)
{
    mq_sweep s = {.blocks = blocks, .n_blocks = n_blocks, .n = n, .order = order};
    MQ_TRY(mq_sweep_check(&s));
    return mq_parallel_for(n_blocks, keep_task, &s);
}

/* A rank whose work has failed goes on with no blocks: panels are collective. */
typedef struct walk {
    mq_refine_block *blocks;
    int64_t n_blocks, n;
    const int64_t *order;
    mq_rows_source rows;
    void *context;
    mq_status status; /* the first failure */
} walk;

static void took(walk *p, mq_status status)
{
    if (p->status != MQ_OK || status == MQ_OK) return;
    p->status = status;
    p->n_blocks = 0;
}

typedef mq_status (*sweep_function)(mq_refine_block *, int64_t, int64_t, const int64_t *,
                                    mq_rows_source, void *);

static void sweep(walk *p, sweep_function run)
{
    took(p, run(p->blocks, p->n_blocks, p->n, p->order, p->rows, p->context));
}

mq_status mq_refine(mq_refine_block *blocks, int64_t n_blocks, int64_t n, const int64_t *order,
                    int rounds, mq_rows_source rows, void *context)
{
    walk p = {.blocks = blocks,
              .n_blocks = n_blocks,
              .n = n,
              .order = order,
              .rows = rows,
              .context = context};
    if (rounds == 0) return MQ_OK;
    took(&p, mq_refine_save(p.blocks, p.n_blocks, n));
    for (int i = 0; i < rounds; i++) {
        sweep(&p, mq_refit_scales);
        sweep(&p, mq_descend_codes);
    }
    sweep(&p, mq_measure_loss);
    took(&p, mq_refine_keep_better(p.blocks, p.n_blocks, n, order));
    return p.status;
}
