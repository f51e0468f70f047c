#include "base/memory.h"
#include "calib/calib.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 64 };

/* Forms units of samples of the given lengths; checks the rules; returns the number of units. */
static int64_t form(const int64_t *lengths, int64_t n, int64_t budget, int64_t *first)
{
    int64_t offsets[MOST + 1] = {0}, *made = NULL, n_units = -1;
    for (int64_t s = 0; s < n; s++) offsets[s + 1] = offsets[s] + lengths[s];
    assert_int_equal(mq_units_form(offsets, n, budget, &made, &n_units), MQ_OK);
    assert_true(n_units >= 0 && n_units <= n);
    assert_int_equal(made[0], 0);
    assert_int_equal(made[n_units], n);
    for (int64_t u = 0; u < n_units; u++) {
        int64_t tokens = offsets[made[u + 1]] - offsets[made[u]];
        assert_true(made[u + 1] > made[u]);
        assert_true(tokens <= budget || made[u + 1] == made[u] + 1);
        /* Not cut sooner than it had to be. */
        if (u + 1 < n_units) assert_true(tokens + lengths[made[u + 1]] > budget);
    }
    memcpy(first, made, (size_t)(n_units + 1) * sizeof *first);
    mq_free(&made);
    return n_units;
}

static void test_form(void **state)
{
    (void)state;
    int64_t first[MOST + 1];
    assert_int_equal(form((const int64_t[]){4, 4, 4, 4}, 4, 8, first), 2);
    assert_int_equal(first[1], 2);
    assert_int_equal(form((const int64_t[]){5, 4, 4}, 3, 8, first), 2);
    assert_int_equal(first[1], 1);
    assert_int_equal(form((const int64_t[]){100}, 1, 8, first), 1);
    assert_int_equal(form((const int64_t[]){1, 100, 1, 1}, 4, 8, first), 3);
    assert_int_equal(first[1], 1);
    assert_int_equal(first[2], 2);
    assert_int_equal(form((const int64_t[]){1, 1, 1}, 3, 1, first), 3);
    assert_int_equal(form((const int64_t[]){1, 2, 3}, 3, INT64_MAX, first), 1);
    assert_int_equal(form(NULL, 0, 8, first), 0);
}

static void test_form_refuses(void **state)
{
    (void)state;
    const int64_t offsets[2] = {0, 4};
    int64_t *first = NULL, n_units = 0;
    assert_int_equal(mq_units_form(offsets, 1, 0, &first, &n_units), MQ_E_USAGE);
    assert_int_equal(mq_units_form(offsets, 1, -5, &first, &n_units), MQ_E_USAGE);
    assert_null(first);
}

static void deal_is(const int64_t *tokens, int64_t n, int size, const int *expected)
{
    int owner[MOST];
    assert_int_equal(mq_units_deal(tokens, n, size, owner), MQ_OK);
    for (int64_t u = 0; u < n; u++) assert_int_equal(owner[u], expected[u]);
}

static void test_deal(void **state)
{
    (void)state;
    /* equal lengths go round */
    deal_is((const int64_t[]){8, 8, 8, 8, 8}, 5, 2, (const int[]){0, 1, 0, 1, 0});
    /* longest first, to the least loaded: 9 -> 0, 7 -> 1, 5 -> 1, 3 -> 0 */
    deal_is((const int64_t[]){3, 5, 7, 9}, 4, 2, (const int[]){0, 1, 1, 0});
    /* one long unit against many short ones */
    deal_is((const int64_t[]){1, 1, 10, 1, 1}, 5, 2, (const int[]){1, 1, 0, 1, 1});
    /* more ranks than units */
    deal_is((const int64_t[]){2, 3}, 2, 5, (const int[]){1, 0});
    deal_is((const int64_t[]){2}, 1, 1, (const int[]){0});
    deal_is(NULL, 0, 3, NULL);
}

/* No rank holds more than the least loaded one plus one unit. */
static void test_deal_balances(void **state)
{
    (void)state;
    int64_t tokens[MOST], longest = 0;
    int owner[MOST];
    for (int64_t u = 0; u < MOST; u++) {
        tokens[u] = 1 + (u * 37) % 101;
        longest = tokens[u] > longest ? tokens[u] : longest;
    }
    for (int size = 1; size <= 9; size++) {
        int64_t held[9] = {0}, least = INT64_MAX, most = 0;
        assert_int_equal(mq_units_deal(tokens, MOST, size, owner), MQ_OK);
        for (int64_t u = 0; u < MOST; u++) held[owner[u]] += tokens[u];
        for (int r = 0; r < size; r++) {
            least = held[r] < least ? held[r] : least;
            most = held[r] > most ? held[r] : most;
        }
        assert_true(most - least <= longest);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_form),
        cmocka_unit_test(test_form_refuses),
        cmocka_unit_test(test_deal),
        cmocka_unit_test(test_deal_balances),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
