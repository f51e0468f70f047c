/* Widths under a budget, against every possible choice. */
#include "plan/budget.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>

static const int widths[] = {2, 3, 4, 8};

static uint64_t next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static int64_t bits_of(const mq_budget_item *item, const int *choice, int64_t n, const int *width)
{
    int64_t bits = 0;
    for (int64_t i = 0; i < n; i++) bits += item[i].weights * width[choice[i]];
    return bits;
}

static double harm_of(const mq_budget_item *item, const int *choice, int64_t n)
{
    double harm = 0;
    for (int64_t i = 0; i < n; i++) harm += item[i].harm[choice[i]];
    return harm;
}

/* The least harm of all n_widths^n choices within the budget; HUGE_VAL when none is. */
static double brute_force(const mq_budget_item *item, int64_t n, const int *width, int n_widths,
                          int64_t bits)
{
    int64_t choices = 1;
    double least = HUGE_VAL;
    for (int64_t i = 0; i < n; i++) choices *= n_widths;
    for (int64_t code = 0; code < choices; code++) {
        int choice[8];
        int64_t rest = code;
        for (int64_t i = 0; i < n; i++, rest /= n_widths) choice[i] = (int)(rest % n_widths);
        double harm = harm_of(item, choice, n);
        if (bits_of(item, choice, n, width) <= bits && harm < least) least = harm;
    }
    return least;
}

/* Harm that falls with the bits, by about 4 a bit, or not at all orderly. Values are multiples of
 * 2^-20, so that sums do not depend on their order. */
static void random_items(uint64_t *seed, bool orderly, int64_t scale, mq_budget_item *item,
                         int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        item[i].weights = scale * (1 + (int64_t)(next(seed) % 9));
        double harm = (double)(next(seed) % 1000000);
        for (int j = 0; j < 4; j++) {
            item[i].harm[j] = floor(orderly ? harm : (double)(next(seed) % 1000)) * 0x1p-20;
            harm /= (double)(2 + next(seed) % 5);
        }
    }
}

static void as_good_as_any(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int trial = 0; trial < 400; trial++) {
        mq_budget_item item[6];
        int64_t n = 1 + trial % 6, all = 0;
        int choice[6], n_widths = 1 + trial % 4;
        random_items(&seed, trial % 3 > 0, trial % 2 ? 1 : 589824, item, n);
        for (int64_t i = 0; i < n; i++) all += item[i].weights;
        /* Budgets from the narrowest width to beyond the widest, not on any grid. */
        int64_t bits = all * 2 + (int64_t)(next(&seed) % (uint64_t)(all * 7));
        assert_int_equal(mq_budget_choose(item, n, widths, n_widths, bits, choice), MQ_OK);
        assert_true(bits_of(item, choice, n, widths) <= bits);
        double least = brute_force(item, n, widths, n_widths, bits);
        assert_true(harm_of(item, choice, n) == least);
    }
}

static void the_narrowest_must_fit(void **state)
{
    (void)state;
    const mq_budget_item item[] = {{10, {4, 3, 2, 1}}, {7, {4, 3, 2, 1}}};
    int choice[2] = {9, 9};
    assert_int_equal(mq_budget_choose(item, 2, widths, 4, 33, choice), MQ_E_USAGE);
    assert_int_equal(mq_budget_choose(item, 2, widths, 4, 34, choice), MQ_OK);
    assert_int_equal(choice[0], 0);
    assert_int_equal(choice[1], 0);
    /* All that can be spent is, however much more there is. */
    assert_int_equal(mq_budget_choose(item, 2, widths, 4, INT64_C(1) << 60, choice), MQ_OK);
    assert_int_equal(choice[0], 3);
    assert_int_equal(choice[1], 3);
}

static void equal_harm_keeps_the_narrower(void **state)
{
    (void)state;
    const mq_budget_item item[] = {{5, {1, 1, 1, 1}}, {5, {2, 1, 1, 1}}, {5, {2, 1, 1, 1}}};
    int choice[3];
    assert_int_equal(mq_budget_choose(item, 3, widths, 4, 5 * 24, choice), MQ_OK);
    assert_int_equal(choice[0], 0);
    assert_int_equal(choice[1], 1);
    assert_int_equal(choice[2], 1);
    /* Room for one step only: the last of the two alike stays narrow. */
    assert_int_equal(mq_budget_choose(item, 3, widths, 4, 5 * 7, choice), MQ_OK);
    assert_int_equal(choice[1], 1);
    assert_int_equal(choice[2], 0);
}

/* Counts past 32 bits with a greatest common divisor of 1: the table is cut into larger steps. */
static void counts_without_a_common_measure(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (int trial = 0; trial < 2; trial++) {
        mq_budget_item item[5];
        int choice[5];
        int64_t all = 0;
        random_items(&seed, true, INT64_C(3000000019), item, 5);
        for (int64_t i = 0; i < 5; i++) {
            item[i].weights += (int64_t)(next(&seed) % 1000);
            all += item[i].weights;
        }
        int64_t bits = all * (9 + trial) / 4, step = all * 6 / ((INT64_C(1) << 26) / 5 - 1) + 1;
        assert_int_equal(mq_budget_choose(item, 5, widths, 4, bits, choice), MQ_OK);
        assert_true(bits_of(item, choice, 5, widths) <= bits);
        assert_true(harm_of(item, choice, 5) <= brute_force(item, 5, widths, 4, bits - 5 * step));
    }
}

static void harm_that_is_no_number(void **state)
{
    (void)state;
    mq_budget_item item = {3, {4, NAN, 2, 1}};
    int choice[1];
    assert_int_equal(mq_budget_choose(&item, 1, widths, 4, 24, choice), MQ_E_INTERNAL);
    item.harm[1] = -1;
    assert_int_equal(mq_budget_choose(&item, 1, widths, 4, 24, choice), MQ_E_INTERNAL);
    assert_int_equal(mq_budget_choose(&item, 0, widths, 4, 0, choice), MQ_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_good_as_any),
        cmocka_unit_test(the_narrowest_must_fit),
        cmocka_unit_test(equal_harm_keeps_the_narrower),
        cmocka_unit_test(counts_without_a_common_measure),
        cmocka_unit_test(harm_that_is_no_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
