#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "store/h5.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A file made by h5py (tests/data/h5_samples.py). */

static const char sample[] = MQ_TEST_DATA "/h5_samples.h5";
static mq_h5 *file;

static int open_sample(void **state)
{
    (void)state;
    return mq_h5_open(sample, &file) != MQ_OK;
}

static int close_sample(void **state)
{
    (void)state;
    mq_h5_close(&file);
    return file != NULL;
}

static void check_text(const char *name, const char *expected)
{
    char *text = NULL;
    assert_int_equal(mq_h5_attribute_text(file, name, &text), MQ_OK);
    assert_string_equal(text, expected);
    mq_free(&text);
}

static void reads_texts(void **state)
{
    (void)state;
    char *text = NULL;
    check_text("text", "caf\xC3\xA9");
    check_text("ascii", "fixed");
    check_text("empty", "");
    check_text("vlen_ascii", "abc");
    assert_int_equal(mq_h5_attribute_text(file, "int64", &text), MQ_E_INPUT);
    assert_int_equal(mq_h5_attribute_text(file, "null_space", &text), MQ_E_INPUT);
    assert_int_equal(mq_h5_attribute_text(file, "nothing", &text), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "\"nothing\""));
    assert_non_null(strstr(mq_message(), "h5_samples.h5"));
    assert_null(text);
}

static void check_int(const char *name, int64_t expected)
{
    int64_t value = 0;
    assert_int_equal(mq_h5_attribute_int(file, name, &value), MQ_OK);
    assert_true(value == expected);
}

static void reads_integers(void **state)
{
    (void)state;
    static const char *const bad[] = {"too_large", "two_elements", "null_space",
                                      "real",      "text",         "nothing"};
    int64_t value = 0;
    check_int("int64", INT64_MIN);
    check_int("int8", -5);
    check_int("uint64", INT64_MAX);
    check_int("big_endian", 258);
    check_int("one_element", 7);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(mq_h5_attribute_int(file, bad[i], &value), MQ_E_INPUT);
        assert_non_null(strstr(mq_message(), bad[i]));
    }
    assert_true(mq_h5_has_attribute(file, "real"));
    assert_false(mq_h5_has_attribute(file, "nothing"));
}

static void measures_datasets(void **state)
{
    (void)state;
    static const char *const bad[] = {"real", "square", "scalar", "words", "group", "nothing"};
    int64_t n = -1;
    assert_int_equal(mq_h5_length(file, "i64_packed", &n), MQ_OK);
    assert_int_equal(n, 200001);
    assert_int_equal(mq_h5_length(file, "/i32", &n), MQ_OK);
    assert_int_equal(n, 1000);
    assert_int_equal(mq_h5_length(file, "none", &n), MQ_OK);
    assert_int_equal(n, 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(mq_h5_length(file, bad[i], &n), MQ_E_INPUT);
        assert_non_null(strstr(mq_message(), bad[i]));
    }
}

/* Ranges that begin and end inside pieces of 65536 elements and chunks of 69632. */
static void reads_ranges(void **state)
{
    (void)state;
    static const int64_t range[][2] = {{0, 200001}, {1, 65536},  {65535, 65538},
                                       {200000, 1}, {200001, 0}, {77, 0}};
    int64_t *x = malloc(200001 * sizeof *x);
    assert_non_null(x);
    for (size_t r = 0; r < sizeof range / sizeof *range; r++) {
        int64_t begin = range[r][0], n = range[r][1];
        memset(x, 0x55, 200001 * sizeof *x);
        assert_int_equal(mq_h5_read_i64(file, "i64_packed", begin, n, x), MQ_OK);
        for (int64_t i = 0; i < n; i++) {
            assert_true(x[i] == (begin + i) * 3 + (INT64_C(1) << 40));
        }
        if (n < 200001) assert_true(x[n] == 0x5555555555555555);
    }
    assert_int_equal(mq_h5_read_i64(file, "i64_packed", 200000, 2, x), MQ_E_INPUT);
    assert_int_equal(mq_h5_read_i64(file, "i64_packed", -1, 1, x), MQ_E_INPUT);
    assert_int_equal(mq_h5_read_i64(file, "i64_packed", 0, -1, x), MQ_E_INPUT);
    assert_int_equal(mq_h5_read_i64(file, "i64_packed", INT64_MAX, 1, x), MQ_E_INPUT);
    free(x);
}

static void converts_widths(void **state)
{
    (void)state;
    int32_t x[1000];
    int64_t y[8];
    assert_int_equal(mq_h5_read_i32(file, "i32", 0, 1000, x), MQ_OK);
    for (int i = 0; i < 1000; i++) assert_int_equal(x[i], i * 7919 - 1000000);
    assert_int_equal(mq_h5_read_i32(file, "u8", 200, 100, x), MQ_OK);
    for (int i = 0; i < 100; i++) assert_int_equal(x[i], (200 + i) % 256);
    assert_int_equal(mq_h5_read_i32(file, "none", 0, 0, x), MQ_OK);
    assert_int_equal(mq_h5_read_i32(file, "u64", 0, 2, x), MQ_OK);
    assert_int_equal(x[1], INT32_MAX);
    assert_int_equal(mq_h5_read_i64(file, "u64", 0, 4, y), MQ_OK);
    assert_true(y[2] == INT64_C(1) << 31 && y[3] == INT64_MAX);
    assert_int_equal(mq_h5_read_i32(file, "edges", 0, 2, x), MQ_OK);
    assert_true(x[0] == INT32_MIN && x[1] == INT32_MAX);
}

static void refuses_values_out_of_range(void **state)
{
    (void)state;
    int32_t x[8];
    int64_t y[8];
    assert_int_equal(mq_h5_read_i32(file, "i64_packed", 0, 8, x), MQ_E_INPUT);
    assert_int_equal(mq_h5_read_i32(file, "u64", 1, 2, x), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "\"u64\"[2]"));
    assert_int_equal(mq_h5_read_i32(file, "u64", 4, 1, x), MQ_E_INPUT);
    assert_int_equal(mq_h5_read_i64(file, "u64", 3, 2, y), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "\"u64\"[4]"));
    assert_int_equal(mq_h5_read_i32(file, "edges", 2, 1, x), MQ_E_INPUT);
    assert_int_equal(mq_h5_read_i32(file, "edges", 3, 1, x), MQ_E_INPUT);
}

static void tells_what_is_not_hdf5(void **state)
{
    (void)state;
    char name[] = "/tmp/mq_h5_XXXXXX";
    mq_h5 *h = NULL;
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    assert_int_equal(mq_h5_open(name, &h), MQ_E_INPUT); /* empty */
    assert_int_equal(write(fd, "not a file of tokens", 20), 20);
    assert_int_equal(mq_h5_open(name, &h), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), name));
    close(fd);
    unlink(name);
    assert_int_equal(mq_h5_open(name, &h), MQ_E_IO); /* gone */
    assert_int_equal(mq_h5_open("/tmp", &h), MQ_E_IO);
    assert_null(h);
    mq_h5_close(&h);
}

/* A file cut short: opening or reading fails with a message, and nothing is printed by the library.
 */
static void survives_a_truncated_file(void **state)
{
    (void)state;
    char name[] = "/tmp/mq_h5_XXXXXX", bytes[4096];
    int fd = mkstemp(name);
    FILE *in = fopen(sample, "rb");
    assert_true(fd >= 0 && in);
    size_t n = fread(bytes, 1, sizeof bytes, in);
    fclose(in);
    assert_int_equal(write(fd, bytes, n), n);
    close(fd);
    mq_h5 *h = NULL;
    assert_int_equal(mq_h5_open(name, &h), MQ_E_INPUT);
    unlink(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_texts),
        cmocka_unit_test(reads_integers),
        cmocka_unit_test(measures_datasets),
        cmocka_unit_test(reads_ranges),
        cmocka_unit_test(converts_widths),
        cmocka_unit_test(refuses_values_out_of_range),
        cmocka_unit_test(tells_what_is_not_hdf5),
        cmocka_unit_test(survives_a_truncated_file),
    };
    return cmocka_run_group_tests(tests, open_sample, close_sample);
}
