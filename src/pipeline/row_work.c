#include "pipeline/row_work.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "model/stacked.h"

void mq_row_work_free(mq_row_work *w)
{
    mq_free(&w->block);
    mq_free(&w->layer);
    mq_free(&w->first_row);
    mq_free(&w->storage);
    mq_free(&w->metric);
}

static void bind_block(mq_row_work *w, int64_t i, const mq_tap_layer *layer, int64_t b)
{
    int64_t n = w->system->n, area = MQ_ROW_BLOCK * n;
    double *stats = layer->stats + b * MQ_N_STATS * MQ_ROW_BLOCK;
    w->layer[i] = layer;
    w->first_row[i] = b * MQ_ROW_BLOCK;
    w->block[i] = (mq_row_block){
        .w = w->storage + 2 * i * area,
        .e = w->storage + (2 * i + 1) * area,
        .codes = layer->codes + b * area,
        .scales = layer->scales + b * MQ_ROW_BLOCK * layer->n_groups,
        .zeros = layer->zeros ? layer->zeros + b * MQ_ROW_BLOCK * layer->n_groups : NULL,
        .quant = layer->quant,
        .loss = stats + MQ_STAT_LOSS * MQ_ROW_BLOCK,
        .energy = stats + MQ_STAT_ENERGY * MQ_ROW_BLOCK,
        .error2 = stats + MQ_STAT_ERROR2 * MQ_ROW_BLOCK,
        .weight2 = stats + MQ_STAT_WEIGHT2 * MQ_ROW_BLOCK,
    };
}

int64_t mq_row_passes(const mq_run *run)
{
    int64_t most = mq_ceil_div(run->result->n_row_blocks, run->comm->size);
    return mq_ceil_div(most, MQ_PASS_BLOCKS);
}

/* Passes are as even as can be: row blocks [*begin, *end) of the tap. */
static void pass_range(const mq_run *run, int64_t pass, int64_t *begin, int64_t *end)
{
    int64_t passes = mq_row_passes(run), n = run->result->n_row_blocks;
    int64_t each = mq_ceil_div(mq_ceil_div(n, run->comm->size), passes) * run->comm->size;
    *begin = mq_min_i64(pass * each, n);
    *end = mq_min_i64(*begin + each, n);
}

static mq_status row_work_create(const mq_run *run, mq_tap_system *system, int64_t pass,
                                 mq_row_work *w)
{
    const mq_tap_result *result = run->result;
    int64_t mine = 0, floats = 0, i = 0, begin = 0, end = 0;
    pass_range(run, pass, &begin, &end);
    for (int64_t b = begin + run->comm->rank; b < end; b += run->comm->size) mine++;
    w->system = system;
    w->n_blocks = mine;
    MQ_TRY(mq_mul_i64(mine, 2 * MQ_ROW_BLOCK, &floats));
    MQ_TRY(mq_mul_i64(floats, system->n, &floats));
    MQ_TRY(mq_alloc(mine, sizeof *w->block, "row blocks", &w->block));
    MQ_TRY(mq_alloc(mine, sizeof *w->layer, "row blocks", &w->layer));
    MQ_TRY(mq_alloc(mine, sizeof *w->first_row, "row blocks", &w->first_row));
    MQ_TRY(mq_alloc(floats, sizeof *w->storage, "rows of W", &w->storage));
    for (int l = 0; l < result->n_layers; l++) {
        const mq_tap_layer *layer = &result->layer[l];
        for (int64_t b = 0; b < layer->n_row_blocks; b++) {
            int64_t of_tap = layer->first_row_block + b;
            if (of_tap < begin || of_tap >= end) continue;
            if (of_tap % run->comm->size == run->comm->rank) bind_block(w, i++, layer, b);
        }
    }
    return MQ_OK;
}

/* From the file where that is more exact than the block's weights: F16, F32 and F64. */
mq_status mq_run_read_rows(const mq_run *run, int64_t block, const mq_tap_layer *layer, int64_t r0,
                           int64_t r1, float *out)
{
    const mq_block_weights *weights = run->stream[MQ_QUANTISED].weights;
    int64_t n = run->result->n_in;
    mq_linear_source head;
    const mq_linear_source *source = &head;
    if (layer->linear == MQ_HEAD) {
        MQ_TRY(mq_linear_find(run->source, run->arch, MQ_HEAD, block, &head));
    } else {
        source = &weights->source[layer->linear];
    }
    const mq_tensor *t = source->weight;
    bool exact = t && (t->dtype == MQ_F16 || t->dtype == MQ_F32 || t->dtype == MQ_F64);
    if (layer->linear == MQ_HEAD || exact) {
        return mq_linear_read_rows(run->source, source, r0, r1, MQ_F32, out);
    }
    const char *rows = weights->w[layer->linear];
    rows += (size_t)(r0 * n) * mq_dtype_size(weights->dtype);
    return mq_to_f32(rows, weights->dtype, (r1 - r0) * n, out);
}

/* Rows of block i, columns in original order; padding stays as it is. */
static mq_status load_rows(const mq_run *run, int64_t block, const mq_row_work *w, int64_t i,
                           float *out)
{
    int64_t r0 = w->first_row[i], r1 = mq_min_i64(r0 + MQ_ROW_BLOCK, w->layer[i]->n_out);
    return mq_run_read_rows(run, block, w->layer[i], r0, r1, out);
}

mq_status mq_row_work_load(const mq_run *run, int64_t block, mq_tap_system *s, int64_t pass,
                           mq_row_work *w)
{
    MQ_TRY(row_work_create(run, s, pass, w));
    for (int64_t i = 0; i < w->n_blocks; i++) {
        const mq_row_block *b = &w->block[i];
        MQ_TRY(load_rows(run, block, w, i, b->e));
        for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
            mq_tap_system_gather(s, b->e + r * s->n, b->w + r * s->n);
        }
    }
    return MQ_OK;
}

/* The search works on columns in original order, in which groups are contiguous. */
typedef struct scales_job {
    const mq_row_work *work;
    const mq_tap_judge *judge;
} scales_job;

static mq_status scales_task(void *context, int64_t i)
{
    const scales_job *job = context;
    const mq_row_work *w = job->work;
    const mq_row_block *b = &w->block[i];
    const mq_tap_layer *layer = w->layer[i];
    const mq_tap_system *s = w->system;
    int64_t at = w->first_row[i] * layer->n_groups;
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
        for (int64_t k = 0; k < s->n; k++) b->e[r * s->n + s->order[k]] = b->w[r * s->n + k];
    }
    const mq_group_judge *judge = mq_tap_judge_for(job->judge, b->quant.group);
    if (judge) {
        return mq_judge_scales(b->e, MQ_ROW_BLOCK, s->n, s->diagonal, &b->quant, judge,
                               layer->scales + at, layer->zeros ? layer->zeros + at : NULL);
    }
    return mq_search_scales(b->e, MQ_ROW_BLOCK, s->n, s->diagonal, &b->quant, layer->scales + at,
                            layer->zeros ? layer->zeros + at : NULL);
}

mq_status mq_row_work_scales(const mq_tap_judge *judge, mq_row_work *w)
{
    scales_job job = {.work = w, .judge = judge};
    return mq_parallel_for(w->n_blocks, scales_task, &job);
}

static void measure_row(const mq_tap_system *s, const mq_row_block *b, int64_t r)
{
    int64_t n = s->n;
    float *packed = b->w + r * n;
    const float *source = b->e + r * n;
    double error2 = 0, weight2 = 0;
    int64_t at = r * (n / b->quant.group);
    mq_dequantise_row(b->codes + r * n, b->scales + at, b->zeros ? b->zeros + at : NULL, n,
                      &b->quant, packed);
    for (int64_t k = 0; k < n; k++) {
        double e = (double)source[k] - (double)packed[k] * s->scale[k];
        error2 += e * e;
        weight2 += (double)source[k] * (double)source[k];
    }
    b->error2[r] = error2;
    b->weight2[r] = weight2;
}

mq_status mq_row_work_measure(const mq_run *run, int64_t block, mq_row_work *w)
{
    for (int64_t i = 0; i < w->n_blocks; i++) {
        const mq_row_block *b = &w->block[i];
        int64_t rows = mq_min_i64(MQ_ROW_BLOCK, w->layer[i]->n_out - w->first_row[i]);
        MQ_TRY(load_rows(run, block, w, i, b->e));
        for (int64_t r = 0; r < rows; r++) measure_row(w->system, b, r);
    }
    return MQ_OK;
}
