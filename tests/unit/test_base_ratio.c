/* Ratios over documents against NumPy and SciPy: tests/data/ratio_golden.py. */
#include "base/ratio.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "data/ratio_golden.h"

static void expect(const char *name, const char *what, double found, double expected, double bound)
{
    if (isnan(expected) ? isnan(found) : fabs(found - expected) <= bound) return;
    fail_msg("%s: %s is %.17g, expected %.17g", name, what, found, expected);
}

static void test_golden(void **state)
{
    (void)state;
    const double *at = golden_documents[0];
    for (size_t i = 0; i < sizeof golden_ratios / sizeof *golden_ratios; i++) {
        const char *name = golden_ratios[i].name;
        double value = golden_ratios[i].value, error = golden_ratios[i].standard_error;
        mq_ratio r = mq_ratio_of(at, at + 1, golden_ratios[i].n, 2);
        /* Leaving one out subtracts numbers of the size of the value. */
        double rounding = 1e-13 * fabs(value);
        expect(name, "value", r.value, value, 1e-15 * fabs(value));
        expect(name, "standard error", r.standard_error, error, 1e-12 * error + rounding);
        expect(name, "half width", r.half_width, golden_ratios[i].half_width,
               3e-8 * error + 13 * rounding);
        assert_int_equal(r.documents, golden_ratios[i].documents);
        at += 2 * golden_ratios[i].n;
    }
}

/* Of equal lengths the interval is the textbook one of a mean: 2 +- t s / sqrt(3), s = 1. */
static void test_equal_lengths(void **state)
{
    (void)state;
    const double y[] = {10, 20, 30}, m[] = {10, 10, 10};
    mq_ratio r = mq_ratio_of(y, m, 3, 1);
    expect("mean", "value", r.value, 2, 0);
    expect("mean", "standard error", r.standard_error, 1 / sqrt(3.0), 1e-15);
    expect("mean", "half width", r.half_width, 4.3026527297494619 / sqrt(3.0), 1e-14);
    expect("mean", "tokens", r.tokens, 30, 0);
}

static void test_not_finite(void **state)
{
    (void)state;
    const double y[] = {1, (double)NAN, 2}, m[] = {1, 1, 1};
    mq_ratio r = mq_ratio_of(y, m, 3, 1);
    assert_true(isnan(r.value) && isnan(r.standard_error) && isnan(r.half_width));
}

static void test_student(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof golden_student / sizeof *golden_student; i++) {
        expect("student", "point", mq_student_975(golden_student[i].freedom),
               golden_student[i].point, 3e-8);
    }
    for (int64_t v = 1; v < 100; v++) assert_true(mq_student_975(v + 1) < mq_student_975(v));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_equal_lengths),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_student),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
