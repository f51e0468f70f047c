#include "pipeline/sampled_rows.h"

#include "base/checked.h"
#include "base/memory.h"
#include "pipeline/row_work.h"

#include <string.h>

enum { ROWS = MQ_ROW_BLOCK, N_SUMS = 4 };

void mq_sampled_rows_free(mq_sampled_rows *s)
{
    mq_free(&s->w);
    mq_free(&s->e);
    mq_free(&s->scales);
    mq_free(&s->codes);
    mq_free(&s->zeros);
    mq_free(&s->sums);
}

static bool alike(const mq_quant *a, const mq_quant *b)
{
    return a->bits == b->bits && a->group == b->group && a->grid == b->grid &&
           a->positive == b->positive && a->zero_points == b->zero_points &&
           a->largest == b->largest;
}

/* Which layer every row of every block is of. */
static void deal(const mq_tap_result *result, mq_sampled_rows *s)
{
    for (int l = 0; l < result->n_layers; l++) {
        const mq_tap_layer *layer = &result->layer[l];
        if (l == 0 || !alike(&layer->quant, &layer[-1].quant)) {
            s->block[s->n_blocks++].quant = layer->quant;
        }
        int b = s->n_blocks - 1;
        int64_t some = mq_min_i64(ROWS / result->n_layers, layer->n_out);
        for (int64_t i = 0; i < some; i++) s->layer[b][s->n_rows[b]++] = l;
    }
}

static mq_status allocate(int64_t n, mq_sampled_rows *s)
{
    int64_t rows = (int64_t)s->n_blocks * ROWS, n_groups = 0;
    for (int b = 0; b < s->n_blocks; b++) n_groups += n / s->block[b].quant.group;
    MQ_TRY(mq_alloc(rows, (size_t)n * sizeof *s->w, "sampled rows", &s->w));
    MQ_TRY(mq_alloc(rows, (size_t)n * sizeof *s->e, "sampled rows", &s->e));
    MQ_TRY(mq_alloc(rows, (size_t)n, "sampled rows", &s->codes));
    MQ_TRY(mq_alloc(n_groups, ROWS * sizeof *s->scales, "sampled rows", &s->scales));
    MQ_TRY(mq_alloc(n_groups, ROWS, "sampled rows", &s->zeros));
    MQ_TRY(mq_alloc(rows, N_SUMS * sizeof *s->sums, "sampled rows", &s->sums));
    int64_t first_group = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        mq_row_block *block = &s->block[b];
        int64_t area = b * ROWS * n;
        double *sums = s->sums + (int64_t)b * N_SUMS * ROWS;
        block->w = s->w + area;
        block->e = s->e + area;
        block->codes = s->codes + area;
        block->scales = s->scales + first_group * ROWS;
        block->zeros = block->quant.zero_points ? s->zeros + first_group * ROWS : NULL;
        block->loss = sums;
        block->energy = sums + ROWS;
        block->error2 = sums + 2 * ROWS;
        block->weight2 = sums + 3 * ROWS;
        first_group += n / block->quant.group;
    }
    return MQ_OK;
}

/* Original order into e, the system's into w. */
static mq_status read(const mq_run *run, int64_t block, const mq_tap_system *system,
                      mq_sampled_rows *s)
{
    int64_t n = system->n;
    for (int b = 0; b < s->n_blocks; b++) {
        for (int64_t r = 0, i = 0; r < s->n_rows[b]; r++, i++) {
            if (r > 0 && s->layer[b][r] != s->layer[b][r - 1]) i = 0;
            const mq_tap_layer *layer = &run->result->layer[s->layer[b][r]];
            int64_t some = mq_min_i64(ROWS / run->result->n_layers, layer->n_out);
            int64_t row = i * layer->n_out / some;
            float *e = s->block[b].e + r * n, *w = s->block[b].w + r * n;
            MQ_TRY(mq_run_read_rows(run, block, layer, row, row + 1, e));
            mq_tap_system_gather(system, e, w);
            for (int64_t j = 0; j < n; j++) e[j] = (float)((double)e[j] / system->scale[j]);
        }
    }
    return MQ_OK;
}

mq_status mq_sampled_rows_create(const mq_run *run, int64_t block, const mq_tap_system *system,
                                 mq_sampled_rows *s)
{
    memset(s, 0, sizeof *s);
    deal(run->result, s);
    MQ_TRY(allocate(system->n, s));
    MQ_TRY(read(run, block, system, s));
    int64_t first_group = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        const mq_quant *quant = &s->block[b].quant;
        int64_t at = first_group * ROWS;
        MQ_TRY(mq_search_scales(s->block[b].e, ROWS, system->n, system->diagonal, quant,
                                s->scales + at, quant->zero_points ? s->zeros + at : NULL));
        first_group += system->n / quant->group;
    }
    return MQ_OK;
}
