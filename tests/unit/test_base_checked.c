#include "base/checked.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const int64_t two31 = (int64_t)1 << 31, two32 = (int64_t)1 << 32;

static void test_mul_i64(void **state)
{
    (void)state;
    static const struct {
        int64_t a, b, product; /* -1: refused */
    } cases[] = {
        {0, 0, 0},
        {0, INT64_MAX, 0},
        {INT64_MAX, 0, 0},
        {1, INT64_MAX, INT64_MAX},
        {INT64_MAX, 1, INT64_MAX},
        {2, INT64_MAX, -1},
        {INT64_MAX, INT64_MAX, -1},
        {65536, 32768, (int64_t)1 << 31},
        {65536, 65536, (int64_t)1 << 32},
        {256000, 12288, 3145728000}, /* Command-R-Plus' embedding */
        {53248, 53248, 2835349504},  /* the widest Hessian */
        {(int64_t)1 << 31, (int64_t)1 << 31, (int64_t)1 << 62},
        {(int64_t)1 << 31, (int64_t)1 << 32, -1}, /* 2^63 */
        {((int64_t)1 << 32) - 1, (int64_t)1 << 31, 9223372034707292160},
        {(int64_t)1 << 32, (int64_t)1 << 32, -1},      /* 2^64: wraps to 0 */
        {3037000499, 3037000499, 9223372030926249001}, /* floor(sqrt(2^63 - 1)) squared */
        {3037000500, 3037000500, -1},
        {7, INT64_MAX / 7, INT64_MAX},
        {7, INT64_MAX / 7 + 1, -1},
        {-1, 5, -1},
        {5, -1, -1},
        {-1, -1, -1},
        {INT64_MIN, -1, -1},
        {INT64_MIN, 0, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t out = -2;
        mq_status status = mq_mul_i64(cases[i].a, cases[i].b, &out);
        if (cases[i].product < 0) {
            assert_int_equal(status, MQ_E_INPUT);
            assert_true(out == -2);
        } else {
            assert_int_equal(status, MQ_OK);
            if (out != cases[i].product) fail_msg("case %zu", i);
        }
    }
}

static void test_sizes(void **state)
{
    (void)state;
    size_t out = 9;
    assert_int_equal(mq_mul_size(256000u * (size_t)12288, 8, &out), MQ_OK);
    assert_true(out == (size_t)25165824000);
    assert_int_equal(mq_mul_size((size_t)1 << 32, ((size_t)1 << 32) - 1, &out), MQ_OK);
    assert_true(out == SIZE_MAX - ((size_t)1 << 32) + 1);
    assert_int_equal(mq_mul_size((size_t)1 << 32, (size_t)1 << 32, &out), MQ_E_INPUT);
    assert_int_equal(mq_mul_size(SIZE_MAX, 1, &out), MQ_OK);
    assert_true(out == SIZE_MAX);
    assert_int_equal(mq_mul_size(SIZE_MAX, 0, &out), MQ_OK);
    assert_true(out == 0);
    assert_int_equal(mq_mul_size(SIZE_MAX / 2 + 1, 2, &out), MQ_E_INPUT);
    assert_int_equal(mq_add_size(SIZE_MAX - 5, 5, &out), MQ_OK);
    assert_true(out == SIZE_MAX);
    assert_int_equal(mq_add_size(SIZE_MAX - 5, 6, &out), MQ_E_INPUT);
    assert_int_equal(mq_add_size(6, SIZE_MAX - 5, &out), MQ_E_INPUT);
    assert_true(out == SIZE_MAX); /* untouched by failures */
}

static mq_status count4(int64_t a, int64_t b, int64_t c, int64_t d, int64_t *out)
{
    const int64_t dims[] = {a, b, c, d};
    return mq_count(dims, 4, out);
}

static void test_count(void **state)
{
    (void)state;
    int64_t out = -2;
    assert_int_equal(mq_count(NULL, 0, &out), MQ_OK);
    assert_true(out == 1);
    assert_int_equal(count4(256000, 12288, 1, 1, &out), MQ_OK);
    assert_true(out == 3145728000);
    assert_int_equal(count4(two31, two31, 1, 1, &out), MQ_OK);
    assert_true(out == (int64_t)1 << 62);
    assert_int_equal(count4(two31, two31, 2, 1, &out), MQ_E_INPUT);
    assert_int_equal(count4(5, 0, 7, 3, &out), MQ_OK);
    assert_true(out == 0);
    /* A zero does not hide an overflow, wherever it stands. */
    assert_int_equal(count4(two32, two32, 0, 1, &out), MQ_E_INPUT);
    assert_int_equal(count4(0, two32, two32, 1, &out), MQ_E_INPUT);
    assert_int_equal(count4(0, 1, 1, -1, &out), MQ_E_INPUT);
    assert_int_equal(count4(3, -4, 1, 1, &out), MQ_E_INPUT);
}

static void test_to_int(void **state)
{
    (void)state;
    int out = 7;
    assert_int_equal(mq_to_int(two31 - 1, "rows", &out), MQ_OK);
    assert_int_equal(out, INT_MAX);
    assert_int_equal(mq_to_int(-two31, "rows", &out), MQ_OK);
    assert_int_equal(out, INT_MIN);
    assert_int_equal(mq_to_int(two31, "rows", &out), MQ_E_INTERNAL);
    assert_non_null(strstr(mq_message(), "rows = 2147483648"));
    assert_int_equal(mq_to_int(-two31 - 1, "rows", &out), MQ_E_INTERNAL);
    assert_int_equal(mq_to_int(two32 + 5, "rows", &out), MQ_E_INTERNAL);
    assert_int_equal(out, INT_MIN);
}

static void test_small_ones(void **state)
{
    (void)state;
    assert_true(mq_ceil_div(0, 3) == 0 && mq_ceil_div(1, 3) == 1 && mq_ceil_div(3, 3) == 1);
    assert_true(mq_ceil_div(4, 3) == 2 && mq_ceil_div(INT64_MAX, 2) == (int64_t)1 << 62);
    assert_true(mq_ceil_div(INT64_MAX, INT64_MAX) == 1 && mq_ceil_div(INT64_MAX, 1) == INT64_MAX);
    assert_true(mq_min_i64(INT64_MIN, 3) == INT64_MIN && mq_max_i64(INT64_MIN, 3) == 3);
    assert_true(mq_min_i64(two32, 1) == 1 && mq_max_i64(two32, 1) == two32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mul_i64),    cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_count),      cmocka_unit_test(test_to_int),
        cmocka_unit_test(test_small_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
