#include "solve/refine.h"

#include <stddef.h>

/* A plan is a list of steps that every rank takes, whatever became of its own work: panels are
 * collective. A rank whose work has failed goes on with no blocks. */

typedef struct walk {
    mq_refine_block *blocks;
    int64_t n_blocks, n;
    const int64_t *order;
    const mq_refine_source *source;
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
    took(p, run(p->blocks, p->n_blocks, p->n, p->order, p->source->rows, p->source->rows_context));
}

static void ldlq(walk *p)
{
    const mq_refine_source *s = p->source;
    took(p, mq_ldlq(p->n_blocks > 0 ? p->blocks->block : NULL, p->n_blocks, p->n, p->order,
                    s->r_diagonal, s->panel, s->panel_context));
}

/* The better of what was saved and what is there, in both places. */
static void keep_better(walk *p)
{
    sweep(p, mq_measure_loss);
    took(p, mq_refine_keep_better(p->blocks, p->n_blocks, p->n, p->order));
    took(p, mq_refine_save(p->blocks, p->n_blocks, p->n));
}

static void start(walk *p)
{
    sweep(p, mq_measure_loss);
    took(p, mq_refine_save(p->blocks, p->n_blocks, p->n));
}

mq_status mq_refine(mq_refine_block *blocks, int64_t n_blocks, int64_t n, const int64_t *order,
                    mq_refine_plan plan, mq_rows_source rows, void *context)
{
    const mq_refine_source source = {.rows = rows, .rows_context = context};
    walk p = {.blocks = blocks, .n_blocks = n_blocks, .n = n, .order = order, .source = &source};
    if (plan.refits + plan.descents == 0) return MQ_OK;
    start(&p);
    for (int i = 0; i < plan.refits; i++) sweep(&p, mq_refit_scales);
    for (int i = 0; i < plan.descents; i++) sweep(&p, mq_descend_codes);
    keep_better(&p);
    return p.status;
}

mq_status mq_refine_in_turn(mq_refine_block *blocks, int64_t n_blocks, int64_t n,
                            const int64_t *order, mq_refine_turns turns,
                            const mq_refine_source *source)
{
    walk p = {.blocks = blocks, .n_blocks = n_blocks, .n = n, .order = order, .source = source};
    if (turns.rounds + turns.pairs == 0) return MQ_OK;
    start(&p);
    for (int i = 0; i < turns.rounds; i++) {
        sweep(&p, mq_refit_scales);
        keep_better(&p);
        ldlq(&p);
        keep_better(&p);
    }
    for (int i = 0; i < turns.pairs; i++) {
        sweep(&p, mq_refit_scales);
        sweep(&p, mq_descend_codes);
    }
    if (turns.pairs > 0) keep_better(&p);
    return p.status;
}
