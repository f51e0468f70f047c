/* Sweeps over codes and scales against plain f64 loops over the definition. */
#include "test_solve_problem.h"

#include "base/dtype.h"
#include "base/parallel.h"
#include "base/squares.h"
#include "ops/ops.h"
#include "solve/refine.h"

/* A mq_rows_source over a whole H. */
typedef struct whole_h {
    const double *h; /* (n, n) original order */
    double lambda;   /* on the diagonal of live columns */
    int64_t n, asked, calls;
    int64_t fail_at; /* call that fails, from 1; 0: none */
    float *panel;    /* (128, n) */
} whole_h;

static double entry(const whole_h *s, int64_t i, int64_t j)
{
    double x = s->h[i * s->n + j];
    return i == j && x > 0 ? x + s->lambda : x;
}

static mq_status rows_of_h(void *context, int64_t k0, int64_t k1, const float **h)
{
    whole_h *s = context;
    if (++s->calls == s->fail_at) return mq_fail(MQ_E_INTERNAL, "no rows");
    assert_int_equal(k0, s->asked % s->n);
    assert_true(k1 <= s->n && k1 - k0 <= MQ_SOLVE_PANEL);
    s->asked += k1 - k0;
    for (int64_t i = k0; i < k1; i++) {
        for (int64_t j = 0; j < s->n; j++) s->panel[(i - k0) * s->n + j] = (float)entry(s, i, j);
    }
    *h = s->panel;
    return MQ_OK;
}

static whole_h source_of(const problem *p)
{
    return (whole_h){.h = p->h,
                     .lambda = p->lambda,
                     .n = p->n,
                     .panel = zeroed(p->n * MQ_SOLVE_PANEL, sizeof(float))};
}

/* The blocks of a layer with the storage for refining them. */
typedef struct refined {
    layer l;
    mq_refine_block *block;
    float *best_scales;
    uint8_t *best_codes;
} refined;

static refined refined_create(layer l)
{
    int64_t rows = l.n_blocks * MQ_ROW_BLOCK;
    refined f = {.l = l, .block = zeroed(l.n_blocks, sizeof(mq_refine_block))};
    f.best_scales = zeroed(rows * l.n_groups, sizeof *f.best_scales);
    f.best_codes = zeroed(rows * l.n, 1);
    for (int64_t b = 0; b < l.n_blocks; b++) {
        int64_t r0 = b * MQ_ROW_BLOCK;
        f.block[b] = (mq_refine_block){.block = &l.block[b],
                                       .scales = l.scales + r0 * l.n_groups,
                                       .best_codes = f.best_codes + r0 * l.n,
                                       .best_scales = f.best_scales + r0 * l.n_groups};
    }
    return f;
}

static void refined_free(refined *f)
{
    layer_free(&f->l);
    free(f->block);
    free(f->best_scales);
    free(f->best_codes);
}

/* A solved layer, ready to be refined. */
static refined solved(problem *p, int64_t n_rows, mq_quant quant)
{
    refined f = refined_create(layer_of(p, n_rows, quant));
    assert_int_equal(solve(p, &f.l), MQ_OK);
    return f;
}

/* w and e to original order, as single sweeps want them, or back. */
static void reorder(const problem *p, refined *f, bool back)
{
    float *copy = zeroed(p->n, sizeof *copy), *const rows[] = {f->l.w, f->l.e};
    for (int64_t i = 0; i < 2 * f->l.n_blocks * MQ_ROW_BLOCK; i++) {
        float *row = rows[i % 2] + i / 2 * p->n;
        memcpy(copy, row, (size_t)p->n * sizeof *copy);
        for (int64_t k = 0; k < p->n; k++) {
            int64_t j = p->order[k];
            row[back ? k : j] = copy[back ? j : k];
        }
    }
    free(copy);
}

static double row_loss(const problem *p, const refined *f, int64_t row)
{
    double *e = zeroed(p->n, sizeof *e);
    for (int64_t k = 0; k < p->n; k++) e[k] = (double)f->l.e[row * p->n + k];
    double loss = quadratic(e, p->damped, p->n);
    free(e);
    return loss;
}

static double *loss_of(const refined *f, int64_t row)
{
    return &f->l.block[row / MQ_ROW_BLOCK].loss[row % MQ_ROW_BLOCK];
}

/* e and error2 are what codes and scales leave of w; padding rows are as they were. */
static void check_errors(const problem *p, const refined *f, int64_t n_rows)
{
    int64_t n = p->n;
    float *back = zeroed(n, sizeof *back);
    for (int64_t row = 0; row < f->l.n_blocks * MQ_ROW_BLOCK; row++) {
        const float *scales = f->l.scales + row * f->l.n_groups, *e = f->l.e + row * n;
        const mq_row_block *b = &f->l.block[row / MQ_ROW_BLOCK];
        double error2 = 0;
        mq_dequantise_row(f->l.codes + row * n, scales, NULL, n, &f->l.block->quant, back);
        for (int64_t k = 0; k < n; k++) {
            assert_true(e[k] == f->l.w[row * n + k] - back[p->order[k]]);
            error2 += (double)e[k] * (double)e[k];
            assert_true(row < n_rows || f->l.codes[row * n + k] == 1 << (b->quant.bits - 1));
        }
        for (int64_t g = 0; g < f->l.n_groups; g++) {
            assert_true(row < n_rows ? scales[g] != 0 && isfinite(scales[g]) : scales[g] == 0);
        }
        assert_near(b->error2[row % MQ_ROW_BLOCK], error2, 1e-12, 0);
    }
    free(back);
}

static double on_grid(double x, mq_scale_grid grid)
{
    if (grid == MQ_SCALE_F16) return (double)mq_f16_to_f32(mq_f32_to_f16((float)x));
    if (grid == MQ_SCALE_BF16) return (double)mq_bf16_to_f32(mq_f32_to_bf16((float)x));
    return (double)(float)x;
}

/* One row in original order, for the naive sweep. */
typedef struct naive_row {
    int64_t n;
    const whole_h *h;
    double *w, *e, *z, *s; /* (n) weights, errors, signed codes, the scale of each column */
} naive_row;

static naive_row naive_load(const problem *p, const refined *f, const whole_h *h, int64_t row)
{
    int64_t n = p->n, group = f->l.block->quant.group;
    double *all = zeroed(4 * n, sizeof *all);
    naive_row r = {.n = n, .h = h, .w = all, .e = all + n, .z = all + 2 * n, .s = all + 3 * n};
    for (int64_t k = 0; k < n; k++) r.w[p->order[k]] = (double)f->l.w[row * n + k];
    for (int64_t j = 0; j < n; j++) {
        r.z[j] = f->l.codes[row * n + j] - (1 << (f->l.block->quant.bits - 1));
        r.s[j] = (double)f->l.scales[row * f->l.n_groups + j / group];
        r.e[j] = r.w[j] - r.z[j] * r.s[j];
    }
    return r;
}

static double naive_gradient(const naive_row *r, int64_t j)
{
    double g = 0;
    for (int64_t i = 0; i < r->n; i++) g += r->e[i] * entry(r->h, i, j);
    return g;
}

static double naive_loss(const naive_row *r)
{
    double sum = 0;
    for (int64_t j = 0; j < r->n; j++) sum += r->e[j] * naive_gradient(r, j);
    return sum;
}

/* The scale of the group that begins at column c. */
static void naive_refit(naive_row *r, const mq_quant *quant, int64_t c)
{
    double slope = 0, curve = 0, s = r->s[c];
    for (int64_t j = c; j < c + quant->group; j++) {
        slope += naive_gradient(r, j) * r->z[j];
        for (int64_t i = c; i < c + quant->group; i++) {
            curve += r->z[i] * entry(r->h, i, j) * r->z[j];
        }
    }
    double to = curve > 0 ? on_grid(s + slope / curve, quant->grid) : s, d = to - s;
    if (to * s <= 0 || d * d * curve - 2 * d * slope >= 0) return;
    for (int64_t j = c; j < c + quant->group; j++) {
        r->s[j] = to;
        r->e[j] -= d * r->z[j];
    }
}

/* Its codes. */
static void naive_descent(naive_row *r, const mq_quant *quant, int64_t c)
{
    double half = (double)(1 << (quant->bits - 1));
    for (int64_t j = c; j < c + quant->group; j++) {
        double g = naive_gradient(r, j), best = 0, to = r->z[j];
        for (double q = -half; q < half; q++) {
            double d = (q - r->z[j]) * r->s[j], change = d * d * entry(r->h, j, j) - 2 * d * g;
            if (change < best) {
                best = change;
                to = q;
            }
        }
        r->z[j] = to;
        r->e[j] = r->w[j] - to * r->s[j];
    }
}

static void naive_sweep(naive_row *r, const mq_quant *quant)
{
    for (int64_t c = 0; c < r->n; c += quant->group) {
        naive_descent(r, quant, c);
        naive_refit(r, quant, c);
    }
}

/* Same codes and scales? Those that no grid rounds are sums in f32. */
static bool same(const naive_row *r, const refined *f, int64_t row)
{
    int64_t n = r->n, group = f->l.block->quant.group;
    int zero = 1 << (f->l.block->quant.bits - 1);
    for (int64_t j = 0; j < n; j++) {
        if (f->l.codes[row * n + j] - zero != (int)r->z[j]) return false;
        double off = fabs((double)f->l.scales[row * f->l.n_groups + j / group] - r->s[j]);
        if (off > (f->l.block->quant.grid == MQ_SCALE_F32 ? 1e-3 * fabs(r->s[j]) : 0)) return false;
    }
    return true;
}

/* Against the naive sweep; f32 may fall on the other side of a tie. */
static void check_sweep(int64_t n, int64_t n_rows, mq_quant quant)
{
    problem p = problem_create(n);
    refined f = solved(&p, n_rows, quant);
    whole_h h = source_of(&p);
    int64_t differ = 0, moved = 0;
    naive_row *naive = zeroed(n_rows, sizeof *naive);
    double *before = zeroed(n_rows, sizeof *before);
    for (int64_t r = 0; r < n_rows; r++) {
        naive[r] = naive_load(&p, &f, &h, r);
        before[r] = row_loss(&p, &f, r);
        naive_sweep(&naive[r], &quant);
        moved += !same(&naive[r], &f, r);
    }
    reorder(&p, &f, false);
    assert_int_equal(mq_refine_sweep(f.block, f.l.n_blocks, n, rows_of_h, &h), MQ_OK);
    assert_int_equal(h.asked, n);
    reorder(&p, &f, true);
    for (int64_t r = 0; r < n_rows; r++) {
        double loss = row_loss(&p, &f, r);
        assert_true(loss <= before[r] * (1 + 1e-5));
        assert_near(loss, naive_loss(&naive[r]), 0.05, 1e-9 * before[r]);
        assert_near(*loss_of(&f, r), loss, 1e-3, 1e-7 * before[r]);
        differ += !same(&naive[r], &f, r);
        free(naive[r].w);
    }
    assert_true(moved > 0 || n < 128);
    assert_true(differ <= (n_rows * n > 1000 ? 1 + n_rows / 30 : 0));
    reorder(&p, &f, false);
    assert_int_equal(mq_measure_loss(f.block, f.l.n_blocks, n, rows_of_h, &h), MQ_OK);
    reorder(&p, &f, true);
    check_errors(&p, &f, n_rows);
    free(naive);
    free(before);
    free(h.panel);
    refined_free(&f);
    problem_free(&p);
}

static void sweep_is_gauss_seidel(void **state)
{
    (void)state;
    check_sweep(1, 1, (mq_quant){.bits = 4, .group = 1, .grid = MQ_SCALE_F16});
    check_sweep(2, 5, (mq_quant){.bits = 2, .group = 2, .grid = MQ_SCALE_F32});
    check_sweep(127, 3, (mq_quant){.bits = 3, .group = 127, .grid = MQ_SCALE_BF16});
    check_sweep(128, 130, (mq_quant){.bits = 4, .group = 32, .grid = MQ_SCALE_F16});
    check_sweep(129, 31, (mq_quant){.bits = 3, .group = 43, .grid = MQ_SCALE_F16});
    check_sweep(300, 33, (mq_quant){.bits = 2, .group = 60, .grid = MQ_SCALE_F16});
    check_sweep(300, 9, (mq_quant){.bits = 4, .group = 300, .grid = MQ_SCALE_F32});
    check_sweep(300, 31, (mq_quant){.bits = 8, .group = 100, .grid = MQ_SCALE_F16});
    check_sweep(384, 20, (mq_quant){.bits = 3, .group = 16, .grid = MQ_SCALE_F16});
    check_sweep(384, 20, (mq_quant){.bits = 2, .group = 192, .grid = MQ_SCALE_BF16});
    check_sweep(900, 2, (mq_quant){.bits = 3, .group = 900, .grid = MQ_SCALE_F16});
}

static void measured_loss(void **state)
{
    (void)state;
    enum { N = 300, ROWS = 140 };
    problem p = problem_create(N);
    refined f = solved(&p, ROWS, (mq_quant){.bits = 3, .group = 60, .grid = MQ_SCALE_F16});
    whole_h h = source_of(&p);
    reorder(&p, &f, false);
    assert_int_equal(mq_measure_loss(f.block, 2, N, rows_of_h, &h), MQ_OK);
    reorder(&p, &f, true);
    for (int64_t r = 0; r < ROWS; r++) assert_near(*loss_of(&f, r), row_loss(&p, &f, r), 1e-4, 0);
    for (int64_t r = ROWS; r < 2 * MQ_ROW_BLOCK; r++) assert_true(*loss_of(&f, r) == 0);
    free(h.panel);
    refined_free(&f);
    problem_free(&p);
}

static mq_status refine(problem *p, refined *f, int64_t n_blocks, int rounds, whole_h *h)
{
    return mq_refine(f->block, n_blocks, p->n, p->order, rounds, rows_of_h, h);
}

/* No row of a layer of `bits` gets worse, and the layer gets better. */
static void check_rounds(problem *p, int bits, int rounds, int64_t sweeps, double at_most)
{
    enum { ROWS = 150 };
    refined f = solved(p, ROWS, (mq_quant){.bits = bits, .group = 64, .grid = MQ_SCALE_F16});
    whole_h h = source_of(p);
    double before[ROWS], was = 0, is = 0;
    for (int64_t r = 0; r < ROWS; r++) before[r] = row_loss(p, &f, r);
    assert_int_equal(refine(p, &f, 2, rounds, &h), MQ_OK);
    assert_int_equal(h.asked, p->n * sweeps);
    for (int64_t r = 0; r < ROWS; r++) {
        double after = row_loss(p, &f, r);
        assert_true(after <= before[r] * (1 + 1e-5));
        was += before[r];
        is += after;
    }
    assert_true(is <= at_most * was);
    check_errors(p, &f, ROWS);
    free(h.panel);
    refined_free(&f);
}

static void rounds_lower_the_loss(void **state)
{
    (void)state;
    problem p = problem_create(256);
    for (int bits = 2; bits <= 3; bits++) {
        check_rounds(&p, bits, 0, 0, 1);
        check_rounds(&p, bits, 1, 2, 0.985);
        check_rounds(&p, bits, 3, 4, 0.98);
    }
    problem_free(&p);
}

/* Rows that did not get better, and one whose loss is not a number, come back as they were. */
static void only_better_rows_are_kept(void **state)
{
    (void)state;
    enum { N = 150, ROWS = 6 };
    problem p = problem_create(N);
    refined f = solved(&p, ROWS, (mq_quant){.bits = 4, .group = 50, .grid = MQ_SCALE_F16});
    refined old = solved(&p, ROWS, (mq_quant){.bits = 4, .group = 50, .grid = MQ_SCALE_F16});
    const double change[ROWS] = {1, -1, 0, -1, (double)NAN, -1};
    assert_int_equal(mq_refine_save(f.block, 1, N), MQ_OK);
    for (int64_t r = 0; r < ROWS; r++) {
        f.l.codes[r * N + 3] ^= 1;
        f.l.scales[r * 3 + 1] *= 2;
        *loss_of(&f, r) += change[r];
    }
    reorder(&p, &f, false);
    assert_int_equal(mq_refine_keep_better(f.block, 1, N), MQ_OK);
    reorder(&p, &f, true);
    for (int64_t r = 0; r < ROWS; r++) {
        bool kept = change[r] < 0;
        assert_int_equal(f.l.codes[r * N + 3], old.l.codes[r * N + 3] ^ kept);
        assert_true(f.l.scales[r * 3 + 1] == old.l.scales[r * 3 + 1] * (kept ? 2 : 1));
        assert_true(*loss_of(&f, r) == *loss_of(&old, r) + (kept ? -1 : 0));
        if (kept) continue;
        assert_memory_equal(f.l.e + r * N, old.l.e + r * N, N * sizeof(float));
        assert_near(f.l.block->error2[r], old.l.block->error2[r], 1e-12, 0);
    }
    refined_free(&f);
    refined_free(&old);
    problem_free(&p);
}

/* One thread or three, blocks alone or together: the same bits. */
static void threads_change_no_bit(void **state)
{
    (void)state;
    enum { N = 300, ROWS = 290 };
    const mq_quant quant = {.bits = 3, .group = 150, .grid = MQ_SCALE_F16};
    problem p = problem_create(N);
    whole_h h = source_of(&p);
    refined first = solved(&p, ROWS, quant);
    assert_int_equal(refine(&p, &first, 3, 2, &h), MQ_OK);
    for (int threads = 1; threads <= 3; threads++) {
        mq_ops_stop();
        assert_int_equal(mq_ops_start(threads, ""), MQ_OK);
        refined f = solved(&p, ROWS, quant);
        int64_t n_blocks = threads == 2 ? 1 : 3;
        assert_int_equal(refine(&p, &f, n_blocks, 2, &h), MQ_OK);
        size_t rows = (size_t)n_blocks * MQ_ROW_BLOCK;
        assert_memory_equal(f.l.codes, first.l.codes, rows * N);
        assert_memory_equal(f.l.e, first.l.e, rows * N * sizeof(float));
        assert_memory_equal(f.l.scales, first.l.scales, rows * 2 * sizeof(float));
        assert_memory_equal(f.l.block->loss, first.l.block->loss, rows * sizeof(double));
        refined_free(&f);
    }
    free(h.panel);
    refined_free(&first);
    problem_free(&p);
}

/* Nothing is known of dead columns: their codes stay, and the scale of a dead group too. */
static void dead_columns_stay(void **state)
{
    (void)state;
    enum { N = 96, ROWS = 10, GROUP = 32 };
    problem p = problem_create(N);
    refined f = solved(&p, ROWS, (mq_quant){.bits = 2, .group = GROUP, .grid = MQ_SCALE_F16});
    refined old = solved(&p, ROWS, (mq_quant){.bits = 2, .group = GROUP, .grid = MQ_SCALE_F16});
    whole_h h = source_of(&p);
    for (int64_t j = 0; j < N; j++) {
        if (j >= GROUP && j % 7 != 0) continue;
        for (int64_t i = 0; i < N; i++) p.h[i * N + j] = p.h[j * N + i] = 0;
    }
    assert_int_equal(refine(&p, &f, 1, 2, &h), MQ_OK);
    assert_memory_not_equal(f.l.codes, old.l.codes, ROWS * N);
    for (int64_t r = 0; r < ROWS; r++) {
        assert_true(f.l.scales[r * 3] == old.l.scales[r * 3]);
        for (int64_t j = 0; j < N; j++) {
            if (j >= GROUP && j % 7 != 0) continue;
            assert_int_equal(f.l.codes[r * N + j], old.l.codes[r * N + j]);
        }
    }
    check_errors(&p, &f, ROWS);
    free(h.panel);
    refined_free(&f);
    refined_free(&old);
    problem_free(&p);
}

static void every_rank_asks_for_every_panel(void **state)
{
    (void)state;
    enum { N = 300 };
    problem p = problem_create(N);
    refined f = solved(&p, 3, (mq_quant){.bits = 4, .group = 100, .grid = MQ_SCALE_F16});
    whole_h h = source_of(&p);
    assert_int_equal(refine(&p, &f, 0, 1, &h), MQ_OK);
    assert_int_equal(h.asked, 2 * N);
    f.l.block->quant.group = 7; /* this rank's own failure */
    assert_int_equal(refine(&p, &f, 1, 1, &h), MQ_E_INTERNAL);
    assert_non_null(strstr(mq_message(), "groups of 7"));
    assert_int_equal(h.asked, 4 * N);
    assert_int_equal(mq_refine_sweep(f.block, 1, N, rows_of_h, &h), MQ_E_INTERNAL);
    assert_int_equal(h.asked, 5 * N);
    f.l.block->quant.group = 100;
    h.calls = 0;
    h.fail_at = 2; /* the source's */
    assert_int_equal(mq_refine_sweep(f.block, 1, N, rows_of_h, &h), MQ_E_INTERNAL);
    assert_string_equal(mq_message(), "no rows");
    assert_int_equal(h.calls, 2);
    free(h.panel);
    refined_free(&f);
    problem_free(&p);
}

/* A scale that rows share in part moves from one square to another, or not at all. */
static void squares_stay_squares(void **state)
{
    (void)state;
    enum { N = 256, GROUP = 64, GROUPS = N / GROUP, ROWS = 120 };
    float largest[GROUPS];
    double before = 0, after = 0;
    int64_t moved = 0;
    for (int g = 0; g < GROUPS; g++) largest[g] = mq_squares_largest(0.04f + 0.01f * (float)g);
    problem p = problem_create(N);
    refined f = solved(&p, ROWS,
                       (mq_quant){.bits = 3,
                                  .group = GROUP,
                                  .grid = MQ_SCALE_SQUARES,
                                  .positive = true,
                                  .largest = largest});
    float *first = zeroed(ROWS * GROUPS, sizeof *first);
    memcpy(first, f.l.scales, ROWS * GROUPS * sizeof *first);
    whole_h h = source_of(&p);
    for (int64_t r = 0; r < ROWS; r++) before += *loss_of(&f, r);
    assert_int_equal(refine(&p, &f, 1, 3, &h), MQ_OK);
    for (int64_t r = 0; r < ROWS; r++) after += *loss_of(&f, r);
    assert_true(after < before);
    for (int64_t i = 0; i < ROWS * GROUPS; i++) {
        float top = largest[i % GROUPS], scale = f.l.scales[i];
        assert_true(scale == mq_square_scale(top, mq_square_root(top, scale)));
        moved += scale != first[i];
    }
    assert_true(moved > 0);
    free(first);
    free(h.panel);
    refined_free(&f);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measured_loss),         cmocka_unit_test(sweep_is_gauss_seidel),
        cmocka_unit_test(rounds_lower_the_loss), cmocka_unit_test(only_better_rows_are_kept),
        cmocka_unit_test(threads_change_no_bit), cmocka_unit_test(squares_stay_squares),
        cmocka_unit_test(dead_columns_stay),     cmocka_unit_test(every_rank_asks_for_every_panel),
    };
    if (mq_ops_start(1, "") != MQ_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_ops_stop();
    mq_scratch_free();
    return failed;
}
