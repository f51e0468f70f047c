/* Grids with zero points, and grids without negative scales: the search against an exhaustive one
 * in f64, the solver against plain loops. */
#include "test_solve.h"

#include "base/dtype.h"
#include "base/parallel.h"
#include "ops/ops.h"
#include "solve/judge.h"
#include "solve/refine.h"

#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const int widths[] = {2, 3, 4, 8};

/* Code minus zero point. */
static double naive_level(double t, double scale, int zero, int bits)
{
    double top = (double)((1 << bits) - 1), q = nearbyint(t / scale);
    if (q < -(double)zero) return -(double)zero;
    return q > top - zero ? top - zero : q;
}

static double error_of(const float *w, const double *weight, int64_t n, double scale, int zero,
                       int bits)
{
    double sum = 0;
    for (int64_t j = 0; j < n; j++) {
        double e = (double)w[j] - naive_level((double)w[j], scale, zero, bits) * scale;
        sum += e * e * (weight ? weight[j] : 1);
    }
    return sum;
}

static double energy_of(const float *w, const double *weight, int64_t n)
{
    double sum = 0;
    for (int64_t j = 0; j < n; j++) sum += (double)w[j] * (double)w[j] * weight[j];
    return sum;
}

static double f16(double x)
{
    return (double)mq_f16_to_f32(mq_f32_to_f16((float)x));
}

/* The best of every zero point and scales one percent apart. */
static double exhaustive_error(const float *w, const double *weight, int64_t n, int bits)
{
    double low = 0, high = 0, best = INFINITY, top = (double)((1 << bits) - 1);
    for (int64_t j = 0; j < n; j++) {
        low = fmin(low, (double)w[j]);
        high = fmax(high, (double)w[j]);
    }
    for (double share = 1.15; share > 0.4; share -= 0.01) {
        double scale = f16(share * (high - low) / top);
        for (int zero = 0; zero <= (int)top; zero++) {
            best = fmin(best, error_of(w, weight, n, scale, zero, bits));
        }
    }
    return best;
}

static mq_quant with_zeros(int bits, int64_t group)
{
    return (mq_quant){.bits = bits, .group = group, .grid = MQ_SCALE_F16, .zero_points = true};
}

static float *make_rows(int64_t n_rows, int64_t n, double shift, uint64_t seed)
{
    float *w = zeroed(n_rows * n, sizeof *w);
    for (int64_t i = 0; i < n_rows * n; i++) w[i] = (float)(0.02 * (next_heavy(&seed) + shift));
    return w;
}

static double *make_weights(int64_t n, uint64_t seed)
{
    double *weight = zeroed(n, sizeof *weight);
    for (int64_t j = 0; j < n; j++) weight[j] = 1e5 * exp(2 * next_random(&seed));
    return weight;
}

/* Not worse than symmetric with both signs, and all but as good as everything tried. */
static void check_search(int64_t n_rows, int64_t n, mq_quant quant, double shift)
{
    int64_t n_groups = n / quant.group, group = quant.group;
    mq_quant symmetric = quant;
    symmetric.zero_points = false;
    float *w = make_rows(n_rows, n, shift, 7), *scales = zeroed(n_rows * n_groups, sizeof *scales);
    float *two_signs = zeroed(n_rows * n_groups, sizeof *two_signs);
    uint8_t *zeros = zeroed(n_rows * n_groups, 1);
    double *weight = make_weights(n, 8), ours = 0, best = 0;
    int half = 1 << (quant.bits - 1), top = 2 * half - 1;
    assert_int_equal(mq_search_scales(w, n_rows, n, weight, &quant, scales, zeros), MQ_OK);
    assert_int_equal(mq_search_scales(w, n_rows, n, weight, &symmetric, two_signs, NULL), MQ_OK);
    for (int64_t i = 0; i < n_rows * n_groups; i++) {
        const float *wg = w + i * group;
        const double *hg = weight + i % n_groups * group;
        double energy = energy_of(wg, hg, group);
        double scale = (double)scales[i], other = (double)two_signs[i];
        assert_true(scale > 0 && isfinite(scale) && f16(scale) == scale && zeros[i] <= top);
        double error = error_of(wg, hg, group, scale, zeros[i], quant.bits);
        double bound = error_of(wg, hg, group, other, half, quant.bits);
        assert_true(error <= bound * (1 + 1e-4) + 1e-11 * energy);
        ours += error / energy;
        if (quant.bits < 8) best += exhaustive_error(wg, hg, group, quant.bits) / energy;
    }
    if (quant.bits < 8) assert_true(ours <= 1.02 * best);
    free(w);
    free(scales);
    free(two_signs);
    free(zeros);
    free(weight);
}

static void finds_all_but_the_best(void **state)
{
    (void)state;
    for (int b = 0; b < 4; b++) {
        check_search(19, 384, with_zeros(widths[b], 64), 0);
        check_search(5, 384, with_zeros(widths[b], 128), 1);
        check_search(3, 300, with_zeros(widths[b], 300), -3);
        check_search(2, 6, with_zeros(widths[b], 1), 0);
    }
}

/* One group of n columns with equal weights. */
static float search_one(const float *w, int64_t n, const mq_quant *quant, uint8_t *zero)
{
    double even[64];
    float scale = 0;
    for (int64_t j = 0; j < n; j++) even[j] = 1;
    assert_int_equal(mq_search_scales(w, 1, n, even, quant, &scale, zero), MQ_OK);
    assert_true((zero ? scale > 0 : scale != 0) && isfinite(scale));
    return scale;
}

static double largest_error(const float *w, int64_t n, float scale, uint8_t zero, int bits)
{
    double largest = 0;
    for (int64_t j = 0; j < n; j++) {
        double level = naive_level((double)w[j], (double)scale, zero, bits);
        largest = fmax(largest, fabs((double)w[j] - level * (double)scale));
    }
    return largest;
}

static void a_group_of_zeros(void **state)
{
    (void)state;
    const float w[8] = {0, -0.0f};
    for (int b = 0; b < 4; b++) {
        const mq_quant quant = with_zeros(widths[b], 8);
        uint8_t zero = 77;
        assert_true(search_one(w, 8, &quant, &zero) == 0x1p-24f);
        assert_int_equal(zero, 1 << (widths[b] - 1));
    }
}

/* A constant is a level of the grid, as exact as F16 scales allow; so is 0. */
static void a_constant_group(void **state)
{
    (void)state;
    static const float value[] = {0.3f, -0.3f, 1, -7.77f, 3e-5f};
    for (int v = 0; v < 5; v++) {
        float w[16];
        for (int j = 0; j < 16; j++) w[j] = value[v];
        for (int b = 0; b < 4; b++) {
            const mq_quant quant = with_zeros(widths[b], 16);
            uint8_t zero = 0;
            float scale = search_one(w, 16, &quant, &zero);
            double error = largest_error(w, 16, scale, zero, widths[b]);
            assert_true(error <= fmax(0x1p-11 * fabs((double)value[v]), 0x1p-24));
        }
    }
}

/* All of one sign: the zero point goes to an end of the range, and the steps halve. */
static void groups_of_one_sign(void **state)
{
    (void)state;
    float w[64], mirrored[64];
    for (int j = 0; j < 64; j++) {
        w[j] = (float)j / 63;
        mirrored[j] = -w[j];
    }
    for (int b = 0; b < 3; b++) { /* 8 bits hold these weights either way */
        const mq_quant quant = with_zeros(widths[b], 64);
        mq_quant symmetric = quant;
        int top = (1 << widths[b]) - 1;
        uint8_t zero = 99, other = 99;
        symmetric.zero_points = false;
        float scale = search_one(w, 64, &quant, &zero);
        assert_int_equal(zero, 0);
        assert_true(search_one(mirrored, 64, &quant, &other) == scale);
        assert_int_equal(other, top);
        double ours = error_of(w, NULL, 64, (double)scale, zero, widths[b]);
        double theirs = error_of(w, NULL, 64, (double)search_one(w, 64, &symmetric, NULL),
                                 (top + 1) / 2, widths[b]);
        assert_true(ours < 0.55 * theirs);
    }
}

/* One weight far outside: it is worth a long range only where it carries the error. */
static void one_outlier(void **state)
{
    (void)state;
    const mq_quant quant = with_zeros(4, 64);
    float w[64], scale = 0;
    double weight[64];
    uint8_t zero = 0;
    for (int j = 0; j < 64; j++) {
        w[j] = (float)(j % 9 - 4) / 100;
        weight[j] = 1;
    }
    w[20] = 1;
    assert_int_equal(mq_search_scales(w, 1, 64, weight, &quant, &scale, &zero), MQ_OK);
    assert_true(zero <= 1 && scale > 0.05f); /* one side only */
    assert_true(fabs(1 - (double)scale * (15 - zero)) < 0.1);
    weight[20] = 0; /* dead: the others have the range to themselves */
    assert_int_equal(mq_search_scales(w, 1, 64, weight, &quant, &scale, &zero), MQ_OK);
    w[20] = 0;
    assert_true(largest_error(w, 64, scale, zero, 4) < 0.08 / 15);
}

/* Dead columns: no weight at all counts as equal weights. */
static void dead_groups(void **state)
{
    (void)state;
    const mq_quant quant = with_zeros(3, 4);
    const float w[8] = {.3f, -.1f, .2f, .9f, .5f, .25f, 0, .75f};
    const double dead[8] = {0}, even[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    float scales[2], other[2];
    uint8_t zeros[2], other_zeros[2];
    assert_int_equal(mq_search_scales(w, 1, 8, dead, &quant, scales, zeros), MQ_OK);
    assert_int_equal(mq_search_scales(w, 1, 8, even, &quant, other, other_zeros), MQ_OK);
    assert_memory_equal(scales, other, sizeof scales);
    assert_memory_equal(zeros, other_zeros, sizeof zeros);
}

/* Weights no scale of the grid fits: something finite of it, and a zero point in range. */
static void weights_beyond_the_grid(void **state)
{
    (void)state;
    const float w[] = {1e7f, 3e6f,       -1e-12f,   -2e-13f,    FLT_MAX, -FLT_MAX, 0x1p-149f,
                       0,    -0x1p-149f, 0x1p-149f, -0x1p-126f, FLT_MAX, 1e-40f,   0x1.8p-127f};
    const double weight[] = {1e-300, 1e-290, 1e300, 1, 5, 1e-20, 1, 1, 1, 1, 2, 3, 4, 5};
    static const mq_scale_grid grids[] = {MQ_SCALE_F16, MQ_SCALE_BF16, MQ_SCALE_F32};
    for (int i = 0; i < 12; i++) {
        mq_quant quant = with_zeros(widths[i % 4], 2);
        float scales[7];
        uint8_t zeros[7];
        quant.grid = grids[i / 4];
        assert_int_equal(mq_search_scales(w, 1, 14, weight, &quant, scales, zeros), MQ_OK);
        for (int g = 0; g < 7; g++) {
            assert_true(scales[g] > 0 && isfinite(scales[g]));
            assert_true(zeros[g] < 1 << quant.bits);
        }
        if (quant.grid != MQ_SCALE_F16) continue;
        assert_true(scales[0] == 65504 || quant.bits == 8);
        assert_true(scales[1] == 0x1p-24f && scales[3] == 0x1p-24f);
    }
}

static void formats_without_a_zero_of_nought(void **state)
{
    (void)state;
    mq_quant quant = with_zeros(4, 64), free_choice = quant;
    int64_t noughts = 0;
    float *w = make_rows(20, 64, 10, 5), scales[20];
    double *weight = make_weights(64, 6);
    uint8_t zeros[20];
    assert_int_equal(mq_search_scales(w, 20, 64, weight, &free_choice, scales, zeros), MQ_OK);
    for (int r = 0; r < 20; r++) noughts += zeros[r] == 0;
    assert_true(noughts > 0);
    quant.lowest_zero = 1;
    assert_int_equal(mq_search_scales(w, 20, 64, weight, &quant, scales, zeros), MQ_OK);
    for (int r = 0; r < 20; r++) assert_true(zeros[r] >= 1);
    free(w);
    free(weight);
}

/* The best scale that is positive, not the best one with its sign taken off. */
static void positive_scales(void **state)
{
    (void)state;
    enum { ROWS = 40, GROUP = 32 };
    const mq_quant both = {.bits = 3, .group = GROUP, .grid = MQ_SCALE_F16};
    mq_quant positive = both;
    float *w = make_rows(ROWS, GROUP, 0, 9), signs[ROWS], scales[ROWS];
    double *weight = make_weights(GROUP, 10);
    int64_t negative = 0;
    positive.positive = true;
    assert_int_equal(mq_search_scales(w, ROWS, GROUP, weight, &both, signs, NULL), MQ_OK);
    assert_int_equal(mq_search_scales(w, ROWS, GROUP, weight, &positive, scales, NULL), MQ_OK);
    for (int64_t r = 0; r < ROWS; r++) {
        const float *row = w + r * GROUP;
        double error = error_of(row, weight, GROUP, (double)scales[r], 4, 3), absmax = 0;
        double energy = energy_of(row, weight, GROUP), best = INFINITY;
        for (int j = 0; j < GROUP; j++) absmax = fmax(absmax, fabs((double)row[j]));
        for (int c = 0; c < 72; c++) {
            double s = f16(absmax * (1.12 - 0.02 * (c / 2)) / (c % 2 ? 3.5 : 4));
            best = fmin(best, error_of(row, weight, GROUP, s, 4, 3));
        }
        assert_true(scales[r] > 0);
        assert_true(error <= best * (1 + 1e-4) + 1e-11 * energy);
        negative += signs[r] < 0;
        if (signs[r] > 0) assert_true(signs[r] == scales[r]);
    }
    assert_true(negative > 5 && negative < ROWS - 5);
    free(w);
    free(weight);
}

/* The judged search keeps to the sign too, whatever it lets through. */
static void positive_scales_judged(void **state)
{
    (void)state;
    enum { ROWS = 20, N = 32 };
    static const int kept[] = {0, 1, 5, 100};
    const mq_quant quant = {.bits = 3, .group = N, .grid = MQ_SCALE_F16, .positive = true};
    int32_t order[N];
    float *w = make_rows(ROWS, N, 0, 9), *m = zeroed(N * N, sizeof *m), scales[ROWS], plain[ROWS];
    double *weight = make_weights(N, 10);
    for (int k = 0; k < N; k++) order[k] = k;
    assert_int_equal(mq_search_scales(w, ROWS, N, weight, &quant, plain, NULL), MQ_OK);
    for (int i = 0; i < 4; i++) {
        /* A diagonal H: the judge can only agree with the weighted error. */
        const mq_group_judge judge = {kept[i], order, m, weight};
        assert_int_equal(mq_judge_scales(w, ROWS, N, weight, &quant, &judge, scales, NULL), MQ_OK);
        for (int r = 0; r < ROWS; r++) {
            double best = error_of(w + r * N, weight, N, (double)plain[r], 4, 3);
            assert_true(scales[r] > 0);
            assert_true(error_of(w + r * N, weight, N, (double)scales[r], 4, 3) < best * 1.0001);
        }
    }
    free(w);
    free(m);
    free(weight);
}

/* Neither the scale of the weights nor the rows around a row change its bits. */
static void nothing_else_matters(void **state)
{
    (void)state;
    enum { ROWS = 37, N = 192 };
    const mq_quant quant = with_zeros(3, 64);
    float *w = make_rows(ROWS, N, 0.3, 3), all[ROWS * 3], scaled[ROWS * 3], one[3];
    uint8_t zeros[ROWS * 3], scaled_zeros[ROWS * 3], one_zero[3];
    double *weight = make_weights(N, 4), *small = make_weights(N, 4);
    for (int j = 0; j < N; j++) small[j] *= 0x1p-900;
    assert_int_equal(mq_search_scales(w, ROWS, N, weight, &quant, all, zeros), MQ_OK);
    assert_int_equal(mq_search_scales(w, ROWS, N, small, &quant, scaled, scaled_zeros), MQ_OK);
    assert_memory_equal(all, scaled, sizeof all);
    assert_memory_equal(zeros, scaled_zeros, sizeof zeros);
    for (int r = 0; r < ROWS; r++) {
        const float *row = w + (int64_t)r * N;
        assert_int_equal(mq_search_scales(row, 1, N, weight, &quant, one, one_zero), MQ_OK);
        assert_memory_equal(one, all + (int64_t)r * 3, sizeof one);
        assert_memory_equal(one_zero, zeros + (int64_t)r * 3, sizeof one_zero);
    }
    free(w);
    free(weight);
    free(small);
}

/* ---- the solver ------------------------------------------------------------------------------ */

/* LDLQ of one row in f64; columns in their own order. */
static void naive_codes(const float *w, const layer *l, int64_t row, const double *r,
                        uint8_t *codes)
{
    int64_t n = l->n;
    const mq_quant *quant = &l->block->quant;
    double *e = zeroed(n, sizeof *e);
    for (int64_t k = 0; k < n; k++) {
        int64_t g = row * l->n_groups + k / quant->group;
        double t = (double)w[k], scale = (double)l->scales[g];
        for (int64_t j = 0; j < k; j++) t += e[j] * r[j * n + k] / r[k * n + k];
        double level = naive_level(t, scale, l->zeros[g], quant->bits);
        e[k] = (double)w[k] - level * scale;
        codes[k] = (uint8_t)((int)level + l->zeros[g]);
    }
    free(e);
}

/* Codes, what they stand for, and the reported sums, of LDLQ or of rounding. */
static void check_row(const layer *l, int64_t row, const double *h)
{
    int64_t n = l->n, b = row / MQ_ROW_BLOCK, r = row % MQ_ROW_BLOCK;
    float *back = zeroed(n, sizeof *back);
    double *e = zeroed(n, sizeof *e), error2 = 0;
    mq_dequantise_row(l->codes + row * n, l->scales + row * l->n_groups,
                      l->zeros + row * l->n_groups, n, &l->block->quant, back);
    for (int64_t k = 0; k < n; k++) {
        assert_true(l->codes[row * n + k] < 1 << l->block->quant.bits);
        assert_true(l->e[row * n + k] == l->w[row * n + k] - back[k]);
        e[k] = (double)l->e[row * n + k];
        error2 += e[k] * e[k];
    }
    double loss = h ? quadratic(e, h, n) : 0;
    assert_true(fabs(l->block[b].error2[r] - error2) <= 1e-12 * error2);
    if (h) assert_true(fabs(l->block[b].loss[r] - loss) <= 1e-4 * loss);
    free(back);
    free(e);
}

/* Rows of a whole H whose processing order is the original one. */
typedef struct whole_h {
    const double *h;
    float *panel;
    int64_t n;
} whole_h;

static mq_status rows_of_h(void *context, int64_t k0, int64_t k1, const float **h)
{
    const whole_h *p = context;
    for (int64_t i = 0; i < (k1 - k0) * p->n; i++) p->panel[i] = (float)p->h[k0 * p->n + i];
    *h = p->panel;
    return MQ_OK;
}

/* A sweep alone changes the loss by what its steps promise; columns are in original order. */
static void check_sweep(mq_refine_block *blocks, const layer *l, int64_t n_rows, whole_h *source)
{
    int64_t n = l->n, n_blocks = l->n_blocks;
    double *promised = zeroed(n_rows, sizeof *promised);
    assert_int_equal(mq_refine_sweep(blocks, n_blocks, n, rows_of_h, source), MQ_OK);
    for (int64_t row = 0; row < n_rows; row++) {
        promised[row] = l->block[row / MQ_ROW_BLOCK].loss[row % MQ_ROW_BLOCK];
    }
    assert_int_equal(mq_measure_loss(blocks, n_blocks, n, rows_of_h, source), MQ_OK);
    for (int64_t row = 0; row < n_rows; row++) {
        double loss = l->block[row / MQ_ROW_BLOCK].loss[row % MQ_ROW_BLOCK];
        check_row(l, row, source->h);
        assert_true(fabs(promised[row] - loss) <= 1e-4 * loss);
    }
    free(promised);
}

/* One sweep and a measurement of its loss lower the loss of most rows, raise none, and leave what
 * they say they do. */
static void check_refinement(layer *l, int64_t n_rows, const int64_t *order, const double *h)
{
    int64_t n = l->n, rows = l->n_blocks * MQ_ROW_BLOCK, lower = 0;
    mq_refine_block *blocks = zeroed(l->n_blocks, sizeof *blocks);
    whole_h source = {.h = h, .panel = zeroed(n * MQ_SOLVE_PANEL, sizeof(float)), .n = n};
    float *scales = zeroed(rows * l->n_groups, sizeof *scales);
    uint8_t *codes = zeroed(rows * n, 1);
    double *before = zeroed(rows, sizeof *before);
    for (int64_t b = 0; b < l->n_blocks; b++) {
        int64_t r0 = b * MQ_ROW_BLOCK;
        blocks[b] = (mq_refine_block){.block = &l->block[b],
                                      .scales = l->scales + r0 * l->n_groups,
                                      .best_codes = codes + r0 * n,
                                      .best_scales = scales + r0 * l->n_groups};
        memcpy(before + r0, l->block[b].loss, MQ_ROW_BLOCK * sizeof *before);
    }
    check_sweep(blocks, l, n_rows, &source);
    assert_int_equal(mq_refine(blocks, l->n_blocks, n, order, 1, rows_of_h, &source), MQ_OK);
    for (int64_t row = 0; row < n_rows; row++) {
        double loss = l->block[row / MQ_ROW_BLOCK].loss[row % MQ_ROW_BLOCK];
        check_row(l, row, h);
        assert_true(loss <= before[row] * (1 + 1e-5));
        lower += loss < before[row] * (1 - 1e-5);
    }
    assert_true(n < 60 || 2 * lower > n_rows);
    free(blocks);
    free(source.panel);
    free(scales);
    free(codes);
    free(before);
}

/* Rows that are rounded together, but not coupled, get the codes that they get alone. */
static void check_metric(const layer *l, const int64_t *order, const double *diagonal,
                         whole_m source)
{
    int64_t n = l->n, rows = l->n_blocks * MQ_ROW_BLOCK;
    layer together = layer_create(l->n_blocks, n, l->block->quant);
    mq_row_metric *metric = zeroed(1, sizeof *metric);
    mq_metric_clear(metric);
    memcpy(together.w, l->w, (size_t)(rows * n) * sizeof *l->w);
    memcpy(together.scales, l->scales, (size_t)(rows * l->n_groups) * sizeof *l->scales);
    memcpy(together.zeros, l->zeros, (size_t)(rows * l->n_groups));
    for (int64_t b = 0; b < l->n_blocks; b++) together.block[b].metric = metric;
    source.asked = 0;
    assert_int_equal(mq_ldlq(together.block, l->n_blocks, n, order, diagonal, panel_of_m, &source),
                     MQ_OK);
    assert_memory_equal(together.codes, l->codes, (size_t)(rows * n));
    assert_memory_equal(together.e, l->e, (size_t)(rows * n) * sizeof *l->e);
    free(metric);
    layer_free(&together);
}

static void check_codes(int64_t n, int64_t n_rows, mq_quant quant)
{
    double *h = make_hessian(n, n + 30, 11), *r = zeroed(n * n, sizeof *r);
    double *diagonal = zeroed(n, sizeof *diagonal), *weight = zeroed(n, sizeof *weight);
    float *m = zeroed(n * n, sizeof *m), *w = make_rows(n_rows, n, 0.4, 5);
    int64_t *order = zeroed(n, sizeof *order), differ = 0;
    uint8_t *codes = zeroed(n, 1);
    layer l = layer_create((n_rows + MQ_ROW_BLOCK - 1) / MQ_ROW_BLOCK, n, quant);
    for (int64_t j = 0; j < n; j++) {
        order[j] = j;
        weight[j] = h[j * n + j];
        h[j * n + j] *= 1.05;
    }
    naive_factor(h, n, r, m, diagonal);
    memcpy(l.w, w, (size_t)(n_rows * n) * sizeof *w);
    assert_int_equal(mq_search_scales(w, n_rows, n, weight, &quant, l.scales, l.zeros), MQ_OK);
    whole_m source = {.m = m, .n = n, .panel = zeroed(n * MQ_SOLVE_PANEL, sizeof(float))};
    assert_int_equal(mq_ldlq(l.block, l.n_blocks, n, order, diagonal, panel_of_m, &source), MQ_OK);
    for (int64_t row = 0; row < n_rows; row++) {
        check_row(&l, row, h);
        naive_codes(w + row * n, &l, row, r, codes);
        differ += memcmp(codes, l.codes + row * n, (size_t)n) != 0;
    }
    assert_true(differ <= n_rows / 50); /* ties of f32 sums */
    for (int64_t i = n_rows * n; i < l.n_blocks * MQ_ROW_BLOCK * n; i++) assert_true(l.e[i] == 0);
    check_metric(&l, order, diagonal, source);
    check_refinement(&l, n_rows, order, h);
    layer_free(&l);
    free(source.panel);
    free(codes);
    free(order);
    free(w);
    free(m);
    free(weight);
    free(diagonal);
    free(r);
    free(h);
}

static void codes_with_feedback(void **state)
{
    (void)state;
    check_codes(1, 1, with_zeros(4, 1));
    check_codes(60, 7, with_zeros(2, 20));
    check_codes(129, 130, with_zeros(3, 43));
    check_codes(150, 60, with_zeros(4, 50));
    check_codes(140, 9, with_zeros(8, 140));
}

/* The levels -1 .. 6 of scale 1 (three bits, zero point 1): ties to even, clamped at both ends. */
static void rounding_and_its_ends(void **state)
{
    (void)state;
    enum { N = 10 };
    const int64_t order[N] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    const float w[N] = {-2.5f, -1.5f, -0.5f, 0.5f, 1.5f, 3.25f, 5.5f, 6.5f, 7.5f, 100};
    const uint8_t expected[N] = {0, 0, 1, 1, 3, 4, 7, 7, 7, 7};
    layer l = layer_create(1, N, with_zeros(3, N));
    memcpy(l.w, w, sizeof w);
    l.scales[0] = 1;
    l.zeros[0] = 1;
    assert_int_equal(mq_round_nearest(l.block, 1, N, order), MQ_OK);
    assert_memory_equal(l.codes, expected, N);
    check_row(&l, 0, NULL);
    layer_free(&l);
}

static void bad_settings_are_refused(void **state)
{
    (void)state;
    mq_quant quant = with_zeros(4, 4);
    const int64_t order[4] = {0, 1, 2, 3};
    const double weight[4] = {1};
    const float w[4] = {1};
    float scale = 0;
    uint8_t zero = 0;
    assert_int_equal(mq_search_scales(w, 1, 4, weight, &quant, &scale, NULL), MQ_E_INTERNAL);
    quant.lowest_zero = 2;
    assert_int_equal(mq_search_scales(w, 1, 4, weight, &quant, &scale, &zero), MQ_E_INTERNAL);
    layer l = layer_create(1, 4, with_zeros(4, 4));
    l.block->zeros = NULL;
    assert_int_equal(mq_round_nearest(l.block, 1, 4, order), MQ_E_INTERNAL);
    layer_free(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_all_but_the_best),
        cmocka_unit_test(a_group_of_zeros),
        cmocka_unit_test(a_constant_group),
        cmocka_unit_test(groups_of_one_sign),
        cmocka_unit_test(one_outlier),
        cmocka_unit_test(dead_groups),
        cmocka_unit_test(weights_beyond_the_grid),
        cmocka_unit_test(formats_without_a_zero_of_nought),
        cmocka_unit_test(positive_scales),
        cmocka_unit_test(positive_scales_judged),
        cmocka_unit_test(nothing_else_matters),
        cmocka_unit_test(codes_with_feedback),
        cmocka_unit_test(rounding_and_its_ends),
        cmocka_unit_test(bad_settings_are_refused),
    };
    if (mq_ops_start(1, "") != MQ_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_ops_stop();
    mq_scratch_free();
    return failed;
}
