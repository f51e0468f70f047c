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

/* Entries left of the diagonal are not to be asked for. */
static void upper_row(void *context, int64_t i, int64_t j0, int64_t j1, double *out)
{
    const matrix *m = context;
    for (int64_t j = j0; j < j1; j++) out[j - j0] = j < i ? NAN : m->h[i * m->n + j];
}

static void check(int64_t n, double size)
{
    uint64_t seed = 7;
    double *h = make_hessian(n, 2 * n, 5), *x64 = zeroed(n, sizeof *x64), loss[ROWS], again[ROWS];
    float *x = zeroed(ROWS * n, sizeof *x);
    for (int64_t i = 0; i < n * n; i++) h[i] *= size;
    for (int64_t i = 0; i < (ROWS - 1) * n; i++) x[i] = (float)next_heavy(&seed); /* the last: 0 */
    matrix m = {h, n};
    assert_int_equal(mq_quadratic_rows(x, n, h[0], upper_row, &m, loss), MQ_OK);
    for (int64_t r = 0; r < ROWS; r++) {
        for (int64_t j = 0; j < n; j++) x64[j] = (double)x[r * n + j];
        double expected = quadratic(x64, h, n);
        if (fabs(loss[r] - expected) > 1e-4 * expected) {
            fail_msg("n = %ld, row %ld: %g, expected %g", (long)n, (long)r, loss[r], expected);
        }
    }
    assert_int_equal(mq_threads_start(3, NULL), MQ_OK);
    assert_int_equal(mq_quadratic_rows(x, n, h[0], upper_row, &m, again), MQ_OK);
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
