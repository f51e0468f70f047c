#include "base/checked.h"
#include "base/memory.h"
#include "ops/ops.h"
#include "solve/judge.h"
#include "solve/refine.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Cost of the solver's kernels on a layer of 4 x 128 rows; one line each, the best of a few runs,
 * in processor time (of all threads), so that other programs on the machine do not count.
 *
 *     bench_solver [COLUMNS [THREADS]]
 *
 * The matrix is diagonal plus a common part, which has its factor in closed form. */

enum { BLOCKS = 4, ROWS = BLOCKS * MQ_ROW_BLOCK, RUNS = 5 };

typedef struct bench {
    int64_t n;
    mq_quant quant;
    float *w, *e, *scales, *extra, *best_scales; /* of all rows */
    uint8_t *codes, *best_codes;
    double *sums, *diagonal;
    float *h, *m; /* (n, n) */
    float *panel; /* (n, 128) */
    int64_t *order;
    int32_t *group_order; /* the judge's */
    float *group_m;
    double *group_r2;
    mq_group_judge judge;
    mq_row_block block[BLOCKS];
    mq_refine_block refine[BLOCKS];
} bench;

static mq_status rows_of_h(void *context, int64_t k0, int64_t k1, const float **h)
{
    bench *b = context;
    (void)k1;
    *h = b->h + k0 * b->n;
    return MQ_OK;
}

static mq_status panel_of_m(void *context, int64_t k0, int64_t k1, const float **m)
{
    bench *b = context;
    for (int64_t i = 0; i < k1; i++) {
        memcpy(b->panel + i * (k1 - k0), b->m + i * b->n + k0, (size_t)(k1 - k0) * sizeof(float));
    }
    *m = b->panel;
    return MQ_OK;
}

static float next(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) * 0x1p-23f - 1.0f;
}

/* H = I + u u^T, and R R^T = H from the last column to the first. */
static void fill_matrices(bench *b)
{
    int64_t n = b->n;
    double before = 1, u = sqrt(30.0 / (double)n);
    for (int64_t k = n - 1; k >= 0; k--) {
        double after = before + u * u;
        b->order[k] = k;
        b->diagonal[k] = sqrt(after / before);
        for (int64_t i = 0; i < n; i++) {
            b->h[i * n + k] = (float)(u * u + (i == k));
            b->m[i * n + k] = (float)(i == k ? 1 : i < k ? u * u / after : 0);
        }
        before = after;
    }
}

static void bind(bench *b)
{
    int64_t n = b->n, area = MQ_ROW_BLOCK * n;
    for (int64_t i = 0; i < BLOCKS; i++) {
        double *sums = b->sums + 4 * i * MQ_ROW_BLOCK;
        b->block[i] = (mq_row_block){.w = b->w + i * area,
                                     .e = b->e + i * area,
                                     .codes = b->codes + i * area,
                                     .scales = b->scales + i * area,
                                     .quant = b->quant,
                                     .loss = sums,
                                     .energy = sums + MQ_ROW_BLOCK,
                                     .error2 = sums + 2 * MQ_ROW_BLOCK,
                                     .weight2 = sums + 3 * MQ_ROW_BLOCK};
        b->refine[i] = (mq_refine_block){.block = &b->block[i],
                                         .scales = b->scales + i * area,
                                         .best_codes = b->best_codes + i * area,
                                         .best_scales = b->best_scales + i * area};
    }
}

static mq_status create(bench *b)
{
    int64_t n = b->n, area = ROWS * n;
    uint32_t state = 1;
    MQ_TRY(mq_alloc(area, sizeof(float), "benchmark", &b->w));
    MQ_TRY(mq_alloc(area, sizeof(float), "benchmark", &b->e));
    MQ_TRY(mq_alloc(area, sizeof(float), "benchmark", &b->scales));
    MQ_TRY(mq_alloc(area, sizeof(float), "benchmark", &b->extra));
    MQ_TRY(mq_alloc(area, sizeof(float), "benchmark", &b->best_scales));
    MQ_TRY(mq_alloc(area, 1, "benchmark", &b->codes));
    MQ_TRY(mq_alloc(area, 1, "benchmark", &b->best_codes));
    MQ_TRY(mq_alloc(ROWS, 4 * sizeof(double), "benchmark", &b->sums));
    MQ_TRY(mq_alloc(n, sizeof(double), "benchmark", &b->diagonal));
    MQ_TRY(mq_alloc(n, sizeof(int64_t), "benchmark", &b->order));
    MQ_TRY(mq_alloc(n, sizeof(int32_t), "benchmark", &b->group_order));
    MQ_TRY(mq_alloc(n, sizeof(double), "benchmark", &b->group_r2));
    MQ_TRY(mq_alloc(n, MQ_JUDGE_GROUP * sizeof(float), "benchmark", &b->group_m));
    MQ_TRY(mq_alloc(n * n, sizeof(float), "benchmark", &b->h));
    MQ_TRY(mq_alloc(n * n, sizeof(float), "benchmark", &b->m));
    MQ_TRY(mq_alloc(n, MQ_SOLVE_PANEL * sizeof(float), "benchmark", &b->panel));
    for (int64_t i = 0; i < area; i++) b->w[i] = 0.05f * next(&state) * next(&state);
    fill_matrices(b);
    return MQ_OK;
}

static void destroy(bench *b)
{
    mq_free(&b->w);
    mq_free(&b->e);
    mq_free(&b->scales);
    mq_free(&b->extra);
    mq_free(&b->best_scales);
    mq_free(&b->codes);
    mq_free(&b->best_codes);
    mq_free(&b->sums);
    mq_free(&b->diagonal);
    mq_free(&b->order);
    mq_free(&b->h);
    mq_free(&b->m);
    mq_free(&b->panel);
    mq_free(&b->group_order);
    mq_free(&b->group_m);
    mq_free(&b->group_r2);
}

typedef mq_status (*kernel)(bench *b);

static mq_status search(bench *b)
{
    for (int64_t i = 0; i < BLOCKS; i++) {
        MQ_TRY(mq_search_scales(b->block[i].w, MQ_ROW_BLOCK, b->n, b->diagonal, &b->quant,
                                b->refine[i].scales, NULL));
    }
    return MQ_OK;
}

static mq_status gather(bench *b)
{
    b->judge = (mq_group_judge){.order = b->group_order, .m = b->group_m, .r2 = b->group_r2};
    return mq_gather_groups(b->n, b->quant.group, b->order, b->diagonal, panel_of_m, b,
                            b->group_order, b->group_m, b->group_r2);
}

static mq_status judge(bench *b)
{
    for (int64_t i = 0; i < BLOCKS; i++) {
        MQ_TRY(mq_judge_scales(b->block[i].w, MQ_ROW_BLOCK, b->n, b->diagonal, &b->quant, &b->judge,
                               b->refine[i].scales, NULL));
    }
    return MQ_OK;
}

static mq_status judge_few(bench *b)
{
    b->judge.n_keep = 16;
    return judge(b);
}

static mq_status ldlq(bench *b)
{
    return mq_ldlq(b->block, BLOCKS, b->n, b->order, b->diagonal, panel_of_m, b);
}

static mq_status measure_loss(bench *b)
{
    return mq_measure_loss(b->refine, BLOCKS, b->n, rows_of_h, b);
}

static mq_status refine(bench *b)
{
    return mq_refine_sweep(b->refine, BLOCKS, b->n, rows_of_h, b);
}

static mq_status measure(const char *name, kernel run, bench *b)
{
    double best = INFINITY;
    for (int i = 0; i < RUNS; i++) {
        clock_t start = clock();
        MQ_TRY(run(b));
        best = fmin(best, (double)(clock() - start) / CLOCKS_PER_SEC);
    }
    double weights = (double)(ROWS * b->n);
    printf("%-18s %d bits, groups of %5" PRId64 " %9.3f ms %8.2f ns/weight\n", name, b->quant.bits,
           b->quant.group, best * 1e3, best * 1e9 / weights);
    return MQ_OK;
}

static mq_status measure_group(int64_t group, bench *b)
{
    if (b->n % group != 0) return MQ_OK;
    b->quant = (mq_quant){.bits = 3, .group = group, .grid = MQ_SCALE_F16};
    bind(b);
    MQ_TRY(measure("search, diagonal", search, b));
    if (group <= MQ_JUDGE_GROUP) {
        MQ_TRY(measure("factors of groups", gather, b));
        MQ_TRY(measure("search, judged", judge, b));
        MQ_TRY(measure("search, 16 judged", judge_few, b));
    }
    MQ_TRY(measure("LDLQ", ldlq, b));
    MQ_TRY(measure("loss", measure_loss, b));
    return measure("refinement", refine, b);
}

int main(int argc, char **argv)
{
    bench b = {.n = argc > 1 ? atoll(argv[1]) : 1536};
    int threads = argc > 2 ? atoi(argv[2]) : 1;
    const int64_t groups[] = {32, 64, 128, b.n};
    mq_status status = mq_ops_start(threads, "");
    if (status == MQ_OK) status = create(&b);
    if (status == MQ_OK) {
        printf("%s, %d threads, %" PRId64 " columns\n", mq_ops_describe(), threads, b.n);
    }
    for (int i = 0; i < 4 && status == MQ_OK; i++) status = measure_group(groups[i], &b);
    if (status != MQ_OK) fprintf(stderr, "bench_solver: %s\n", mq_message());
    destroy(&b);
    mq_ops_stop();
    return mq_exit_code(status);
}
