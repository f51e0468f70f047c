#include "ops/ops.h"
#include "solve/grid.h"
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
        double loss = s->k0 > 0 ? b->loss[r] : 0, error2 = s->k0 > 0 ? b->error2[r] : 0;
        for (int64_t k = 0; k < s->size; k++) {
            int64_t at = r * s->size + k;
            loss += (double)e[k] * (2 * (double)g[at] + (double)own[at]);
            error2 += (double)e[k] * (double)e[k];
        }
        b->loss[r] = loss;
        b->error2[r] = error2;
    }
    return MQ_OK;
}

mq_status mq_measure_loss(mq_refine_block *blocks, int64_t n_blocks, int64_t n, mq_rows_source rows,
                          void *context)
{
    mq_sweep s = {.blocks = blocks, .n_blocks = n_blocks, .n = n};
    return mq_sweep_panels(&s, MQ_OK, rows, context, measure_task);
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

/* e = w - w_hat and error2 of row r. */
static void rebuild_row(mq_refine_block *block, int64_t n, int64_t r)
{
    mq_row_block *b = block->block;
    int64_t group = b->quant.group, n_groups = n / group;
    b->error2[r] = 0;
    for (int64_t j = 0; j < n; j++) {
        int64_t at = r * n + j;
        int zero = mq_zero_at(b, n_groups, r, j / group);
        b->e[at] =
            b->w[at] - (float)(b->codes[at] - zero) * block->scales[r * n_groups + j / group];
        b->error2[r] += (double)b->e[at] * (double)b->e[at];
    }
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
        rebuild_row(b, n, r);
    }
    return MQ_OK;
}

mq_status mq_refine_keep_better(mq_refine_block *blocks, int64_t n_blocks, int64_t n)
{
    mq_sweep s = {.blocks = blocks, .n_blocks = n_blocks, .n = n};
    MQ_TRY(mq_sweep_check(&s));
    return mq_parallel_for(n_blocks, keep_task, &s);
}

/* Columns of w and e from the processing order to the original one, or back. */
typedef struct reorder_job {
    const mq_refine_block *blocks;
    int64_t n;
    const int64_t *order;
    bool back;
} reorder_job;

static void reorder_row(const reorder_job *job, float *row, float *copy)
{
    memcpy(copy, row, (size_t)job->n * sizeof *row);
    if (job->back) {
        for (int64_t k = 0; k < job->n; k++) row[k] = copy[job->order[k]];
    } else {
        for (int64_t k = 0; k < job->n; k++) row[job->order[k]] = copy[k];
    }
}

static mq_status reorder_task(void *context, int64_t i)
{
    const reorder_job *job = context;
    const mq_row_block *b = job->blocks[i].block;
    float *copy = mq_scratch(SCRATCH_SLOT, (size_t)job->n * sizeof *copy);
    if (!copy) return mq_fail(MQ_E_MEMORY, "no memory for a row");
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
        reorder_row(job, b->w + r * job->n, copy);
        reorder_row(job, b->e + r * job->n, copy);
    }
    return MQ_OK;
}

static mq_status reorder(const mq_refine_block *blocks, int64_t n_blocks, int64_t n,
                         const int64_t *order, bool back)
{
    reorder_job job = {.blocks = blocks, .n = n, .order = order, .back = back};
    return mq_parallel_for(n_blocks, reorder_task, &job);
}

/* Keeps the first failure. */
static void took(mq_status *first, mq_status status)
{
    if (*first == MQ_OK) *first = status;
}

mq_status mq_refine(mq_refine_block *blocks, int64_t n_blocks, int64_t n, const int64_t *order,
                    int rounds, mq_rows_source rows, void *context)
{
    if (rounds == 0) return MQ_OK;
    mq_status status = reorder(blocks, n_blocks, n, order, false);
    took(&status, mq_refine_save(blocks, n_blocks, n));
    for (int i = 0; i < rounds; i++) {
        /* A rank whose work has failed goes on with no blocks: panels are collective. */
        took(&status, mq_refine_sweep(blocks, status == MQ_OK ? n_blocks : 0, n, rows, context));
    }
    took(&status, mq_measure_loss(blocks, status == MQ_OK ? n_blocks : 0, n, rows, context));
    if (status == MQ_OK) status = mq_refine_keep_better(blocks, n_blocks, n);
    if (status == MQ_OK) status = reorder(blocks, n_blocks, n, order, true);
    return status;
}
