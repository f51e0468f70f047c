#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "report/report.h"

#include <math.h>

/* What twice as many samples would gain, from losses that follow the law it assumes: on new samples
 * 1 + c/N of what endless text would leave, on the samples used 1 - c/N. */

static mq_report *report_of(const double (*losses)[2], int n)
{
    mq_report *report = NULL;
    assert_int_equal(mq_report_create(n, &report), MQ_OK);
    for (int i = 0; i < n; i++) {
        mq_layer_result r = {.half_loss = losses[i][0], .held_out_loss = losses[i][1]};
        assert_int_equal(mq_report_add(report, &r), MQ_OK);
    }
    return report;
}

static double gain_of(const double (*losses)[2], int n)
{
    mq_report *report = report_of(losses, n);
    double gain = mq_report_more_samples(report);
    mq_report_destroy(&report);
    return gain;
}

static void foretells_the_law(void **state)
{
    (void)state;
    static const double c_over_n[] = {1e-4, 0.01, 0.1, 0.4};
    for (int i = 0; i < 4; i++) {
        double c = c_over_n[i], endless = 3e-3;
        double half = endless * (1 - 2 * c),
               held_out = endless * (1 + 2 * c); /* half the samples */
        double now = 1 + c, twice = 1 + c / 2;
        const double losses[][2] = {{half, held_out}, {10 * half, 10 * held_out}};
        assert_true(fabs(gain_of(losses, 2) - (1 - twice / now)) < 1e-12);
    }
}

static void layers_without_a_measurement_do_not_count(void **state)
{
    (void)state;
    const double measured[][2] = {{0.8, 1.2}}, mixed[][2] = {{NAN, NAN}, {0.8, 1.2}, {NAN, NAN}};
    const double none[][2] = {{NAN, NAN}}, nothing[][2] = {{0, 0}};
    assert_true(gain_of(measured, 1) == gain_of(mixed, 3));
    assert_true(isnan(gain_of(none, 1)) && isnan(gain_of(nothing, 1)));
}

static void never_a_loss(void **state)
{
    (void)state;
    const double lucky[][2] = {{1.1, 0.9}};
    assert_true(gain_of(lucky, 1) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(foretells_the_law),
        cmocka_unit_test(layers_without_a_measurement_do_not_count),
        cmocka_unit_test(never_a_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
