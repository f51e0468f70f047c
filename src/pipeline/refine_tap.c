#include "pipeline/refine_tap.h"

#include "base/checked.h"
#include "base/memory.h"
#include "solve/refine.h"

#include <math.h>

typedef struct rows_of_h {
    mq_tap_system *system;
    float *panel; /* (128, n) */
} rows_of_h;

static void scale_rows(const mq_tap_system *s, int64_t k0, int64_t k1, float *rows)
{
    for (int64_t k = k0; k < k1; k++) {
        float *row = rows + (k - k0) * s->n;
        for (int64_t j = 0; j < s->n; j++) row[j] *= (float)(s->scale[k] * s->scale[j]);
    }
}

/* Rows of the damped Hessian for the sweeps. Dead columns are all 0: no scale is to be fitted to
 * weights that nothing reads. Every rank holds all of H. */
static mq_status rows_source(void *context, int64_t k0, int64_t k1, const float **h)
{
    const rows_of_h *p = context;
    mq_tap_system *s = p->system;
    *h = p->panel;
    MQ_TRY(mq_tap_system_rows(s, k0, k1, p->panel));
    if (s->scaled) scale_rows(s, k0, k1, p->panel);
    for (int64_t k = k0; k < k1; k++) {
        if (s->diagonal[k] == 0) continue;
        p->panel[(k - k0) * s->n + k] = (float)((s->diagonal[k] + s->added[k]) / s->mean);
    }
    return MQ_OK;
}

typedef struct storage {
    mq_refine_block *block;
    float *scales;
    uint8_t *codes;
} storage;

static void storage_free(storage *s)
{
    mq_free(&s->block);
    mq_free(&s->scales);
    mq_free(&s->codes);
}

static mq_status storage_create(const mq_row_work *w, storage *s)
{
    int64_t area = MQ_ROW_BLOCK * w->system->n, count = 0, scales = 0;
    MQ_TRY(mq_mul_i64(w->n_blocks, area, &count));
    for (int64_t i = 0; i < w->n_blocks; i++) scales += MQ_ROW_BLOCK * w->layer[i]->n_groups;
    MQ_TRY(mq_alloc(w->n_blocks, sizeof *s->block, "refinement", &s->block));
    MQ_TRY(mq_alloc(count, 1, "refinement", &s->codes));
    MQ_TRY(mq_alloc(scales, sizeof *s->scales, "refinement", &s->scales));
    float *at = s->scales;
    for (int64_t i = 0; i < w->n_blocks; i++) {
        const mq_tap_layer *layer = w->layer[i];
        s->block[i] = (mq_refine_block){.block = &w->block[i],
                                        .scales = layer->scales + w->first_row[i] * layer->n_groups,
                                        .best_codes = s->codes + i * area,
                                        .best_scales = at};
        at += MQ_ROW_BLOCK * layer->n_groups;
    }
    return MQ_OK;
}

/* What LDLQ counts for the dead columns, which come last, and the sweeps do not. */
static double dead_loss(const mq_tap_system *s, const float *e)
{
    double sum = 0;
    for (int64_t k = s->n - s->n_dead; k < s->n; k++) {
        sum += s->added[s->order[k]] * (double)e[k] * (double)e[k];
    }
    return sum;
}

/* Losses as LDLQ gives them are those of the sweeps times the mean of the diagonal. */
static void scale_losses(const mq_row_work *w, bool to_ldlq)
{
    const mq_tap_system *s = w->system;
    for (int64_t i = 0; i < w->n_blocks; i++) {
        const mq_row_block *b = &w->block[i];
        for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
            double dead = dead_loss(s, b->e + r * s->n);
            b->loss[r] = to_ldlq ? b->loss[r] * s->mean + dead : (b->loss[r] - dead) / s->mean;
        }
    }
}

/* Dead columns of row r, which come last, to nearest. */
static void round_dead(const mq_tap_system *s, const mq_row_block *b, int64_t r)
{
    int64_t n_groups = s->n / b->quant.group;
    float top = (float)((1 << b->quant.bits) - 1);
    for (int64_t k = s->n - s->n_dead; k < s->n; k++) {
        int64_t j = s->order[k], at = r * n_groups + j / b->quant.group;
        float scale = b->scales[at], w = b->w[r * s->n + k], *e = &b->e[r * s->n + k];
        float zero = b->zeros ? b->zeros[at] : (float)(1 << (b->quant.bits - 1));
        if (scale == 0) continue; /* padding rows */
        float code = fminf(fmaxf(rintf(w / scale) + zero, 0), top);
        b->codes[r * s->n + j] = (uint8_t)code;
        b->error2[r] -= (double)*e * (double)*e;
        *e = w - (code - zero) * scale;
        b->error2[r] += (double)*e * (double)*e;
    }
}

static void round_all_dead(const mq_row_work *w)
{
    for (int64_t i = 0; i < w->n_blocks; i++) {
        for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) round_dead(w->system, &w->block[i], r);
    }
}

static mq_status take_turns(const mq_row_work *w, int rounds, storage *s, rows_of_h *source)
{
    const mq_tap_system *system = w->system;
    scale_losses(w, false);
    MQ_TRY(mq_refine(s->block, w->n_blocks, system->n, system->order, rounds, rows_source, source));
    round_all_dead(w);
    scale_losses(w, true);
    return MQ_OK;
}

mq_status mq_refine_tap(const mq_run *run, int rounds, mq_row_work *w)
{
    mq_tap_system *system = w->system;
    rows_of_h source = {.system = system};
    storage s = {0};
    if (rounds == 0) return MQ_OK;
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
