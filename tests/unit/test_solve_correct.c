/* The correction w += B (H + lambda I)^-1 against a plain f64 Gaussian elimination. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/parallel.h"
#include "ops/ops.h"
#include "test_solve.h"

/* Panels of M in the order of the call: descending, then ascending. */
typedef struct both_ways {
    whole_m m;
    int64_t calls;
} both_ways;

static mq_status panel_both_ways(void *context, int64_t k0, int64_t k1, const float **m)
{
    both_ways *p = context;
    int64_t panels = mq_ceil_div(p->m.n, MQ_SOLVE_PANEL);
    int64_t expected = p->calls < panels ? panels - 1 - p->calls : p->calls - panels;
    p->calls++;
    if (k0 != expected * MQ_SOLVE_PANEL) return mq_fail(MQ_E_INTERNAL, "panels out of order");
    p->m.asked = k0;
    return panel_of_m(&p->m, k0, k1, m);
}

static void check_correction(int64_t n, int64_t n_blocks, double damping, double size)
{
    layer l = layer_create(n_blocks, n, (mq_quant){.bits = 4, .group = n});
    int64_t rows = n_blocks * MQ_ROW_BLOCK;
    double *h = make_hessian(n, 2 * n + 3, 5), mean = 0;
    for (int64_t j = 0; j < n * n; j++) h[j] *= size;
    for (int64_t j = 0; j < n; j++) mean += h[j * n + j] / (double)n;
    for (int64_t j = 0; j < n; j++) h[j * n + j] += damping * mean;
    double *r = zeroed(n * n, 8), *diagonal = zeroed(n, 8), *pivot = zeroed(n, 8);
    float *m = zeroed(n * n, 4);
    naive_factor(h, n, r, m, diagonal);
    for (int64_t j = 0; j < n; j++) pivot[j] = diagonal[j] * diagonal[j] / mean;
    double *b = zeroed(rows * n, 8), *w = zeroed(rows * n, 8), *z = zeroed(n, 8);
    uint64_t seed = 3;
    for (int64_t i = 0; i < rows * n; i++) {
        b[i] = next_heavy(&seed) * mean;
        w[i] = next_random(&seed);
        l.w[i] = (float)w[i];
        l.e[i] = (float)(b[i] / mean);
    }
    both_ways source = {.m = {.m = m, .n = n, .panel = zeroed(n * MQ_SOLVE_PANEL, 4)}};
    assert_int_equal(mq_correct_rows(l.block, n_blocks, n, pivot, panel_both_ways, &source), MQ_OK);
    assert_int_equal(source.calls, 2 * mq_ceil_div(n, MQ_SOLVE_PANEL));
    for (int64_t i = 0; i<rows; i += rows> 8 ? 37 : 1) {
        double norm = 0, error = 0;
        naive_solve(h, b + i * n, n, z);
        for (int64_t j = 0; j < n; j++) {
            double d = (double)l.w[i * n + j] - ((double)(float)w[i * n + j] + z[j]);
            norm += z[j] * z[j];
            error += d * d;
        }
        assert_true(sqrt(error) <= 1e-4 * sqrt(norm) + 1e-5);
    }
    layer_free(&l);
    free(source.m.panel);
    free(h), free(r), free(diagonal), free(pivot), free(m), free(b), free(w), free(z);
}

static void test_against_elimination(void **state)
{
    (void)state;
    check_correction(1, 1, 0.05, 1);
    check_correction(7, 2, 0.05, 1);
    check_correction(128, 1, 0.05, 1);
    check_correction(129, 1, 0.05, 1);
    check_correction(300, 2, 0.01, 1);
}

/* Sums of huge and tiny activations: divided by the mean they stay in f32. */
static void test_sizes_far_from_one(void **state)
{
    (void)state;
    check_correction(40, 1, 0.05, 1e60);
    check_correction(40, 1, 0.05, 1e-60);
}

/* Panels are collective: they are asked for without rows, too. */
static void test_no_rows(void **state)
{
    (void)state;
    int64_t n = 200;
    double *pivot = zeroed(n, 8);
    float *m = zeroed(n * n, 4);
    both_ways source = {.m = {.m = m, .n = n, .panel = zeroed(n * MQ_SOLVE_PANEL, 4)}};
    assert_int_equal(mq_correct_rows(NULL, 0, n, pivot, panel_both_ways, &source), MQ_OK);
    assert_int_equal(source.calls, 4);
    free(source.m.panel);
    free(m);
    free(pivot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_elimination),
        cmocka_unit_test(test_sizes_far_from_one),
        cmocka_unit_test(test_no_rows),
    };
    if (mq_ops_start(2, "") != MQ_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_ops_stop();
    mq_scratch_free();
    return failed;
}
