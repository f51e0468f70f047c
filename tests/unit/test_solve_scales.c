/* The scale search against a plain f64 search over the same candidates. */
#include "test_solve.h"

#include "base/dtype.h"
#include "base/parallel.h"

#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static double weighted_error(const float *w, const double *weight, int64_t n, double scale,
                             int bits)
{
    double sum = 0;
    for (int64_t j = 0; j < n; j++) {
        double e = (double)w[j] - naive_code((double)w[j], scale, bits) * scale;
        sum += e * e * weight[j];
    }
    return sum;
}

static double on_grid(double x, mq_scale_grid grid)
{
    if (grid == MQ_SCALE_F16) return (double)mq_f16_to_f32(mq_f32_to_f16((float)x));
    if (grid == MQ_SCALE_F16_SHORT) {
        int exponent = 0;
        double rounded = rint(frexp((double)(float)x, &exponent) * 128) / 128;
        return (double)mq_f16_to_f32(mq_f32_to_f16((float)ldexp(rounded, exponent)));
    }
    if (grid == MQ_SCALE_BF16) return (double)mq_bf16_to_f32(mq_f32_to_bf16((float)x));
    return (double)(float)x;
}

static double smallest_error(const float *w, const double *weight, const mq_quant *quant)
{
    double absmax = 0, best = INFINITY, half = (double)(1 << (quant->bits - 1));
    for (int64_t j = 0; j < quant->group; j++) absmax = fmax(absmax, fabs((double)w[j]));
    for (int c = 0; c < 36; c++) {
        for (int narrow = 0; narrow < 2; narrow++) {
            double s = absmax * (1.12 - 0.02 * c) / (narrow ? half - 0.5 : half);
            for (int sign = -1; sign <= 1; sign += 2) {
                double scale = sign * on_grid(s, quant->grid);
                best = fmin(best, weighted_error(w, weight, quant->group, scale, quant->bits));
            }
        }
    }
    return best;
}

/* Rows of several kinds: heavy-tailed, all of one sign, tiny, huge. */
static float *make_rows(int64_t n_rows, int64_t n, uint64_t seed)
{
    static const double size[] = {0.02, 1, 1e-3, 40};
    float *w = zeroed(n_rows * n, sizeof *w);
    for (int64_t r = 0; r < n_rows; r++) {
        for (int64_t j = 0; j < n; j++) {
            double x = next_heavy(&seed) * size[r % 4];
            w[r * n + j] = (float)(r % 5 == 3 ? fabs(x) : x);
        }
    }
    return w;
}

static double *make_weights(int64_t n, uint64_t seed)
{
    double *weight = zeroed(n, sizeof *weight);
    for (int64_t j = 0; j < n; j++) weight[j] = 1e5 * exp(6 * next_random(&seed));
    return weight;
}

static void check_best(int64_t n_rows, int64_t n, mq_quant quant)
{
    int64_t n_groups = n / quant.group;
    float *w = make_rows(n_rows, n, 7), *scales = zeroed(n_rows * n_groups, sizeof *scales);
    double *weight = make_weights(n, 8);
    assert_int_equal(mq_search_scales(w, n_rows, n, weight, &quant, scales, NULL), MQ_OK);
    for (int64_t r = 0; r < n_rows; r++) {
        for (int64_t g = 0; g < n_groups; g++) {
            const float *wg = w + r * n + g * quant.group;
            const double *hg = weight + g * quant.group;
            double s = (double)scales[r * n_groups + g], energy = 0;
            assert_true(s != 0 && isfinite(s) && on_grid(s, quant.grid) == s);
            for (int64_t j = 0; j < quant.group; j++) energy += pow((double)wg[j], 2) * hg[j];
            double got = weighted_error(wg, hg, quant.group, s, quant.bits);
            assert_true(got <= smallest_error(wg, hg, &quant) * (1 + 1e-4) + 1e-11 * energy);
        }
    }
    free(w);
    free(scales);
    free(weight);
}

static void finds_the_best_candidate(void **state)
{
    (void)state;
    static const int bits[] = {2, 3, 4, 8};
    static const mq_scale_grid grids[] = {MQ_SCALE_F16, MQ_SCALE_BF16, MQ_SCALE_F32};
    for (int b = 0; b < 4; b++) {
        check_best(21, 384, (mq_quant){.bits = bits[b], .group = 128, .grid = MQ_SCALE_F16});
        check_best(5, 384, (mq_quant){.bits = bits[b], .group = 32, .grid = grids[b % 3]});
        check_best(1, 384, (mq_quant){.bits = bits[b], .group = 384, .grid = grids[(b + 1) % 3]});
        check_best(7, 384, (mq_quant){.bits = bits[b], .group = 32, .grid = MQ_SCALE_F16_SHORT});
        check_best(17, 300, (mq_quant){.bits = bits[b], .group = 300, .grid = MQ_SCALE_F16});
        check_best(3, 6, (mq_quant){.bits = bits[b], .group = 1, .grid = grids[(b + 2) % 3]});
    }
}

static void groups_of_one_sign_keep_their_digits(void **state)
{
    (void)state;
    const float w[] = {.1f, .5f, 1, -.1f, -.5f, -1};
    const double weight[] = {1, 1, 1, 1, 1, 1};
    const mq_quant quant = {.bits = 4, .group = 3, .grid = MQ_SCALE_F16};
    float scales[2], back[6];
    uint8_t codes[6];
    assert_int_equal(mq_search_scales(w, 1, 6, weight, &quant, scales, NULL), MQ_OK);
    assert_true(scales[0] < 0 && scales[1] > 0); /* the grid reaches -8 s but only 7 s */
    for (int j = 0; j < 6; j++) {
        codes[j] = (uint8_t)(naive_code((double)w[j], (double)scales[j / 3], 4) + 8);
    }
    mq_dequantise_row(codes, scales, NULL, 6, &quant, back);
    for (int j = 0; j < 6; j++) assert_true(fabsf(back[j] - w[j]) < 0.03f);
    for (int j = 0; j < 3; j++) assert_true(back[j] == -back[j + 3]);
}

static void zeros_and_dead_groups(void **state)
{
    (void)state;
    const mq_quant quant[] = {{.bits = 4, .group = 4, .grid = MQ_SCALE_F16},
                              {.bits = 4, .group = 4, .grid = MQ_SCALE_BF16},
                              {.bits = 4, .group = 4, .grid = MQ_SCALE_F32}};
    const float smallest[] = {0x1p-24f, 0x1p-126f, 0x1p-126f};
    const float w[8] = {0, -0.0f, 0, 0, .3f, -.7f, .2f, .9f};
    const double dead[8] = {0}, even[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (int i = 0; i < 3; i++) {
        float scales[2], unweighted[2];
        assert_int_equal(mq_search_scales(w, 1, 8, dead, &quant[i], scales, NULL), MQ_OK);
        assert_int_equal(mq_search_scales(w, 1, 8, even, &quant[i], unweighted, NULL), MQ_OK);
        assert_true(scales[0] == smallest[i]);
        assert_true(scales[1] == unweighted[1] && scales[1] != smallest[i]);
    }
}

/* Weights no scale of the grid fits: the nearest it has, never 0, inf or NaN. */
static void weights_beyond_the_grid(void **state)
{
    (void)state;
    const float w[] = {1e7f, -3e6f, 1e-12f, -2e-13f, FLT_MAX, 1e30f, 0x1p-149f, -0x1p-149f};
    const double weight[] = {1e-300, 1e-290, 1e300, 1, 5, 1e-20, 1, 1};
    static const mq_scale_grid grids[] = {MQ_SCALE_F16, MQ_SCALE_BF16, MQ_SCALE_F32};
    for (int i = 0; i < 3; i++) {
        const mq_quant quant = {.bits = 4, .group = 2, .grid = grids[i]};
        float scales[4];
        assert_int_equal(mq_search_scales(w, 1, 8, weight, &quant, scales, NULL), MQ_OK);
        for (int g = 0; g < 4; g++) assert_true(isfinite(scales[g]) && scales[g] != 0);
        if (grids[i] != MQ_SCALE_F16) continue;
        assert_true(fabsf(scales[0]) == 65504 && fabsf(scales[2]) == 65504);
        assert_true(scales[1] == 0x1p-24f && scales[3] == 0x1p-24f);
    }
}

/* Every product of a short scale with a code of 4 bits is a half, at both ends of the range too. */
static void short_scales_have_exact_products(void **state)
{
    (void)state;
    const mq_quant quant = {.bits = 4, .group = 2, .grid = MQ_SCALE_F16_SHORT, .zero_points = true};
    const double weight[] = {1, 1};
    for (int i = 0; i < 6000; i++) {
        float size = ldexpf(1 + (float)(i * 37 % 1001) / 1001, i % 50 - 30);
        const float w[] = {size, -size * (float)(i % 13) / 13};
        float scale = 0;
        uint8_t zero = 0;
        assert_int_equal(mq_search_scales(w, 1, 2, weight, &quant, &scale, &zero), MQ_OK);
        assert_true(scale > 0);
        for (int code = 0; code < 16; code++) {
            float product = scale * (float)code;
            assert_true(mq_f16_to_f32(mq_f32_to_f16(product)) == product);
        }
    }
}

static void weight_scale_does_not_matter(void **state)
{
    (void)state;
    enum { ROWS = 9, N = 256 };
    const mq_quant quant = {.bits = 3, .group = 64, .grid = MQ_SCALE_F16};
    float *w = make_rows(ROWS, N, 3), a[ROWS * 4], b[ROWS * 4];
    double *weight = make_weights(N, 4);
    assert_int_equal(mq_search_scales(w, ROWS, N, weight, &quant, a, NULL), MQ_OK);
    for (int j = 0; j < N; j++) weight[j] *= 0x1p-900;
    assert_int_equal(mq_search_scales(w, ROWS, N, weight, &quant, b, NULL), MQ_OK);
    assert_memory_equal(a, b, sizeof a);
    free(w);
    free(weight);
}

/* A row's scales do not depend on the rows around it. */
static void rows_are_independent(void **state)
{
    (void)state;
    enum { ROWS = 37, N = 192 };
    const mq_quant quant = {.bits = 2, .group = 64, .grid = MQ_SCALE_BF16};
    float *w = make_rows(ROWS, N, 5), all[ROWS * 3], one[3];
    double *weight = make_weights(N, 6);
    assert_int_equal(mq_search_scales(w, ROWS, N, weight, &quant, all, NULL), MQ_OK);
    for (int r = 0; r < ROWS; r++) {
        assert_int_equal(mq_search_scales(w + r * N, 1, N, weight, &quant, one, NULL), MQ_OK);
        assert_memory_equal(one, all + r * 3, sizeof one);
    }
    free(w);
    free(weight);
}

static void bad_settings_are_refused(void **state)
{
    (void)state;
    const float w[8] = {1};
    const double weight[8] = {1};
    const mq_quant bits = {.bits = 5, .group = 4, .grid = MQ_SCALE_F16},
                   group = {.bits = 4, .group = 3, .grid = MQ_SCALE_F16},
                   none = {.bits = 4, .group = 0, .grid = MQ_SCALE_F16};
    float scales[8];
    assert_int_equal(mq_search_scales(w, 1, 8, weight, &bits, scales, NULL), MQ_E_INTERNAL);
    assert_int_equal(mq_search_scales(w, 1, 8, weight, &group, scales, NULL), MQ_E_INTERNAL);
    assert_int_equal(mq_search_scales(w, 1, 8, weight, &none, scales, NULL), MQ_E_INTERNAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_best_candidate),
        cmocka_unit_test(groups_of_one_sign_keep_their_digits),
        cmocka_unit_test(zeros_and_dead_groups),
        cmocka_unit_test(weights_beyond_the_grid),
        cmocka_unit_test(short_scales_have_exact_products),
        cmocka_unit_test(weight_scale_does_not_matter),
        cmocka_unit_test(rows_are_independent),
        cmocka_unit_test(bad_settings_are_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_scratch_free();
    return failed;
}
