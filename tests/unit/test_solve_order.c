/* Column order, dead columns, the damping ladder. */
#include "test_solve.h"

#include "base/parallel.h"
#include "solve/order.h"

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

static void order_by_group(void **state)
{
    (void)state;
    /* Means 3, 5, 5, 0.5 of groups of four; two columns are dead. */
    const double diagonal[] = {1, 7, 2, 2, 0, 9, 9, 2, 5, 5, 5, 5, 2, 0, 0, 0};
    const int64_t expected[] = {5, 6, 7, 8, 9, 10, 11, 1, 2, 3, 0, 12, 4, 13, 14, 15};
    int64_t order[16];
    assert_int_equal(mq_order_columns_by(MQ_ORDER_GROUPS, diagonal, 16, 4, order), MQ_OK);
    for (int k = 0; k < 16; k++) assert_int_equal(order[k], expected[k]);
    assert_int_equal(mq_order_columns_by(MQ_ORDER_GROUPS, diagonal, 16, 5, order), MQ_E_INTERNAL);
    assert_int_equal(mq_order_columns_by(MQ_ORDER_GROUPS, diagonal, 16, 0, order), MQ_E_INTERNAL);
    assert_int_equal(mq_order_columns_by(MQ_ORDER_ORIGINAL, diagonal, 16, 0, order), MQ_OK);
    const int64_t dead[] = {4, 13, 14, 15};
    for (int k = 0; k < 4; k++) assert_int_equal(order[k], k);
    for (int k = 4; k < 12; k++) assert_int_equal(order[k], k + 1);
    for (int k = 0; k < 4; k++) assert_int_equal(order[12 + k], dead[k]);
}

/* One group, groups of one, and the default are the same order. */
static void orders_that_agree(void **state)
{
    (void)state;
    enum { N = 240 };
    uint64_t seed = 9;
    double diagonal[N];
    int64_t first[N], order[N];
    for (int j = 0; j < N; j++) diagonal[j] = floor(20 * fabs(next_random(&seed)));
    mq_order_columns(diagonal, N, first);
    assert_true(diagonal[first[N - 2]] == 0 && diagonal[first[0]] == 19);
    assert_int_equal(mq_order_columns_by(MQ_ORDER_DIAGONAL, diagonal, N, 7, order), MQ_OK);
    assert_memory_equal(order, first, sizeof order);
    for (int64_t group = 1; group <= N; group += N - 1) {
        assert_int_equal(mq_order_columns_by(MQ_ORDER_GROUPS, diagonal, N, group, order), MQ_OK);
        assert_memory_equal(order, first, sizeof order);
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
        cmocka_unit_test(order_by_group),
        cmocka_unit_test(orders_that_agree),
        cmocka_unit_test(dead_columns_get_the_mean_of_the_living),
        cmocka_unit_test(damping_climbs),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_scratch_free();
    return failed;
}
