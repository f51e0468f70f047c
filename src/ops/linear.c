#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm_impl.h"
#include "ops/rows.h"

#include <string.h>

/* Linear layers and Gram matrices on top of mq_gemm.
 *
 * Row counts of units differ, and each shape of a product costs 0.3 ms and 70 kB to prepare. So the
 * last rows are padded with zeros to a multiple of ROW_STEP in scratch: a few dozen shapes serve
 * any number of ragged units. Columns are cut, evenly, where rows alone would give fewer than TASKS
 * tasks; narrow products are slower (by a tenth at 512), wide ones take more scratch. */
enum { ROW_STEP = 64, TASKS = 16, MIN_COLS = 512, MAX_COLS = 2048 };

typedef struct linear_job {
    const void *x, *w;
    const float *bias;
    void *y;
    int64_t n_tok, n_in, n_out, ldy;
    int64_t col_tiles, col_width;
    mq_dtype dtype;
    bool add; /* y += product, instead of y = product */
} linear_job;

/* One tile of y, and where its operands lie. */
typedef struct tile {
    int64_t rows, padded, cols;
    const void *x, *w;
    const float *bias;
    void *y, *product; /* product is y itself, or scratch */
    int64_t ld_product;
    mq_dtype product_type;
} tile;

static tile tile_at(const linear_job *job, int64_t i)
{
    int64_t r0 = i / job->col_tiles * MQ_ROW_TILE, c0 = i % job->col_tiles * job->col_width;
    tile t = {.rows = mq_min_i64(MQ_ROW_TILE, job->n_tok - r0),
              .cols = mq_min_i64(job->col_width, job->n_out - c0)};
    t.padded = mq_ceil_div(t.rows, ROW_STEP) * ROW_STEP;
    t.x = mq_at(job->x, r0 * job->n_in, job->dtype);
    t.w = mq_at(job->w, c0 * job->n_in, job->dtype);
    t.bias = job->bias ? job->bias + c0 : NULL;
    t.y = mq_at_mut(job->y, r0 * job->ldy + c0, job->dtype);
    t.product = t.y;
    t.ld_product = job->ldy;
    t.product_type = job->dtype;
    return t;
}

/* A zero-padded copy of the rows of x, and room for the product, where the tile needs them. */
static mq_status use_scratch(const linear_job *job, tile *t)
{
    size_t elem = mq_dtype_size(job->dtype);
    bool pad = t->padded != t->rows;
    if (!pad && !job->add) return MQ_OK;
    mq_scratch_plan plan = {0};
    size_t x_at = mq_scratch_add(&plan, pad ? t->padded * job->n_in : 0, elem);
    size_t product_at = mq_scratch_add(&plan, t->padded * t->cols, sizeof(float));
    char *base;
    MQ_TRY(mq_scratch_get(&plan, MQ_SLOT_KERNEL, &base));
    if (pad) {
        size_t used = (size_t)(t->rows * job->n_in) * elem;
        memcpy(base + x_at, t->x, used);
        memset(base + x_at + used, 0, (size_t)(t->padded * job->n_in) * elem - used);
        t->x = base + x_at;
    }
    t->product = base + product_at;
    t->ld_product = t->cols;
    if (job->add) t->product_type = MQ_F32;
    return MQ_OK;
}

static mq_status linear_task(void *context, int64_t i)
{
    const linear_job *job = context;
    tile t = tile_at(job, i);
    MQ_TRY(use_scratch(job, &t));
    const mq_gemm_shape shape = {.m = t.padded,
                                 .n = t.cols,
                                 .k = job->n_in,
                                 .lda = job->n_in,
                                 .ldb = job->n_in,
                                 .ldc = t.ld_product,
                                 .in = job->dtype,
                                 .out = t.product_type,
                                 .b_trans = true};
    MQ_TRY(mq_gemm_bias(&shape, t.x, t.w, t.bias, t.product));
    if (t.product == t.y) return MQ_OK;
    for (int64_t r = 0; r < t.rows; r++) {
        void *y = mq_at_mut(t.y, r * job->ldy, job->dtype);
        const void *p = mq_at(t.product, r * t.ld_product, t.product_type);
        if (job->add) mq_row_add(y, job->dtype, p, t.cols);
        if (!job->add) memcpy(y, p, (size_t)t.cols * mq_dtype_size(job->dtype));
    }
    return MQ_OK;
}

static void cut_columns(linear_job *job, int64_t row_tiles)
{
    int64_t want = mq_ceil_div(TASKS, mq_max_i64(1, row_tiles));
    int64_t tiles = mq_min_i64(want, job->n_out / MIN_COLS);
    tiles = mq_max_i64(tiles, mq_ceil_div(job->n_out, MAX_COLS));
    tiles = mq_max_i64(tiles, 1);
    int64_t width = mq_ceil_div(job->n_out, tiles);
    job->col_width = mq_max_i64(1, mq_ceil_div(width, ROW_STEP)) * ROW_STEP;
    job->col_tiles = mq_ceil_div(job->n_out, job->col_width);
}

static mq_status run_linear(linear_job *job)
{
    int64_t n_tasks = 0, row_tiles = mq_ceil_div(job->n_tok, MQ_ROW_TILE);
    cut_columns(job, row_tiles);
    MQ_TRY(mq_mul_i64(row_tiles, job->col_tiles, &n_tasks));
    return mq_parallel_for(n_tasks, linear_task, job);
}

mq_status mq_linear(const void *x, int64_t n_tok, int64_t n_in, const void *w, int64_t n_out,
                    const float *bias, void *y, int64_t ldy, mq_dtype dtype)
{
    linear_job job = {.x = x,
                      .w = w,
                      .bias = bias,
                      .y = y,
                      .n_tok = n_tok,
                      .n_in = n_in,
                      .n_out = n_out,
                      .ldy = ldy,
                      .dtype = dtype};
    return run_linear(&job);
}

mq_status mq_linear_add(const void *x, int64_t n_tok, int64_t n_in, const void *w, int64_t n_out,
                        const float *bias, void *r, mq_dtype dtype)
{
    linear_job job = {.x = x,
                      .w = w,
                      .bias = bias,
                      .y = r,
                      .n_tok = n_tok,
                      .n_in = n_in,
                      .n_out = n_out,
                      .ldy = n_out,
                      .dtype = dtype,
                      .add = true};
    return run_linear(&job);
}
