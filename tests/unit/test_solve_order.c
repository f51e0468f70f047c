/* Column order, dead columns, the damping ladder. */
#include "test_solve.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void order_is_descending_and_stable(void **state)
{
    (void)state;
    const double diagonal[] = {2, 0, 5, 2, 0, 7, 2, 5};
    const int64_t expected[] = {5, 2, 7, 0, 3, 6, 1, 4};
    int64_t order[8];
    mq_order_columns(diagonal, 8, order);
    for (int k = 0; k < 8; k++) assert_int_equal(order[k], expected[k]);
}

static void order_of_one_and_none(void **state)
{
    (void)state;
    const double diagonal[] = {3};
    int64_t order[1] = {-1};
    mq_order_columns(diagonal, 0, order);
    assert_int_equal(order[0], -1);
    mq_order_columns(diagonal, 1, order);
    assert_int_equal(order[0], 0);
}

static void order_of_many(void **state)
{
    (void)state;
    enum { N = 1000 };
    uint64_t seed = 1;
    double diagonal[N];
    int64_t order[N];
    bool seen[N] = {false};
    for (int j = 0; j < N; j++) diagonal[j] = floor(50 * fabs(next_random(&seed))); /* many ties */
    mq_order_columns(diagonal, N, order);
    for (int k = 0; k < N; k++) {
        assert_false(seen[order[k]]);
        seen[order[k]] = true;
        if (k == 0) continue;
        int64_t a = order[k - 1], b = order[k];
        assert_true(diagonal[a] > diagonal[b] || (diagonal[a] == diagonal[b] && a < b));
    }
}

static void dead_columns_get_the_mean_of_the_living(void **state)
{
    (void)state;
    double some[] = {4, 0, 2, 0, 6}, none[] = {1e-300, 2}, all[] = {0, 0, 0};
    assert_int_equal(mq_revive_dead(some, 5), 2);
    assert_true(some[0] == 4 && some[1] == 4 && some[2] == 2 && some[3] == 4 && some[4] == 6);
    assert_int_equal(mq_revive_dead(none, 2), 0);
    assert_true(none[0] == 1e-300 && none[1] == 2);
    assert_int_equal(mq_revive_dead(all, 3), 3);
    assert_true(all[0] == 1 && all[1] == 1 && all[2] == 1);
}

static void damping_climbs(void **state)
{
    (void)state;
    const double from_default[] = {0.05, 0.1, 0.3, 1}, from_zero[] = {0, 0.01, 0.03, 0.1, 0.3, 1};
    for (int i = 0; i < 4; i++) assert_true(mq_damping_factor(0.05, i) == from_default[i]);
    for (int i = 0; i < 6; i++) assert_true(mq_damping_factor(0, i) == from_zero[i]);
    assert_true(mq_damping_factor(0.05, 4) < 0);
    assert_true(mq_damping_factor(0, 6) < 0);
    assert_true(mq_damping_factor(0.3, 1) == 1);
    assert_true(mq_damping_factor(2, 0) == 2);
    assert_true(mq_damping_factor(2, 1) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_is_descending_and_stable),
        cmocka_unit_test(order_of_one_and_none),
        cmocka_unit_test(order_of_many),
        cmocka_unit_test(dead_columns_get_the_mean_of_the_living),
        cmocka_unit_test(damping_climbs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
