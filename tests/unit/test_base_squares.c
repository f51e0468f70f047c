#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/squares.h"

#include <float.h>
#include <math.h>

/* Square scales against their definition in f64, rounded to half precision at each step. */

static double half(double x)
{
    return (double)mq_f16_to_f32(mq_f32_to_f16((float)x));
}

/* From subnormal units, where squares are multiples of 2^-24, to the largest. */
static const float sizes[] = {0,      1e-9f, 1.5e-5f, 2e-5f, 0.0012f, 0.0123f, 0.3f,
                              0.999f, 17.3f, 4000,    65000, 65504,   1e9f,    INFINITY};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void largest_is_what_can_be_stored(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZES; i++) {
        double largest = (double)mq_squares_largest(sizes[i]), unit = half(largest / 256);
        double meant = fmin(fmax((double)sizes[i], 0x1p-16), 65504);
        assert_true(half(largest) == largest && unit * 256 == largest && unit > 0);
        assert_true(fabs(largest - meant) <= fmax(meant * 0x1p-11, 0x1p-17));
    }
}

static void roots_come_back(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZES; i++) {
        float largest = mq_squares_largest(sizes[i]);
        for (int root = 1; root <= MQ_LARGEST_ROOT; root++) {
            double meant = half(root * root * half((double)largest / 256));
            assert_true((double)mq_square_scale(largest, root) == meant);
            assert_int_equal(mq_square_root(largest, (float)meant), root);
        }
        assert_true(mq_square_scale(largest, MQ_LARGEST_ROOT) == largest);
    }
}

/* Every scale goes to the nearest square, and what is none of them to one end. */
static void nearest_root(void **state)
{
    (void)state;
    const float largest = mq_squares_largest(0.25f);
    for (int i = 0; i < 6000; i++) {
        float x = 0.25f * (float)i / 5000;
        double ratio = (double)x / 0.25 * 256;
        int best = 1;
        for (int root = 2; root <= MQ_LARGEST_ROOT; root++) {
            if (fabs(ratio - root * root) < fabs(ratio - best * best)) best = root;
        }
        assert_int_equal(mq_square_root(largest, x), best);
    }
    assert_int_equal(mq_square_root(largest, INFINITY), MQ_LARGEST_ROOT);
    assert_int_equal(mq_square_root(largest, FLT_MAX), MQ_LARGEST_ROOT);
    assert_int_equal(mq_square_root(largest, NAN), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(largest_is_what_can_be_stored),
        cmocka_unit_test(roots_come_back),
        cmocka_unit_test(nearest_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
