#include "pipeline/row_guard.h"

#include "base/memory.h"

#include <string.h>

void mq_row_guard_free(mq_row_guard *g)
{
    mq_free(&g->block);
    mq_free(&g->scales);
}

/* The factor is that of a damped matrix; losses and energies are to be H's own. */
static void take_out_of_row(const mq_tap_system *s, const mq_row_block *b, int64_t r)
{
    for (int64_t k = 0; k < s->n; k++) {
        double e = b->e[r * s->n + k], w = b->w[r * s->n + k], added = s->added[s->order[k]];
        b->loss[r] -= added * e * e;
        b->energy[r] -= added * w * w;
    }
    /* Rounding errors; what is NaN stays so. */
    if (b->loss[r] < 0) b->loss[r] = 0;
    if (b->energy[r] < 0) b->energy[r] = 0;
}

void mq_row_take_out_damping(const mq_tap_system *s, const mq_row_block *b)
{
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) take_out_of_row(s, b, r);
}

static void take_out_dampings(const mq_row_work *w)
{
    for (int64_t i = 0; i < w->n_blocks; i++) mq_row_take_out_damping(w->system, &w->block[i]);
}

static mq_status create(mq_row_work *w, mq_row_guard *g)
{
    int64_t n_scales = 0;
    for (int64_t i = 0; i < w->n_blocks; i++) n_scales += MQ_ROW_BLOCK * w->layer[i]->n_groups;
    MQ_TRY(mq_alloc(w->n_blocks, sizeof *g->block, "guard of rows", &g->block));
    MQ_TRY(mq_alloc(n_scales, sizeof *g->scales, "guard of rows", &g->scales));
    float *at = g->scales;
    for (int64_t i = 0; i < w->n_blocks; i++) {
        const mq_tap_layer *layer = w->layer[i];
        int64_t r0 = w->first_row[i], count = MQ_ROW_BLOCK * layer->n_groups;
        double *stats = layer->stats + r0 * MQ_N_STATS;
        g->block[i] = (mq_guard_block){.block = &w->block[i],
                                       .scales = layer->scales + r0 * layer->n_groups,
                                       .first_scales = at,
                                       .nearest_loss = stats + MQ_STAT_NEAREST_LOSS * MQ_ROW_BLOCK,
                                       .nearest = stats + MQ_STAT_NEAREST * MQ_ROW_BLOCK};
        memcpy(at, g->block[i].scales, (size_t)count * sizeof *at);
        at += count;
    }
    return mq_round_nearest(w->block, w->n_blocks, w->system->n, w->system->order);
}

mq_status mq_row_guard_create(const mq_run *run, mq_row_work *w, mq_row_guard *g)
{
    mq_tap_system *s = w->system;
    mq_status status = mq_agree(run->comm, create(w, g));
    if (status != MQ_OK) return status;
    status = mq_agree(run->comm,
                      mq_measure_errors(w->block, w->n_blocks, s->n, s->r, mq_tap_system_panel, s));
    if (status != MQ_OK) return status;
    take_out_dampings(w);
    for (int64_t i = 0; i < w->n_blocks; i++) {
        double *stats = w->layer[i]->stats + w->first_row[i] * MQ_N_STATS;
        memcpy(stats + MQ_STAT_NEAREST_LOSS * MQ_ROW_BLOCK, w->block[i].loss,
               MQ_ROW_BLOCK * sizeof *stats);
    }
    return MQ_OK;
}

mq_status mq_row_guard_apply(mq_row_work *w, mq_row_guard *g)
{
    take_out_dampings(w);
    return mq_keep_nearest(g->block, w->n_blocks, w->system->n, w->system->order);
}
