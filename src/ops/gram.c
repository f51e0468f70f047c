#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm_impl.h"
#include "ops/rows.h"
#include "ops/vector.h"

#include <string.h>

/* Tokens beyond a multiple of TOKEN_STEP are summed apart, from a zero-padded copy: units of any
 * length then share a few shapes (see linear.c). */
enum { TOKEN_STEP = 64, SUMSQ_COLUMNS = 128 };

/* The rows [t0, n_tok) of columns [j0, j0 + n) of x, zero-padded to TOKEN_STEP rows. */
static void copy_tail(const void *x, mq_dtype dtype, int64_t t0, int64_t n_tok, int64_t ldx,
                      int64_t j0, int64_t n, char *dst)
{
    size_t row = (size_t)n * mq_dtype_size(dtype);
    memset(dst, 0, TOKEN_STEP * row);
    for (int64_t t = t0; t < n_tok; t++) {
        memcpy(dst + (size_t)(t - t0) * row, mq_at(x, t * ldx + j0, dtype), row);
    }
}

/* Columns [i0, i0 + shape.m) of a against [j0, j0 + shape.n) of b. */
typedef struct panel_pair {
    const void *a, *b;
    int64_t i0, j0;
} panel_pair;

static mq_status add_tail(const mq_gemm_shape *whole, const panel_pair *p, int64_t t0,
                          int64_t n_tok, float *h)
{
    mq_gemm_shape shape = *whole;
    size_t elem = mq_dtype_size(shape.in);
    mq_scratch_plan plan = {0};
    size_t a_at = mq_scratch_add(&plan, TOKEN_STEP * shape.m, elem);
    size_t b_at = mq_scratch_add(&plan, TOKEN_STEP * shape.n, elem);
    char *base;
    MQ_TRY(mq_scratch_get(&plan, MQ_SLOT_KERNEL, &base));
    copy_tail(p->a, shape.in, t0, n_tok, whole->lda, p->i0, shape.m, base + a_at);
    copy_tail(p->b, shape.in, t0, n_tok, whole->ldb, p->j0, shape.n, base + b_at);
    shape.k = TOKEN_STEP;
    shape.lda = shape.m;
    shape.ldb = shape.n;
    shape.accumulate = true;
    return mq_gemm(&shape, base + a_at, base + b_at, h);
}

mq_status mq_cross_panel(const void *a, int64_t lda, int64_t i0, int64_t n_i, const void *b,
                         int64_t ldb, int64_t j0, int64_t n_j, mq_dtype dtype, int64_t n_tok,
                         float *h)
{
    int64_t t0 = n_tok / TOKEN_STEP * TOKEN_STEP;
    const panel_pair pair = {a, b, i0, j0};
    const mq_gemm_shape shape = {.m = n_i,
                                 .n = n_j,
                                 .k = t0,
                                 .lda = lda,
                                 .ldb = ldb,
                                 .ldc = n_j,
                                 .in = dtype,
                                 .out = MQ_F32,
                                 .a_trans = true};
    MQ_TRY(mq_gemm(&shape, mq_at(a, i0, dtype), mq_at(b, j0, dtype), h));
    if (t0 == n_tok) return MQ_OK;
    return add_tail(&shape, &pair, t0, n_tok, h);
}

mq_status mq_gram_panel(const void *x, mq_dtype dtype, int64_t n_tok, int64_t ldx, int64_t i0,
                        int64_t n_i, int64_t j0, int64_t n_j, float *h)
{
    return mq_cross_panel(x, ldx, i0, n_i, x, ldx, j0, n_j, dtype, n_tok, h);
}

/* sum[j] += x[j]^2. A f32 squared is exact in f64, so only the additions round. */
static MQ_CLONES void vec_add_squares_f32(const float *restrict x, int64_t n, double *restrict sum)
{
    for (int64_t j = 0; j < n; j++) sum[j] += (double)x[j] * (double)x[j];
}

static MQ_CLONES void vec_add_squares_bf16(const uint16_t *restrict x, int64_t n,
                                           double *restrict sum)
{
    for (int64_t j = 0; j < n; j++) {
        double v = (double)mq_bf16_to_f32(x[j]);
        sum[j] += v * v;
    }
}

typedef struct sumsq_job {
    const void *x;
    mq_dtype dtype;
    int64_t n_tok, n;
    double *out;
} sumsq_job;

static mq_status sumsq_task(void *context, int64_t i)
{
    const sumsq_job *job = context;
    int64_t j0 = i * SUMSQ_COLUMNS, n = mq_min_i64(SUMSQ_COLUMNS, job->n - j0);
    double sum[SUMSQ_COLUMNS] = {0};
    for (int64_t t = 0; t < job->n_tok; t++) {
        const void *row = mq_at(job->x, t * job->n + j0, job->dtype);
        if (job->dtype == MQ_BF16) {
            vec_add_squares_bf16(row, n, sum);
        } else {
            vec_add_squares_f32(row, n, sum);
        }
    }
    memcpy(job->out + j0, sum, (size_t)n * sizeof *sum);
    return MQ_OK;
}

mq_status mq_column_sumsq(const void *x, mq_dtype dtype, int64_t n_tok, int64_t n, double *out)
{
    sumsq_job job = {.x = x, .dtype = dtype, .n_tok = n_tok, .n = n, .out = out};
    return mq_parallel_for(mq_ceil_div(n, SUMSQ_COLUMNS), sumsq_task, &job);
}
