#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/view.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Views of a file that ends in the middle of a page, at any offset; and of one that shrinks. */

enum { BYTES = 3 * 4096 + 100 };

static char byte_at(int64_t i)
{
    return (char)(i * 7 + i / 256);
}

static int make_file(void)
{
    char path[] = "/tmp/mq_test_view_XXXXXX", data[BYTES];
    for (int i = 0; i < BYTES; i++) data[i] = byte_at(i);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(pwrite(fd, data, sizeof data, 0), BYTES);
    return fd;
}

static void shows_the_bytes_of_a_file(void **state)
{
    (void)state;
    static const int64_t offsets[] = {0, 1, 4095, 4096, 4097, 8191, BYTES - 100, BYTES - 1};
    int fd = make_file();
    assert_true(mq_view_possible());
    for (size_t o = 0; o < sizeof offsets / sizeof *offsets; o++) {
        for (int64_t n = 1; n <= BYTES - offsets[o]; n = n * 2 + 1) {
            mq_view v;
            assert_int_equal(mq_view_open(fd, "file", offsets[o], (size_t)n, &v), MQ_OK);
            for (int64_t i = 0; i < n; i++) assert_int_equal(v.data[i], byte_at(offsets[o] + i));
            assert_int_equal(mq_view_close(&v, "file"), MQ_OK);
            assert_null(v.data);
            assert_int_equal(mq_view_close(&v, "file"), MQ_OK);
        }
    }
    close(fd);
}

static void check_refused(int fd, int64_t offset, size_t bytes, mq_status expected)
{
    mq_view v;
    assert_int_equal(mq_view_open(fd, "file", offset, bytes, &v), expected);
    assert_null(v.data);
    assert_non_null(strstr(mq_message(), "file: "));
}

static void refuses_what_is_not_there(void **state)
{
    (void)state;
    int fd = make_file(), writable = open("/dev/null", O_WRONLY | O_CLOEXEC);
    check_refused(fd, 0, BYTES + 1, MQ_E_INPUT);
    check_refused(fd, BYTES - 1, 2, MQ_E_INPUT);
    check_refused(fd, BYTES, 1, MQ_E_INPUT);
    check_refused(fd, 1 << 20, 1, MQ_E_INPUT);
    check_refused(fd, 0, SIZE_MAX - 8192, MQ_E_INPUT);
    check_refused(-1, 0, 1, MQ_E_IO);
    check_refused(writable, 0, 1, MQ_E_INPUT);
    close(writable);
    close(fd);
}

/* Within its last page nothing but the length tells: the mapping shows zeros there. */
static void notices_a_file_that_shrinks(void **state)
{
    (void)state;
    mq_view v;
    int fd = make_file();
    assert_int_equal(mq_view_open(fd, "file", 5, BYTES - 5, &v), MQ_OK);
    assert_int_equal(ftruncate(fd, BYTES - 1), 0);
    assert_int_equal(v.data[BYTES - 6], 0);
    assert_int_equal(mq_view_close(&v, "file"), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "truncated"));
    assert_null(v.data);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_the_bytes_of_a_file),
        cmocka_unit_test(refuses_what_is_not_there),
        cmocka_unit_test(notices_a_file_that_shrinks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
