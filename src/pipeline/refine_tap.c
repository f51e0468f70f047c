#include "pipeline/refine_tap.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "solve/refine.h"

#include <string.h>

/* Rows of the damped Hessian for the sweeps, divided by the mean of the diagonal, so that nothing
 * leaves f32. Dead columns are all 0: no scale is to be fitted to weights that nothing reads. Every
 * rank holds all of H. */
typedef struct rows_of_h {
    const mq_tap_system *system;
    double factor;
    float *panel; /* (128, n) */
    const int64_t *order;
    int64_t k0;
} rows_of_h;

static mq_status row_task(void *context, int64_t k)
{
    const rows_of_h *p = context;
    const mq_tap_system *s = p->system;
    int64_t i = p->order ? p->order[p->k0 + k] : p->k0 + k;
    float *to = p->panel + k * s->n;
    if (s->diagonal[i] == 0) {
        memset(to, 0, (size_t)s->n * sizeof *to);
        return MQ_OK;
    }
    for (int64_t j = 0; j < s->n; j++) {
        int64_t column = p->order ? p->order[j] : j;
        double h = column == i ? s->diagonal[i] + s->added[i] : mq_hessian_at(s->h, i, column);
        to[j] = (float)(h * p->factor);
    }
    return MQ_OK;
}

static mq_status rows_source(void *context, const int64_t *order, int64_t k0, int64_t k1,
                             const float **h)
{
    rows_of_h *p = context;
    p->order = order;
    p->k0 = k0;
    *h = p->panel;
    return mq_parallel_for(k1 - k0, row_task, p);
}

typedef struct storage {
    mq_refine_block *block;
    float *e, *scales;
    uint8_t *codes;
} storage;

static void storage_free(storage *s)
{
    mq_free(&s->block);
    mq_free(&s->e);
    mq_free(&s->scales);
    mq_free(&s->codes);
}

static mq_status storage_create(const mq_row_work *w, storage *s)
{
    int64_t area = MQ_ROW_BLOCK * w->system->n, count = 0, scales = 0;
    MQ_TRY(mq_mul_i64(w->n_blocks, area, &count));
    for (int64_t i = 0; i < w->n_blocks; i++) scales += MQ_ROW_BLOCK * w->layer[i]->n_groups;
    MQ_TRY(mq_alloc(w->n_blocks, sizeof *s->block, "refinement", &s->block));
    MQ_TRY(mq_alloc(count, sizeof *s->e, "refinement", &s->e));
    MQ_TRY(mq_alloc(count, 1, "refinement", &s->codes));
    MQ_TRY(mq_alloc(scales, sizeof *s->scales, "refinement", &s->scales));
    float *at = s->scales;
    for (int64_t i = 0; i < w->n_blocks; i++) {
        const mq_tap_layer *layer = w->layer[i];
        s->block[i] = (mq_refine_block){.block = &w->block[i],
                                        .scales = layer->scales + w->first_row[i] * layer->n_groups,
                                        .e = s->e + i * area,
                                        .best_codes = s->codes + i * area,
                                        .best_scales = at};
        at += MQ_ROW_BLOCK * layer->n_groups;
    }
    return MQ_OK;
}

/* The loss as LDLQ gives it: at its scale, and with the dead columns, which come last. */
static void restore_loss(const mq_tap_system *s, const mq_row_block *b, int64_t r,
                         const rows_of_h *source)
{
    b->loss[r] /= source->factor;
    for (int64_t k = s->n - s->n_dead; k < s->n; k++) {
        double e = b->e[r * s->n + k];
        b->loss[r] += s->added[s->order[k]] * e * e;
    }
}

static mq_status take_turns(const mq_row_work *w, int rounds, storage *s, rows_of_h *source)
{
    const mq_tap_system *system = w->system;
    MQ_TRY(mq_refine(s->block, w->n_blocks, system->n, system->order, rounds, rows_source, source));
    for (int64_t i = 0; i < w->n_blocks; i++) {
        for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) restore_loss(system, &w->block[i], r, source);
    }
    return MQ_OK;
}

mq_status mq_refine_tap(const mq_run *run, int rounds, mq_row_work *w)
{
    const mq_tap_system *system = w->system;
    rows_of_h source = {.system = system};
    storage s = {0};
    if (rounds == 0) return MQ_OK;
    source.factor = 1 / system->mean;
    mq_status status = storage_create(w, &s);
    if (status == MQ_OK) {
        status = mq_alloc(MQ_SOLVE_PANEL * system->n, sizeof *source.panel, "rows of a Hessian",
                          &source.panel);
    }
    status = mq_agree(run->comm, status);
    if (status == MQ_OK) status = mq_agree(run->comm, take_turns(w, rounds, &s, &source));
    mq_free(&source.panel);
    storage_free(&s);
    return status;
}
