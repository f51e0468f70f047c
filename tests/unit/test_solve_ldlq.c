/* LDLQ and rounding to nearest against plain f64 loops, at awkward sizes. */
#include "test_solve_problem.h"

#include "base/parallel.h"
#include "ops/ops.h"

/* e is what the codes leave, and the sums are those of e and w. */
static void check_row(const problem *p, const layer *l, int64_t row)
{
    int64_t n = p->n;
    double error2 = 0, weight2 = 0, *e = zeroed(n, sizeof *e), *w = zeroed(n, sizeof *w);
    float *back = zeroed(n, sizeof *back);
    mq_dequantise_row(l->codes + row * n, l->scales + row * l->n_groups, NULL, n, &l->block->quant,
                      back);
    for (int64_t k = 0; k < n; k++) {
        assert_true(l->e[row * n + k] == l->w[row * n + k] - back[p->order[k]]);
        e[k] = (double)l->e[row * n + k];
        w[k] = (double)l->w[row * n + k];
        error2 += e[k] * e[k];
        weight2 += w[k] * w[k];
    }
    int64_t b = row / MQ_ROW_BLOCK, r = row % MQ_ROW_BLOCK;
    double energy = quadratic(w, p->damped, n), loss = quadratic(e, p->damped, n);
    assert_near(l->block[b].error2[r], error2, 1e-12, 0);
    assert_near(l->block[b].weight2[r], weight2, 1e-12, 0);
    assert_near(l->block[b].energy[r], energy, 1e-5, 0);
    assert_near(l->block[b].loss[r], loss, 1e-4, 1e-11 * energy);
    free(e);
    free(w);
    free(back);
}

/* Rows whose codes differ from the naive solver's: f32 sums may fall on the other side of a tie. */
static int64_t rows_that_differ(const problem *p, const layer *l, int64_t n_rows)
{
    int64_t n = p->n, differ = 0;
    double *w = zeroed(n, sizeof *w);
    uint8_t *codes = zeroed(n, 1);
    for (int64_t row = 0; row < n_rows; row++) {
        for (int64_t k = 0; k < n; k++) w[k] = (double)l->w[row * n + k];
        naive_ldlq(w, n, p->order, p->r, l->scales + row * l->n_groups, &l->block->quant, codes);
        differ += memcmp(codes, l->codes + row * n, (size_t)n) != 0;
    }
    free(w);
    free(codes);
    return differ;
}

static void check_size(int64_t n, int64_t n_rows, mq_quant quant)
{
    problem p = problem_create(n);
    layer l = layer_of(&p, n_rows, quant);
    assert_int_equal(solve(&p, &l), MQ_OK);
    for (int64_t row = 0; row < n_rows; row++) check_row(&p, &l, row);
    int64_t allowed = n_rows * n > 1000 ? 1 + n_rows / 100 : 0;
    assert_true(rows_that_differ(&p, &l, n_rows) <= allowed);
    for (int64_t row = n_rows; row < l.n_blocks * MQ_ROW_BLOCK; row++) {
        for (int64_t k = 0; k < n; k++) {
            assert_true(l.e[row * n + k] == 0);
            assert_int_equal(l.codes[row * n + k], 1 << (quant.bits - 1));
        }
    }
    layer_free(&l);
    problem_free(&p);
}

static void sizes(void **state)
{
    (void)state;
    check_size(1, 1, (mq_quant){.bits = 4, .group = 1, .grid = MQ_SCALE_F16});
    check_size(2, 5, (mq_quant){.bits = 2, .group = 2, .grid = MQ_SCALE_F16});
    check_size(127, 1, (mq_quant){.bits = 3, .group = 127, .grid = MQ_SCALE_BF16});
    check_size(128, 130, (mq_quant){.bits = 4, .group = 32, .grid = MQ_SCALE_F16});
    check_size(129, 128, (mq_quant){.bits = 3, .group = 43, .grid = MQ_SCALE_F16});
    check_size(129, 7, (mq_quant){.bits = 8, .group = 129, .grid = MQ_SCALE_F32});
    check_size(300, 33, (mq_quant){.bits = 2, .group = 60, .grid = MQ_SCALE_F16});
    check_size(300, 129, (mq_quant){.bits = 4, .group = 300, .grid = MQ_SCALE_BF16});
    check_size(300, 31, (mq_quant){.bits = 8, .group = 100, .grid = MQ_SCALE_F16});
}

static void feedback_beats_rounding(void **state)
{
    (void)state;
    const mq_quant quant = {.bits = 3, .group = 64, .grid = MQ_SCALE_F16};
    enum { N = 256, ROWS = 40 };
    problem p = problem_create(N);
    layer solved = layer_of(&p, ROWS, quant), rounded = layer_of(&p, ROWS, quant);
    assert_int_equal(solve(&p, &solved), MQ_OK);
    assert_int_equal(mq_round_nearest(rounded.block, rounded.n_blocks, N, p.order), MQ_OK);
    double with = 0, without = 0, e[N];
    for (int64_t r = 0; r < ROWS; r++) {
        with += solved.block->loss[r];
        for (int64_t k = 0; k < N; k++) e[k] = (double)rounded.e[r * N + k];
        without += quadratic(e, p.damped, N);
    }
    assert_true(with < 0.7 * without);
    layer_free(&solved);
    layer_free(&rounded);
    problem_free(&p);
}

static void nearest(void **state)
{
    (void)state;
    const mq_quant quant = {.bits = 4, .group = 50, .grid = MQ_SCALE_F16};
    problem p = problem_create(150);
    layer l = layer_of(&p, 131, quant);
    assert_int_equal(mq_round_nearest(l.block, l.n_blocks, p.n, p.order), MQ_OK);
    for (int64_t row = 0; row < 131; row++) {
        double error2 = 0;
        for (int64_t k = 0; k < p.n; k++) {
            int64_t j = p.order[k];
            float scale = l.scales[row * l.n_groups + j / 50], w = l.w[row * p.n + k];
            /* The quotient in f32, as the solver forms it: ties are not the point here. */
            double q = naive_code((double)(w / scale), 1, 4);
            assert_int_equal(l.codes[row * p.n + j], (int)q + 8);
            assert_true(l.e[row * p.n + k] == w - (float)q * scale);
            error2 += pow((double)l.e[row * p.n + k], 2);
        }
        const mq_row_block *b = &l.block[row / MQ_ROW_BLOCK];
        assert_near(b->error2[row % MQ_ROW_BLOCK], error2, 1e-12, 0);
        assert_true(isnan(b->loss[row % MQ_ROW_BLOCK]) && isnan(b->energy[row % MQ_ROW_BLOCK]));
    }
    layer_free(&l);
    problem_free(&p);
}

/* The weights -5.5, -4.5 ... 5.5 of scale 1, all ties: to even, and clamped at both ends. */
static void ties_to_even(void **state)
{
    (void)state;
    enum { N = 12 };
    const int64_t order[N] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    const uint8_t expected[N] = {0, 0, 0, 2, 2, 4, 4, 6, 6, 7, 7, 7};
    layer l = layer_create(1, N, (mq_quant){.bits = 3, .group = N, .grid = MQ_SCALE_F16});
    for (int j = 0; j < N; j++) l.w[j] = (float)j - 5.5f;
    l.scales[0] = 1;
    assert_int_equal(mq_round_nearest(l.block, 1, N, order), MQ_OK);
    assert_memory_equal(l.codes, expected, N);
    layer_free(&l);
}

/* One thread or three, and blocks alone or together: the same bits. */
static void threads_change_no_bit(void **state)
{
    (void)state;
    const mq_quant quant = {.bits = 4, .group = 100, .grid = MQ_SCALE_F16};
    enum { ROWS = 300 };
    problem p = problem_create(300);
    layer first = layer_of(&p, ROWS, quant);
    assert_int_equal(solve(&p, &first), MQ_OK);
    size_t area = (size_t)(first.n_blocks * MQ_ROW_BLOCK * p.n);
    for (int threads = 1; threads <= 3; threads++) {
        mq_ops_stop();
        assert_int_equal(mq_ops_start(threads, ""), MQ_OK);
        layer l = layer_of(&p, ROWS, quant);
        assert_int_equal(solve(&p, &l), MQ_OK);
        assert_memory_equal(l.codes, first.codes, area);
        assert_memory_equal(l.e, first.e, area * sizeof *l.e);
        size_t sums = (size_t)(4 * l.n_blocks * MQ_ROW_BLOCK) * sizeof *l.sums;
        assert_memory_equal(l.sums, first.sums, sums);
        layer_free(&l);
    }
    layer alone = layer_of(&p, ROWS, quant);
    alone.n_blocks = 1;
    assert_int_equal(solve(&p, &alone), MQ_OK);
    assert_memory_equal(alone.e, first.e, (size_t)(MQ_ROW_BLOCK * p.n) * sizeof *alone.e);
    layer_free(&alone);
    layer_free(&first);
    problem_free(&p);
}

static void dead_columns_are_rounded(void **state)
{
    (void)state;
    enum { N = 70, ROWS = 9, DEAD = 7 };
    const mq_quant quant = {.bits = 4, .group = 35, .grid = MQ_SCALE_F16};
    problem p = {.n = N, .h = make_hessian(N, 200, 3)};
    double diagonal[N], revived[N];
    int64_t order[N];
    for (int64_t j = 0; j < N; j += 10) {
        for (int64_t i = 0; i < N; i++) p.h[i * N + j] = p.h[j * N + i] = 0;
    }
    for (int64_t j = 0; j < N; j++) revived[j] = diagonal[j] = p.h[j * N + j];
    mq_order_columns(diagonal, N, order);
    assert_int_equal(mq_revive_dead(revived, N), DEAD);
    p.damped = zeroed(N * N, sizeof(double));
    p.r = zeroed(N * N, sizeof(double));
    p.m = zeroed(N * N, sizeof(float));
    p.diagonal = zeroed(N, sizeof(double));
    p.order = zeroed(N, sizeof(int64_t));
    memcpy(p.order, order, sizeof order);
    for (int64_t i = 0; i < N; i++) {
        for (int64_t j = 0; j < N; j++) p.damped[i * N + j] = p.h[order[i] * N + order[j]];
        p.damped[i * N + i] = revived[order[i]] * 1.01;
    }
    naive_factor(p.damped, N, p.r, p.m, p.diagonal);
    p.source = (whole_m){.m = p.m, .n = N, .panel = zeroed(N * MQ_SOLVE_PANEL, sizeof(float))};
    layer l = layer_of(&p, ROWS, quant), rounded = layer_of(&p, ROWS, quant);
    assert_int_equal(solve(&p, &l), MQ_OK);
    assert_int_equal(mq_round_nearest(rounded.block, 1, N, order), MQ_OK);
    for (int64_t row = 0; row < ROWS; row++) {
        for (int64_t k = N - DEAD; k < N; k++) {
            assert_int_equal(order[k] % 10, 0);
            assert_int_equal(l.codes[row * N + order[k]], rounded.codes[row * N + order[k]]);
        }
    }
    layer_free(&l);
    layer_free(&rounded);
    problem_free(&p);
}

static mq_status failing_panel(void *context, int64_t k0, int64_t k1, const float **m)
{
    if (k0 >= MQ_SOLVE_PANEL) return mq_fail(MQ_E_INTERNAL, "no panel");
    return panel_of_m(context, k0, k1, m);
}

static void failures_come_back(void **state)
{
    (void)state;
    problem p = problem_create(300);
    layer l = layer_of(&p, 3, (mq_quant){.bits = 4, .group = 100, .grid = MQ_SCALE_F16});
    assert_int_equal(mq_ldlq(l.block, 1, p.n, p.order, p.diagonal, failing_panel, &p.source),
                     MQ_E_INTERNAL);
    assert_string_equal(mq_message(), "no panel");
    /* A bad setting of this rank's blocks: it still asks for every panel, which are collective. */
    l.block->quant.group = 7;
    assert_int_equal(solve(&p, &l), MQ_E_INTERNAL);
    assert_int_equal(p.source.asked, p.n);
    /* No blocks at all: likewise. */
    l.n_blocks = 0;
    assert_int_equal(solve(&p, &l), MQ_OK);
    l.n_blocks = 1;
    layer_free(&l);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),
        cmocka_unit_test(feedback_beats_rounding),
        cmocka_unit_test(nearest),
        cmocka_unit_test(ties_to_even),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(dead_columns_are_rounded),
        cmocka_unit_test(failures_come_back),
    };
    if (mq_ops_start(1, "") != MQ_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_ops_stop();
    mq_scratch_free();
    return failed;
}
