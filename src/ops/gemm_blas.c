#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm_impl.h"
#include "ops/rows.h"

#include <cblas.h>
#include <stdbool.h>

/* OpenBLAS knows no bf16 that we could rely on, so bf16 products run in f32 on converted tiles.
 * The tile sizes are constants: the order of a sum depends on k alone. 9 MB per thread. */
enum { TILE_M = 512, TILE_N = 512, TILE_K = 2048 };

typedef struct sgemm_args {
    bool a_trans, b_trans;
    int m, n, k, lda, ldb, ldc;
    const float *a, *b;
    float *c;
    float beta;
} sgemm_args;

static void run_sgemm(const sgemm_args *g)
{
    cblas_sgemm(CblasRowMajor, g->a_trans ? CblasTrans : CblasNoTrans,
                g->b_trans ? CblasTrans : CblasNoTrans, g->m, g->n, g->k, 1.0f, g->a, g->lda, g->b,
                g->ldb, g->beta, g->c, g->ldc);
}

static void add_bias(float *c, int64_t m, int64_t n, int64_t ldc, const float *bias)
{
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) c[i * ldc + j] += bias[j];
    }
}

static mq_status gemm_f32(const mq_gemm_shape *s, const float *a, const float *b, const float *bias,
                          float *c)
{
    sgemm_args g = {.a_trans = s->a_trans, .b_trans = s->b_trans, .a = a, .b = b, .c = c};
    g.beta = s->accumulate ? 1.0f : 0.0f;
    MQ_TRY(mq_to_int(s->m, "rows of a product", &g.m));
    MQ_TRY(mq_to_int(s->n, "columns of a product", &g.n));
    MQ_TRY(mq_to_int(s->k, "inner size of a product", &g.k));
    MQ_TRY(mq_to_int(s->lda, "stride of a product", &g.lda));
    MQ_TRY(mq_to_int(s->ldb, "stride of a product", &g.ldb));
    MQ_TRY(mq_to_int(s->ldc, "stride of a product", &g.ldc));
    run_sgemm(&g);
    if (bias) add_bias(c, s->m, s->n, s->ldc, bias);
    return MQ_OK;
}

/* A matrix operand's part [r0, r0 + rows) x [c0, c0 + cols) as f32, in its stored orientation
 * (trans: the part's columns are the stored rows). Returns the stride of the copy. */
static int load_part(const uint16_t *src, int64_t ld, bool trans, int64_t r0, int64_t c0,
                     int64_t rows, int64_t cols, float *dst)
{
    int64_t stored_rows = trans ? cols : rows, stored_cols = trans ? rows : cols;
    const uint16_t *from = trans ? src + c0 * ld + r0 : src + r0 * ld + c0;
    for (int64_t i = 0; i < stored_rows; i++) {
        mq_row_load(from + i * ld, MQ_BF16, stored_cols, dst + i * stored_cols);
    }
    return (int)stored_cols;
}

typedef struct tile_memory {
    float *a, *b, *c;
} tile_memory;

static mq_status get_tiles(tile_memory *t)
{
    mq_scratch_plan plan = {0};
    size_t a = mq_scratch_add(&plan, (int64_t)TILE_M * TILE_K, sizeof(float));
    size_t b = mq_scratch_add(&plan, (int64_t)TILE_N * TILE_K, sizeof(float));
    size_t c = mq_scratch_add(&plan, (int64_t)TILE_M * TILE_N, sizeof(float));
    char *base;
    MQ_TRY(mq_scratch_get(&plan, MQ_SLOT_GEMM, &base));
    t->a = (float *)(void *)(base + a);
    t->b = (float *)(void *)(base + b);
    t->c = (float *)(void *)(base + c);
    return MQ_OK;
}

/* One tile of C, rows [i0, i0 + m) and columns [j0, j0 + n). */
static void gemm_tile(const mq_gemm_shape *s, const uint16_t *a, const uint16_t *b,
                      const float *bias, void *c, int64_t i0, int64_t j0, const tile_memory *t)
{
    int64_t m = mq_min_i64(TILE_M, s->m - i0), n = mq_min_i64(TILE_N, s->n - j0);
    sgemm_args g = {.a_trans = s->a_trans, .b_trans = s->b_trans, .a = t->a, .b = t->b};
    g.m = (int)m;
    g.n = (int)n;
    g.c = t->c;
    g.ldc = (int)n;
    for (int64_t k0 = 0; k0 < s->k; k0 += TILE_K) {
        int64_t k = mq_min_i64(TILE_K, s->k - k0);
        g.k = (int)k;
        g.lda = load_part(a, s->lda, s->a_trans, i0, k0, m, k, t->a);
        g.ldb = load_part(b, s->ldb, s->b_trans, k0, j0, k, n, t->b);
        g.beta = k0 > 0 ? 1.0f : 0.0f;
        run_sgemm(&g);
    }
    if (bias) add_bias(t->c, m, n, n, bias + j0);
    char *out = (char *)c + (size_t)(i0 * s->ldc + j0) * mq_dtype_size(s->out);
    for (int64_t i = 0; i < m; i++) {
        void *row = out + (size_t)(i * s->ldc) * mq_dtype_size(s->out);
        if (s->accumulate) mq_row_add(row, MQ_F32, t->c + i * n, n);
        if (!s->accumulate) mq_row_store(t->c + i * n, n, row, s->out);
    }
}

mq_status mq_gemm_blas(const mq_gemm_shape *shape, const void *a, const void *b, const float *bias,
                       void *c)
{
    if (shape->in == MQ_F32) return gemm_f32(shape, a, b, bias, c);
    tile_memory tiles;
    MQ_TRY(get_tiles(&tiles));
    for (int64_t i0 = 0; i0 < shape->m; i0 += TILE_M) {
        for (int64_t j0 = 0; j0 < shape->n; j0 += TILE_N) {
            gemm_tile(shape, a, b, bias, c, i0, j0, &tiles);
        }
    }
    return MQ_OK;
}
