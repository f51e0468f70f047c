/* The solver on scales that are squares: every path that sets one keeps to them. */
#include "base/squares.h"
#include "solve/judge.h"
#include "test_solve_problem.h"

#include "base/parallel.h"

enum { N = 192, GROUP = 64, GROUPS = N / GROUP, ROWS = 100 };

/* Rows of very different size, one of zeros among them. */
static float *make_rows(void)
{
    float *w = zeroed(ROWS * N, sizeof *w);
    uint64_t seed = 3;
    for (int64_t r = 1; r < ROWS; r++) {
        double size = 0.02 * exp(next_random(&seed));
        for (int64_t j = 0; j < N; j++) w[r * N + j] = (float)(size * next_heavy(&seed));
    }
    return w;
}

static mq_quant squares(int bits, const float *largest)
{
    return (mq_quant){.bits = bits,
                      .group = GROUP,
                      .grid = MQ_SCALE_SQUARES,
                      .positive = true,
                      .largest = largest};
}

static bool is_square(float scale, float largest)
{
    for (int root = 1; root <= MQ_LARGEST_ROOT; root++) {
        if (scale == mq_square_scale(largest, root)) return true;
    }
    return false;
}

static void check_squares(const float *scales, int64_t n_rows, const float *largest)
{
    for (int64_t i = 0; i < n_rows * GROUPS; i++) {
        if (is_square(scales[i], largest[i % GROUPS])) continue;
        fail_msg("scale %ld, %g, is no square below %g", (long)i, (double)scales[i],
                 (double)largest[i % GROUPS]);
    }
}

/* Of all rows, live columns only, whatever the cut into pieces. */
static void ranges_of_a_layer(void **state)
{
    (void)state;
    float *w = make_rows();
    double weight[N], range[GROUPS] = {0}, pieces[GROUPS] = {0}, meant[GROUPS] = {0};
    for (int64_t j = 0; j < N; j++) weight[j] = j < GROUP ? (double)(j % 3) : 1;
    for (int64_t j = GROUP; j < 2 * GROUP; j++) weight[j] = 0; /* a dead group keeps its range */
    w[5 * N] = -50;                                            /* a dead weight */
    for (int64_t i = 0; i < ROWS * N; i++) {
        int64_t g = i % N / GROUP;
        bool counts = weight[i % N] > 0 || g == 1;
        if (counts) meant[g] = fmax(meant[g], fabs((double)w[i]));
    }
    mq_widen_ranges(w, ROWS, N, weight, GROUP, range);
    for (int64_t r = ROWS - 1; r >= 0; r--) {
        mq_widen_ranges(w + r * N, 1, N, weight, GROUP, pieces);
    }
    for (int g = 0; g < GROUPS; g++) assert_true(range[g] == meant[g] && pieces[g] == meant[g]);
    free(w);
}

static void largest_for(const float *w, int bits, float largest[GROUPS])
{
    double even[N], range[GROUPS] = {0};
    for (int64_t j = 0; j < N; j++) even[j] = 1;
    mq_widen_ranges(w, ROWS, N, even, GROUP, range);
    mq_set_largest(range, GROUPS, bits, largest);
    for (int g = 0; g < GROUPS; g++) {
        assert_true(largest[g] == mq_squares_largest(largest[g]));
    }
}

static double error_under(const float *w, const double *weight, double scale, int bits)
{
    double sum = 0;
    for (int64_t j = 0; j < GROUP; j++) {
        double e = (double)w[j] - naive_code((double)w[j], scale, bits) * scale;
        sum += e * e * weight[j];
    }
    return sum;
}

/* As the search does, but with each square in turn: of those within its reach the best. */
static double smallest_error(const float *w, const double *weight, float largest, int bits)
{
    double half = (double)(1 << (bits - 1)), best = INFINITY, absmax = 0;
    for (int64_t j = 0; j < GROUP; j++) absmax = fmax(absmax, fabs((double)w[j]));
    for (int root = 1; root <= MQ_LARGEST_ROOT; root++) {
        double scale = (double)mq_square_scale(largest, root);
        if (scale > absmax * 1.12 / (half - 0.5) || scale < absmax * 0.42 / half) continue;
        best = fmin(best, error_under(w, weight, scale, bits));
    }
    return best;
}

static void the_search_finds_the_best_square(void **state)
{
    (void)state;
    static const int widths[] = {2, 3, 4, 8};
    float *w = make_rows(), largest[GROUPS], *scales = zeroed(ROWS * GROUPS, sizeof *scales);
    double weight[N];
    uint64_t seed = 4;
    for (int64_t j = 0; j < N; j++) weight[j] = exp(3 * next_random(&seed));
    for (int b = 0; b < 4; b++) {
        largest_for(w, widths[b], largest);
        const mq_quant quant = squares(widths[b], largest);
        assert_int_equal(mq_search_scales(w, ROWS, N, weight, &quant, scales, NULL), MQ_OK);
        check_squares(scales, ROWS, largest);
        for (int64_t i = 0; i < ROWS * GROUPS; i++) {
            const float *wg = w + i / GROUPS * N + i % GROUPS * GROUP;
            const double *hg = weight + i % GROUPS * GROUP;
            double best = smallest_error(wg, hg, largest[i % GROUPS], widths[b]);
            double got = error_under(wg, hg, (double)scales[i], widths[b]);
            if (i < GROUPS) assert_true(scales[i] == mq_square_scale(largest[i], 1)); /* zeros */
            assert_true(i < GROUPS || got <= best * (1 + 1e-4));
        }
    }
    free(w);
    free(scales);
}

/* Judging some of the candidates finds what judging all does: no square is left out. */
static void judged_scales_are_squares(void **state)
{
    (void)state;
    problem p = problem_create(N);
    float *w = make_rows(), largest[GROUPS], *m = zeroed(N * GROUP, sizeof *m);
    float *scales = zeroed(ROWS * GROUPS, sizeof *scales),
          *all = zeroed(ROWS * GROUPS, sizeof *all);
    int32_t order[N];
    double r2[N], weight[N];
    largest_for(w, 3, largest);
    for (int64_t j = 0; j < N; j++) weight[j] = p.h[j * N + j];
    const mq_quant quant = squares(3, largest);
    mq_status status =
        mq_gather_groups(N, GROUP, p.order, p.diagonal, panel_of_m, &p.source, order, m, r2);
    assert_int_equal(status, MQ_OK);
    mq_group_judge judge = {.n_keep = 16, .order = order, .m = m, .r2 = r2};
    assert_int_equal(mq_judge_scales(w, ROWS, N, weight, &quant, &judge, scales, NULL), MQ_OK);
    check_squares(scales, ROWS, largest);
    judge.n_keep = 0;
    assert_int_equal(mq_judge_scales(w, ROWS, N, weight, &quant, &judge, all, NULL), MQ_OK);
    assert_memory_equal(scales, all, ROWS * GROUPS * sizeof *all);
    for (int g = 0; g < GROUPS; g++) assert_true(scales[g] == mq_square_scale(largest[g], 1));
    free(m);
    free(w);
    free(scales);
    free(all);
    problem_free(&p);
}

static void what_squares_need(void **state)
{
    (void)state;
    const float w[N] = {0}, largest[GROUPS] = {1, 1, 1};
    const double weight[N] = {0};
    float scales[GROUPS];
    uint8_t zeros[GROUPS];
    mq_quant without = squares(4, NULL), negative = squares(4, largest),
             asymmetric = squares(4, largest);
    negative.positive = false;
    asymmetric.zero_points = true;
    assert_int_equal(mq_search_scales(w, 1, N, weight, &without, scales, NULL), MQ_E_INTERNAL);
    assert_int_equal(mq_search_scales(w, 1, N, weight, &negative, scales, NULL), MQ_E_INTERNAL);
    assert_int_equal(mq_search_scales(w, 1, N, weight, &asymmetric, scales, zeros), MQ_E_INTERNAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_of_a_layer),
        cmocka_unit_test(the_search_finds_the_best_square),
        cmocka_unit_test(judged_scales_are_squares),
        cmocka_unit_test(what_squares_need),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_scratch_free();
    return failed;
}
