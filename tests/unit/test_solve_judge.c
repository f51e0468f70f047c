/* The accurate scale search against a plain f64 search over the same candidates. */
#include "test_solve_problem.h"

#include "base/dtype.h"
#include "base/parallel.h"
#include "ops/ops.h"
#include "solve/judge.h"

enum { CANDIDATES = 144 };

/* Rows of W, a problem, and the judge made from its factor. */
typedef struct trial {
    int64_t n, n_rows;
    mq_quant quant;
    problem p;
    double *weight;
    float *w, *scales;
    int32_t *order;
    float *m;
    double *r2;
    mq_group_judge judge;
} trial;

static trial trial_create(int64_t n, int64_t n_rows, mq_quant quant)
{
    trial t = {.n = n, .n_rows = n_rows, .quant = quant, .p = problem_create(n)};
    uint64_t seed = 19;
    t.weight = zeroed(n, sizeof *t.weight);
    t.w = zeroed(n_rows * n, sizeof *t.w);
    t.scales = zeroed(n_rows * n / quant.group, sizeof *t.scales);
    t.order = zeroed(n, sizeof *t.order);
    t.m = zeroed(n * quant.group, sizeof *t.m);
    t.r2 = zeroed(n, sizeof *t.r2);
    for (int64_t i = 0; i < n_rows * n; i++) t.w[i] = (float)(0.02 * next_heavy(&seed));
    for (int64_t j = 0; j < n; j++) t.weight[j] = t.p.h[j * n + j];
    assert_int_equal(mq_gather_groups(n, quant.group, t.p.order, t.p.diagonal, panel_of_m,
                                      &t.p.source, t.order, t.m, t.r2),
                     MQ_OK);
    t.judge = (mq_group_judge){.order = t.order, .m = t.m, .r2 = t.r2};
    return t;
}

static void trial_free(trial *t)
{
    problem_free(&t->p);
    free(t->weight);
    free(t->w);
    free(t->scales);
    free(t->order);
    free(t->m);
    free(t->r2);
}

static mq_status judge(trial *t)
{
    return mq_judge_scales(t->w, t->n_rows, t->n, t->weight, &t->quant, &t->judge, t->scales, NULL);
}

/* The columns of group g out of the whole factor, and the matrix of which they are the factor. */
typedef struct block {
    int64_t n;
    double *h, *r; /* (n, n) */
} block;

static block block_of(const trial *t, int64_t g)
{
    int64_t n = t->quant.group, k = 0, *place = zeroed(n, sizeof *place);
    block b = {.n = n, .h = zeroed(n * n, sizeof *b.h), .r = zeroed(n * n, sizeof *b.r)};
    for (int64_t i = 0; i < t->n; i++) {
        if (t->p.order[i] / n == g) place[k++] = i;
    }
    for (int64_t i = 0; i < n * n; i++) b.r[i] = t->p.r[place[i / n] * t->n + place[i % n]];
    for (int64_t i = 0; i < n * n; i++) {
        for (int64_t j = 0; j < n; j++) b.h[i] += b.r[i / n * n + j] * b.r[i % n * n + j];
    }
    free(place);
    return b;
}

static void block_free(block *b)
{
    free(b->h);
    free(b->r);
}

/* e (R R^T) e^T of the group's weights under a scale; feedback by the definition of R. */
static double naive_loss(const trial *t, const block *b, int64_t row, int64_t g, double scale)
{
    int64_t n = b->n;
    double *e = zeroed(n, sizeof *e);
    for (int64_t k = 0; k < n; k++) {
        double w = (double)t->w[row * t->n + g * n + t->order[g * n + k]], x = w;
        for (int64_t j = 0; j < k; j++) x += e[j] * b->r[j * n + k] / b->r[k * n + k];
        e[k] = w - naive_code(x, scale, t->quant.bits) * scale;
    }
    double loss = quadratic(e, b->h, n);
    free(e);
    return loss;
}

static double weighted_error(const trial *t, int64_t row, int64_t g, double scale)
{
    double sum = 0;
    for (int64_t j = g * t->quant.group; j < (g + 1) * t->quant.group; j++) {
        double w = (double)t->w[row * t->n + j];
        double e = w - naive_code(w, scale, t->quant.bits) * scale;
        sum += e * e * t->weight[j];
    }
    return sum;
}

static double on_grid(double x, mq_scale_grid grid)
{
    if (grid == MQ_SCALE_F16) return (double)mq_f16_to_f32(mq_f32_to_f16((float)x));
    if (grid == MQ_SCALE_BF16) return (double)mq_bf16_to_f32(mq_f32_to_bf16((float)x));
    return (double)(float)x;
}

static void naive_candidates(const trial *t, int64_t row, int64_t g, double *scale)
{
    double absmax = 0, half = (double)(1 << (t->quant.bits - 1));
    for (int64_t j = g * t->quant.group; j < (g + 1) * t->quant.group; j++) {
        absmax = fmax(absmax, fabs((double)t->w[row * t->n + j]));
    }
    for (int c = 0; c < CANDIDATES; c++) {
        double s = absmax * (1.12 - 0.02 * (c / 4)) / (c / 2 % 2 ? half - 0.5 : half);
        scale[c] = (c % 2 ? -1 : 1) * on_grid(s, t->quant.grid);
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The scale of one group: among the n_keep of the smallest weighted errors, and the best of those.
 * false when its naive loss is not the smallest: one code on the other side of a tie. */
static bool check_group(const trial *t, const block *b, int64_t row, int64_t g)
{
    double scale[CANDIDATES], error[CANDIDATES], best = INFINITY;
    double got = (double)t->scales[row * t->n / t->quant.group + g];
    int n_keep = t->judge.n_keep > 0 ? t->judge.n_keep : CANDIDATES;
    bool known = false;
    naive_candidates(t, row, g, scale);
    for (int c = 0; c < CANDIDATES; c++) error[c] = weighted_error(t, row, g, scale[c]);
    qsort(error, CANDIDATES, sizeof *error, ascending);
    double bound = error[n_keep - 1];
    assert_true(weighted_error(t, row, g, got) <= bound * (1 + 1e-4));
    for (int c = 0; c < CANDIDATES; c++) {
        known = known || fabs(scale[c] - got) <= 1e-6 * fabs(got);
        if (weighted_error(t, row, g, scale[c]) > bound * (1 - 1e-4)) continue;
        best = fmin(best, naive_loss(t, b, row, g, scale[c]));
    }
    assert_true(known && got != 0);
    return naive_loss(t, b, row, g, got) <= best * (1 + 1e-3);
}

static void check(int64_t n, int64_t n_rows, mq_quant quant, int n_keep)
{
    trial t = trial_create(n, n_rows, quant);
    int64_t off = 0, n_groups = n / quant.group;
    t.judge.n_keep = n_keep;
    assert_int_equal(judge(&t), MQ_OK);
    for (int64_t g = 0; g < n_groups; g++) {
        block b = block_of(&t, g);
        for (int64_t r = 0; r < n_rows; r++) off += !check_group(&t, &b, r, g);
        block_free(&b);
    }
    assert_true(off <= n_rows * n_groups / 50);
    trial_free(&t);
}

static void finds_the_best_candidate(void **state)
{
    (void)state;
    check(96, 19, (mq_quant){.bits = 2, .group = 32, .grid = MQ_SCALE_F16}, 0);
    check(96, 5, (mq_quant){.bits = 3, .group = 16, .grid = MQ_SCALE_F32}, 7);
    check(129, 17, (mq_quant){.bits = 4, .group = 43, .grid = MQ_SCALE_BF16}, 0);
    check(130, 3, (mq_quant){.bits = 3, .group = 130, .grid = MQ_SCALE_F16}, 8);
    check(128, 16, (mq_quant){.bits = 8, .group = 64, .grid = MQ_SCALE_F16}, 30);
    check(4, 1, (mq_quant){.bits = 4, .group = 1, .grid = MQ_SCALE_F16}, 2);
}

/* Under feedback, scales judged with feedback do better than those of the weighted search. */
static void judged_by_the_factor_it_gets_better(void **state)
{
    (void)state;
    enum { N = 256, ROWS = 40 };
    static const int kept[] = {1, 16, 0}; /* one candidate: the weighted search */
    double loss[3] = {0};
    for (int i = 0; i < 3; i++) {
        trial t = trial_create(N, ROWS, (mq_quant){.bits = 2, .group = 64, .grid = MQ_SCALE_F16});
        t.judge.n_keep = kept[i];
        assert_int_equal(judge(&t), MQ_OK);
        for (int64_t g = 0; g < N / 64; g++) {
            block b = block_of(&t, g);
            for (int64_t r = 0; r < ROWS; r++) {
                loss[i] += naive_loss(&t, &b, r, g, (double)t.scales[r * (N / 64) + g]);
            }
            block_free(&b);
        }
        trial_free(&t);
    }
    assert_true(loss[1] < 0.98 * loss[0] && loss[2] < loss[1]);
}

static void keeping_one_or_all(void **state)
{
    (void)state;
    enum { N = 192, ROWS = 21, SCALES = ROWS * 3 };
    trial t = trial_create(N, ROWS, (mq_quant){.bits = 3, .group = 64, .grid = MQ_SCALE_F16});
    float weighted[SCALES], all[SCALES];
    assert_int_equal(mq_search_scales(t.w, ROWS, N, t.weight, &t.quant, weighted, NULL), MQ_OK);
    t.judge.n_keep = 1;
    assert_int_equal(judge(&t), MQ_OK);
    assert_memory_equal(t.scales, weighted, sizeof weighted);
    t.judge.n_keep = 0;
    assert_int_equal(judge(&t), MQ_OK);
    memcpy(all, t.scales, sizeof all);
    assert_memory_not_equal(all, weighted, sizeof all);
    /* One less than all goes the other way to the same end. */
    t.judge.n_keep = CANDIDATES - 1;
    assert_int_equal(judge(&t), MQ_OK);
    assert_memory_equal(t.scales, all, sizeof all);
    t.judge.n_keep = 1000;
    assert_int_equal(judge(&t), MQ_OK);
    assert_memory_equal(t.scales, all, sizeof all);
    trial_free(&t);
}

static void rows_are_independent(void **state)
{
    (void)state;
    enum { N = 128, ROWS = 37 };
    trial t = trial_create(N, ROWS, (mq_quant){.bits = 3, .group = 32, .grid = MQ_SCALE_F16});
    t.judge.n_keep = 9;
    assert_int_equal(judge(&t), MQ_OK);
    for (int64_t r = 0; r < ROWS; r++) {
        float one[4];
        assert_int_equal(
            mq_judge_scales(t.w + r * N, 1, N, t.weight, &t.quant, &t.judge, one, NULL), MQ_OK);
        assert_memory_equal(one, t.scales + r * 4, sizeof one);
    }
    trial_free(&t);
}

/* Rows of zeros, weights past the grid, a group nothing is known of. */
static void odd_rows(void **state)
{
    (void)state;
    enum { N = 64, ROWS = 6 };
    trial t = trial_create(N, ROWS, (mq_quant){.bits = 4, .group = 32, .grid = MQ_SCALE_F16});
    for (int64_t j = 0; j < N; j++) {
        t.w[j] = j % 2 ? 0 : -0.0f;
        t.w[N + j] *= 1e30f;
        t.w[2 * N + j] *= 1e-35f;
    }
    for (int64_t k = 0; k < 32; k++) t.weight[k] = t.r2[k] = 0;
    for (int n_keep = 0; n_keep < 20; n_keep += 6) {
        t.judge.n_keep = n_keep;
        assert_int_equal(judge(&t), MQ_OK);
        for (int i = 0; i < ROWS * 2; i++) {
            assert_true(isfinite(t.scales[i]) && t.scales[i] != 0);
            if (i < 2) assert_true(t.scales[i] == 0x1p-24f);
            if (i / 2 == 1) assert_true(fabsf(t.scales[i]) == 65504);
            if (i / 2 == 2) assert_true(fabsf(t.scales[i]) == 0x1p-24f);
        }
    }
    trial_free(&t);
}

static void wide_groups_fall_back(void **state)
{
    (void)state;
    enum { N = MQ_JUDGE_GROUP + 8 };
    const mq_quant quant = {.bits = 3, .group = N, .grid = MQ_SCALE_F16};
    float *w = zeroed(N, sizeof *w), a, b;
    double *weight = zeroed(N, sizeof *weight);
    uint64_t seed = 2;
    for (int64_t j = 0; j < N; j++) {
        w[j] = (float)next_heavy(&seed);
        weight[j] = 1 + next_random(&seed);
    }
    const mq_group_judge none = {.n_keep = 0};
    assert_int_equal(mq_search_scales(w, 1, N, weight, &quant, &a, NULL), MQ_OK);
    assert_int_equal(mq_judge_scales(w, 1, N, weight, &quant, &none, &b, NULL), MQ_OK);
    assert_true(a == b);
    free(w);
    free(weight);
}

/* M_gg and R^2 are those of the whole factor at the group's columns. */
static void parts_of_the_whole_factor(void **state)
{
    (void)state;
    enum { N = 300, GROUP = 75 };
    problem p = problem_create(N);
    int32_t *order = zeroed(N, sizeof *order);
    float *m = zeroed(N * GROUP, sizeof *m);
    double *r2 = zeroed(N, sizeof *r2);
    int64_t place[N];
    memset(m, 0xff, N * GROUP * sizeof *m);
    assert_int_equal(
        mq_gather_groups(N, GROUP, p.order, p.diagonal, panel_of_m, &p.source, order, m, r2),
        MQ_OK);
    for (int64_t k = 0; k < N; k++) place[p.order[k]] = k;
    for (int64_t i = 0; i < N; i++) {
        int64_t g = i / GROUP, k = place[g * GROUP + order[i]];
        assert_true(i % GROUP == 0 || k > place[g * GROUP + order[i - 1]]);
        assert_true(r2[i] == p.diagonal[k] * p.diagonal[k]);
        for (int64_t j = 0; j < GROUP; j++) {
            int64_t row = place[g * GROUP + order[g * GROUP + j]];
            assert_true(m[i * GROUP + j] == (j > i % GROUP ? 0 : p.m[row * N + k]));
        }
    }
    p.source.asked = 0;
    assert_int_equal(
        mq_gather_groups(N, 7, p.order, p.diagonal, panel_of_m, &p.source, order, m, r2),
        MQ_E_INTERNAL);
    assert_int_equal(p.source.asked, N);
    free(order);
    free(m);
    free(r2);
    problem_free(&p);
}

static void groups_that_do_not_divide(void **state)
{
    (void)state;
    trial t = trial_create(12, 1, (mq_quant){.bits = 4, .group = 6, .grid = MQ_SCALE_F16});
    t.quant.group = 5;
    assert_int_equal(judge(&t), MQ_E_INTERNAL);
    trial_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_best_candidate),
        cmocka_unit_test(judged_by_the_factor_it_gets_better),
        cmocka_unit_test(keeping_one_or_all),
        cmocka_unit_test(rows_are_independent),
        cmocka_unit_test(odd_rows),
        cmocka_unit_test(wide_groups_fall_back),
        cmocka_unit_test(parts_of_the_whole_factor),
        cmocka_unit_test(groups_that_do_not_divide),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_scratch_free();
    return failed;
}
