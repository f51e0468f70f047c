/* x H x^T without a factor, against plain loops in f64. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/parallel.h"
#include "solve/quadratic.h"
#include "test_solve.h"

enum { ROWS = MQ_ROW_BLOCK };

typedef struct matrix {
    const double *h; /* (n, n) */
    int64_t n;
} matrix;

static mq_status entries(void *context, int64_t i0, int64_t i1, int64_t j0, int64_t j1, double *out)
{
    const matrix *m = context;
    for (int64_t i = i0; i < i1; i++) {
        for (int64_t j = j0; j < j1; j++) *out++ = m->h[i * m->n + j];
    }
    return MQ_OK;
}

/* Two blocks at once; the last row of the second is 0. */
static void check(int64_t n, double size)
{
    enum { BLOCKS = 2, ALL = BLOCKS * ROWS };
    uint64_t seed = 7;
    double *h = make_hessian(n, 2 * n, 5), *x64 = zeroed(n, sizeof *x64), loss[ALL], again[ALL];
    float *x = zeroed(ALL * n, sizeof *x);
    const float *block[BLOCKS] = {x, x + ROWS * n};
    for (int64_t i = 0; i < n * n; i++) h[i] *= size;
    for (int64_t i = 0; i < (ALL - 1) * n; i++) x[i] = (float)next_heavy(&seed);
    matrix m = {h, n};
    assert_int_equal(mq_quadratic_rows(block, BLOCKS, n, h[0], entries, &m, loss), MQ_OK);
    for (int64_t r = 0; r < ALL; r++) {
        for (int64_t j = 0; j < n; j++) x64[j] = (double)x[r * n + j];
        double expected = quadratic(x64, h, n);
        if (fabs(loss[r] - expected) > 1e-4 * expected) {
            fail_msg("n = %ld, row %ld: %g, expected %g", (long)n, (long)r, loss[r], expected);
        }
    }
    assert_int_equal(mq_threads_start(3, NULL), MQ_OK);
    assert_int_equal(mq_quadratic_rows(block, BLOCKS, n, h[0], entries, &m, again), MQ_OK);
    mq_threads_stop();
    assert_memory_equal(loss, again, sizeof loss);
    free(x);
    free(x64);
    free(h);
}

static void equals_naive(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 127, 128, 129, 300};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) check(sizes[i], 1);
}

/* Sums of squares that f32 does not hold. */
static void size_does_not_matter(void **state)
{
    (void)state;
    check(150, 1e60);
    check(150, 1e-60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_naive),
        cmocka_unit_test(size_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
