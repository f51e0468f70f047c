/* From sums over documents to figures, and which position belongs to which bin. */
#include "pipeline/figures.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void expect(double found, double expected)
{
    if (isnan(expected) ? isnan(found) : fabs(found - expected) <= 1e-13 * fabs(expected)) return;
    fail_msg("%.17g, expected %.17g", found, expected);
}

static void expect_estimate(mq_estimate e, double value, double low, double high)
{
    expect(e.value, value);
    expect(e.low, low);
    expect(e.high, high);
}

/* Three documents of equal length: every half width is t(2) s / sqrt(3) with s from the means. */
static const double t_root = 4.3026527297494619 / 1.7320508075688772;

/* tokens, nll, reference nll, difference, kl, agree; then the same of a bin that document 1 alone
 * reaches, and of one that none does. */
enum { STRIDE = 3 * MQ_N_SUMS };
static const double sums[3 * STRIDE] = {
    10, 20, 19, 1, 0.1, 10, 0, 0, 0, 0, 0,    0, 0, 0, 0, 0, 0, 0, //
    10, 30, 28, 2, 0.2, 9,  4, 8, 6, 2, 0.04, 3, 0, 0, 0, 0, 0, 0, //
    10, 40, 37, 3, 6.0, 8,  0, 0, 0, 0, 0,    0, 0, 0, 0, 0, 0, 0,
};

static void test_figures(void **state)
{
    (void)state;
    mq_figures f = mq_figures_of(sums, 3, STRIDE, true);
    assert_int_equal(f.tokens, 30);
    assert_int_equal(f.documents, 3);
    expect_estimate(f.perplexity, exp(3), exp(3 - t_root), exp(3 + t_root));
    expect_estimate(f.reference_perplexity, exp(2.8), exp(2.8 - 0.9 * t_root),
                    exp(2.8 + 0.9 * t_root));
    expect_estimate(f.log_perplexity_difference, 0.2, 0.2 - 0.1 * t_root, 0.2 + 0.1 * t_root);
    /* s^2 = (0.2^2 + 0.19^2 + 0.39^2) / 2: below 0 the interval is cut, likewise above 1. */
    double s = sqrt((0.2 * 0.2 + 0.19 * 0.19 + 0.39 * 0.39) / 2);
    expect_estimate(f.kl, 0.21, 0, 0.21 + s * t_root);
    expect_estimate(f.top1, 0.9, 0.9 - 0.1 * t_root, 1);
}

static void test_without_reference(void **state)
{
    (void)state;
    mq_figures f = mq_figures_of(sums, 3, STRIDE, false);
    expect(f.perplexity.value, exp(3));
    const mq_estimate *absent[] = {&f.reference_perplexity, &f.log_perplexity_difference, &f.kl,
                                   &f.top1};
    for (int i = 0; i < 4; i++) {
        expect_estimate(*absent[i], (double)NAN, (double)NAN, (double)NAN);
    }
}

static void test_one_document_and_none(void **state)
{
    (void)state;
    const double nan = (double)NAN;
    mq_figures one = mq_figures_of(sums + MQ_N_SUMS, 3, STRIDE, true);
    assert_int_equal(one.tokens, 4);
    assert_int_equal(one.documents, 1);
    expect_estimate(one.perplexity, exp(2), nan, nan);
    expect_estimate(one.kl, 0.01, nan, nan);
    expect_estimate(one.top1, 0.75, nan, nan);
    mq_figures none = mq_figures_of(sums + 2 * MQ_N_SUMS, 3, STRIDE, true);
    assert_int_equal(none.tokens, 0);
    assert_int_equal(none.documents, 0);
    expect_estimate(none.perplexity, nan, nan, nan);
    expect_estimate(none.log_perplexity_difference, nan, nan, nan);
    expect_estimate(none.top1, nan, nan, nan);
}

/* The ranges follow each other from 1 to the longest sample, differ by one position at most, and
 * hold what is counted into their bin. */
static void test_bins(void **state)
{
    (void)state;
    for (int64_t longest = 2; longest < 40; longest++) {
        for (int64_t n = 1; n < 50; n++) {
            int64_t begin = 0, end = 1, next = 1;
            for (int64_t b = 0; b < n; b++) {
                mq_position_range(b, n, longest, &begin, &end);
                assert_int_equal(begin, next);
                assert_in_range(end - begin, (longest - 1) / n, (longest - 2) / n + 1);
                for (int64_t p = begin; p < end; p++) {
                    assert_int_equal(mq_position_bin(p - 1, n, longest), b);
                }
                next = end;
            }
            assert_int_equal(next, longest);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_without_reference),
        cmocka_unit_test(test_one_document_and_none),
        cmocka_unit_test(test_bins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
