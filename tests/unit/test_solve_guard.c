/* No row worse than rounding to nearest, on the Hessians that calibration gone wrong leaves. */
#include "test_solve_problem.h"

#include "base/parallel.h"
#include "ops/ops.h"
#include "solve/guard.h"

enum { N = 200, ROWS = 24, N_TOK = 900 };

/* Inputs as they go wrong: kinds of token t, column j. */
typedef enum kind { GOOD, TOO_FEW, ONE_TOKEN, DUPLICATED, DEAD, CONDITION, MASSIVE, N_KINDS } kind;

static double input(kind what, uint64_t *state, int64_t j, const double *token)
{
    double v = next_random(state);
    switch (what) {
    case DUPLICATED:
        return j % 2 ? token[j - 1] : v;
    case DEAD:
        return j % 5 == 0 ? 0 : v;
    case CONDITION: /* the diagonal spans 1e16 */
        return v * pow(10, -8 * (double)j / (N - 1));
    case MASSIVE:
        return j == 7 ? 1e6 : v;
    default:
        return v + 0.5 * sin((double)j);
    }
}

static void fill_hessian(kind what, double *h)
{
    uint64_t state = 77;
    double token[N];
    int64_t n_tok = what == TOO_FEW ? 8 : what == ONE_TOKEN ? 1 : N_TOK;
    memset(h, 0, N * N * sizeof *h);
    for (int64_t t = 0; t < n_tok; t++) {
        for (int64_t j = 0; j < N; j++) token[j] = input(what, &state, j, token);
        for (int64_t i = 0; i < N; i++) {
            for (int64_t j = 0; j < N; j++) h[i * N + j] += token[i] * token[j];
        }
    }
}

/* problem_create with a Hessian of that kind, dead columns and damping as the pipeline does it. */
static problem awkward(kind what, double share)
{
    problem p = problem_create(N);
    double diagonal[N], mean = 0;
    fill_hessian(what, p.h);
    for (int64_t j = 0; j < N; j++) diagonal[j] = p.h[j * N + j];
    mq_order_columns(diagonal, N, p.order);
    mq_revive_dead(diagonal, N);
    for (int64_t j = 0; j < N; j++) mean += diagonal[j] / N;
    p.lambda = share * mean;
    for (int64_t i = 0; i < N; i++) {
        for (int64_t j = 0; j < N; j++) {
            int64_t a = p.order[i], b = p.order[j];
            p.damped[i * N + j] = i == j ? diagonal[a] + p.lambda : p.h[a * N + b];
        }
    }
    naive_factor(p.damped, N, p.r, p.m, p.diagonal);
    for (int64_t j = 0; j < N; j++) assert_true(p.diagonal[j] > 0);
    return p;
}

/* e H e^T of row r under H alone. */
static double pure_loss(const problem *p, const float *e)
{
    double original[N];
    for (int64_t k = 0; k < N; k++) original[p->order[k]] = (double)e[k];
    return quadratic(original, p->h, N);
}

/* The loss of a row under the usual scales, absmax of the group over 2^(bits - 1) - 1. */
static double absmax_loss(const problem *p, const layer *l, int64_t r)
{
    const mq_quant *q = &l->block->quant;
    float w[N], e[N], scales[N];
    double top = (double)((1 << (q->bits - 1)) - 1);
    for (int64_t k = 0; k < N; k++) w[p->order[k]] = l->w[r * N + k];
    for (int64_t g = 0; g < N / q->group; g++) {
        float largest = 0;
        for (int64_t j = g * q->group; j < (g + 1) * q->group; j++) {
            largest = fmaxf(largest, fabsf(w[j]));
        }
        scales[g] = (float)((double)largest / top);
    }
    for (int64_t k = 0; k < N; k++) {
        int64_t j = p->order[k];
        float s = scales[j / q->group];
        e[k] = s > 0 ? w[j] - (float)naive_code((double)w[j], (double)s, q->bits) * s : 0;
    }
    return pure_loss(p, e);
}

/* The solver with its guard: losses without the damping, as the pipeline compares them. */
static void solve_guarded(problem *p, layer *l, double *nearest_loss, double *nearest)
{
    mq_guard_block guard = {
        .block = l->block, .scales = l->scales, .nearest_loss = nearest_loss, .nearest = nearest};
    size_t bytes = (size_t)(MQ_ROW_BLOCK * l->n_groups) * sizeof(float);
    float *first = zeroed(1, bytes);
    memcpy(first, l->scales, bytes);
    guard.first_scales = first;
    assert_int_equal(mq_round_nearest(l->block, 1, N, p->order), MQ_OK);
    p->source.asked = 0;
    assert_int_equal(mq_measure_errors(l->block, 1, N, p->diagonal, panel_of_m, &p->source), MQ_OK);
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
        nearest_loss[r] = l->block->loss[r] - p->lambda * l->block->error2[r];
    }
    assert_int_equal(solve(p, l), MQ_OK);
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
        l->block->loss[r] -= p->lambda * l->block->error2[r];
    }
    assert_int_equal(mq_keep_nearest(&guard, 1, N, p->order), MQ_OK);
    free(first);
}

static void check_awkward(kind what, double share, mq_quant quant)
{
    problem p = awkward(what, share);
    layer l = layer_of(&p, ROWS, quant), rounded = layer_of(&p, ROWS, quant);
    double nearest_loss[MQ_ROW_BLOCK], nearest[MQ_ROW_BLOCK], all = 0, plain = 0;
    solve_guarded(&p, &l, nearest_loss, nearest);
    assert_int_equal(mq_round_nearest(rounded.block, 1, N, p.order), MQ_OK);
    for (int64_t r = 0; r < ROWS; r++) {
        double loss = pure_loss(&p, l.e + r * N), without = pure_loss(&p, rounded.e + r * N);
        assert_true(isfinite(loss));
        /* Losses are differences of f32 sums: equal ones may change places. */
        double noise = 1e-5 * (without + p.lambda * rounded.block->error2[r]);
        if (loss > without + noise) {
            fail_msg("kind %d, %d bits, damping %g: row %d loses %g, rounded to nearest %g", what,
                     quant.bits, share, (int)r, loss, without);
        }
        all += loss;
        plain += absmax_loss(&p, &l, r);
    }
    if (all > plain) {
        fail_msg("kind %d, %d bits, damping %g: %g, absmax scales and no feedback %g", what,
                 quant.bits, share, all, plain);
    }
    layer_free(&l);
    layer_free(&rounded);
    problem_free(&p);
}

static void never_worse_than_rounding(void **state)
{
    (void)state;
    static const double shares[] = {1e-6, 0.05, 1};
    static const mq_quant quants[] = {{.bits = 2, .group = 40, .grid = MQ_SCALE_F16},
                                      {.bits = 3, .group = N, .grid = MQ_SCALE_F16},
                                      {.bits = 4, .group = 20, .grid = MQ_SCALE_BF16},
                                      {.bits = 8, .group = 100, .grid = MQ_SCALE_F32}};
    for (kind what = GOOD; what < N_KINDS; what++) {
        for (int s = 0; s < 3; s++) {
            for (int q = 0; q < 4; q++) check_awkward(what, shares[s], quants[q]);
        }
    }
}

static void errors_are_measured(void **state)
{
    (void)state;
    const mq_quant quant = {.bits = 3, .group = 100, .grid = MQ_SCALE_F16};
    problem p = problem_create(300);
    layer l = layer_of(&p, 131, quant);
    assert_int_equal(mq_round_nearest(l.block, l.n_blocks, p.n, p.order), MQ_OK);
    assert_int_equal(mq_measure_errors(l.block, l.n_blocks, p.n, p.diagonal, panel_of_m, &p.source),
                     MQ_OK);
    assert_int_equal(p.source.asked, p.n);
    for (int64_t r = 0; r < l.n_blocks * MQ_ROW_BLOCK; r++) {
        double e[300];
        for (int64_t k = 0; k < p.n; k++) e[k] = (double)l.e[r * p.n + k];
        assert_near(l.block[r / MQ_ROW_BLOCK].loss[r % MQ_ROW_BLOCK], quadratic(e, p.damped, p.n),
                    1e-5, 0);
    }
    layer_free(&l);
    problem_free(&p);
}

/* What mq_keep_nearest finds: a block solved badly, under scales that are not the first ones. */
typedef struct spoilt {
    problem p;
    layer l, rounded;
    mq_guard_block guard;
    double nearest_loss[MQ_ROW_BLOCK], nearest[MQ_ROW_BLOCK];
} spoilt;

static void spoil(spoilt *s)
{
    const mq_quant quant = {.bits = 4, .group = 40, .grid = MQ_SCALE_F16};
    s->p = problem_create(N);
    s->l = layer_of(&s->p, ROWS, quant);
    s->rounded = layer_of(&s->p, ROWS, quant);
    assert_int_equal(mq_round_nearest(s->rounded.block, 1, N, s->p.order), MQ_OK);
    assert_int_equal(solve(&s->p, &s->l), MQ_OK);
    for (int64_t i = 0; i < MQ_ROW_BLOCK * s->l.n_groups; i++) s->l.scales[i] *= 2;
    s->guard = (mq_guard_block){.block = s->l.block,
                                .scales = s->l.scales,
                                .first_scales = s->rounded.scales,
                                .nearest_loss = s->nearest_loss,
                                .nearest = s->nearest};
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
        s->nearest_loss[r] = s->l.block->loss[r];
        s->nearest[r] = 7;
    }
}

static void spoilt_free(spoilt *s)
{
    layer_free(&s->l);
    layer_free(&s->rounded);
    problem_free(&s->p);
}

/* Row r has its rounding back, or is as the solver left it (its scales doubled since). */
static void expect_row(const spoilt *s, int64_t r, bool given_back)
{
    const layer *l = &s->l, *rounded = &s->rounded;
    int64_t n_groups = l->n_groups;
    float factor = given_back ? 1 : 2;
    bool codes = memcmp(l->codes + r * N, rounded->codes + r * N, N) == 0;
    assert_true(codes == given_back);
    assert_true((memcmp(l->e + r * N, rounded->e + r * N, N * sizeof(float)) == 0) == given_back);
    for (int64_t g = 0; g < n_groups; g++) {
        assert_true(l->scales[r * n_groups + g] == factor * rounded->scales[r * n_groups + g]);
    }
    assert_true((l->block->error2[r] == rounded->block->error2[r]) == given_back);
    assert_true(s->nearest[r] == (given_back ? 1 : 0));
    assert_true(l->block->loss[r] == s->nearest_loss[r] || !given_back);
    assert_true(isfinite(l->block->loss[r]));
}

static void better_rows_come_back(void **state)
{
    (void)state;
    spoilt s;
    spoil(&s);
    s.nearest_loss[3] *= 0.999;
    s.nearest_loss[ROWS - 1] = 0;
    s.nearest_loss[5] *= 1.001; /* and equal ones stay */
    s.l.block->loss[8] = (double)NAN;
    s.nearest_loss[9] = (double)NAN;
    assert_int_equal(mq_keep_nearest(&s.guard, 1, N, s.p.order), MQ_OK);
    for (int64_t r = 0; r < ROWS; r++) expect_row(&s, r, r == 3 || r == 8 || r == ROWS - 1);
    spoilt_free(&s);
}

/* Rows of a head are judged by their sum. */
static void coupled_rows_stand_or_fall_together(void **state)
{
    (void)state;
    enum { M = 4 };
    double a[M * M];
    mq_row_metric *metric = zeroed(1, sizeof *metric);
    spoilt s;
    spoil(&s);
    for (int i = 0; i < M * M; i++) a[i] = i % (M + 1) == 0 ? 2 + 0.1 * i : 0.5;
    mq_metric_clear(metric);
    mq_metric_couple(metric, 0, M, a, 0.1);
    mq_metric_couple(metric, M, M, a, 0.1);
    s.l.block->metric = metric;
    s.nearest_loss[1] = 0; /* rows 0-3: better in sum */
    s.nearest_loss[2] *= 1.0001;
    s.nearest_loss[5] *= 0.5; /* rows 4-7: worse in sum */
    s.nearest_loss[6] += s.nearest_loss[5] * 2;
    s.nearest_loss[10] *= 0.9; /* uncoupled */
    assert_int_equal(mq_keep_nearest(&s.guard, 1, N, s.p.order), MQ_OK);
    for (int64_t r = 0; r < ROWS; r++) expect_row(&s, r, r < M || r == 10);
    free(metric);
    spoilt_free(&s);
}

static void failures_come_back(void **state)
{
    (void)state;
    spoilt s;
    spoil(&s);
    s.l.block->quant.group = 7;
    assert_int_equal(mq_keep_nearest(&s.guard, 1, N, s.p.order), MQ_E_INTERNAL);
    s.l.block->quant.group = 40;
    /* No blocks: every panel is still asked for. */
    s.p.source.asked = 0;
    assert_int_equal(mq_measure_errors(NULL, 0, N, s.p.diagonal, panel_of_m, &s.p.source), MQ_OK);
    assert_int_equal(s.p.source.asked, N);
    /* A source that fails. */
    assert_int_equal(mq_measure_errors(s.l.block, 1, N, s.p.diagonal, panel_of_m, &s.p.source),
                     MQ_E_INTERNAL);
    spoilt_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(never_worse_than_rounding),
        cmocka_unit_test(errors_are_measured),
        cmocka_unit_test(better_rows_come_back),
        cmocka_unit_test(coupled_rows_stand_or_fall_together),
        cmocka_unit_test(failures_come_back),
    };
    if (mq_ops_start(1, "") != MQ_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_ops_stop();
    mq_scratch_free();
    return failed;
}
