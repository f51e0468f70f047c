#include "base/log.h"
#include "base/status.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* The exit codes are a contract with batch scripts. */
static void test_exit_codes(void **state)
{
    (void)state;
    static const struct {
        mq_status status;
        int code;
    } expected[] = {{MQ_OK, 0},         {MQ_E_USAGE, 2},     {MQ_E_INPUT, 3},    {MQ_E_IO, 4},
                    {MQ_E_NUMERIC, 5},  {MQ_E_NOT_PD, 5},    {MQ_E_MEMORY, 6},   {MQ_E_BUSY, 73},
                    {MQ_E_REQUEUE, 75}, {MQ_E_INTERNAL, 70}, {(mq_status)99, 70}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_int_equal(mq_exit_code(expected[i].status), expected[i].code);
        assert_true(strlen(mq_status_name(expected[i].status)) > 1);
    }
    for (int a = MQ_OK; a < MQ_E_INTERNAL; a++) { /* no two share a name */
        for (int b = a + 1; b <= MQ_E_INTERNAL; b++) {
            assert_string_not_equal(mq_status_name((mq_status)a), mq_status_name((mq_status)b));
        }
    }
}

static void test_messages(void **state)
{
    (void)state;
    assert_int_equal(mq_fail(MQ_E_INPUT, "%s: %d rows", "file", 7), MQ_E_INPUT);
    assert_string_equal(mq_message(), "file: 7 rows");
    assert_int_equal(mq_fail_in(MQ_E_IO, "reading %s", "x"), MQ_E_IO);
    assert_string_equal(mq_message(), "reading x: file: 7 rows");
    assert_int_equal(mq_fail(MQ_E_IO, "again: %s", mq_message()),
                     MQ_E_IO); /* the old text itself */
    assert_string_equal(mq_message(), "again: reading x: file: 7 rows");
    mq_set_message("%s is no format here");
    assert_string_equal(mq_message(), "%s is no format here");
}

static void test_long_messages_are_cut(void **state)
{
    (void)state;
    char text[5000];
    memset(text, 'y', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    mq_fail(MQ_E_IO, "%s", text);
    size_t length = strlen(mq_message());
    assert_true(length > 1000 && length < sizeof text);
    mq_fail_in(MQ_E_IO, "front");
    assert_int_equal(strlen(mq_message()), length);
    assert_int_equal(strncmp(mq_message(), "front: yyy", 10), 0);
    mq_fail_in(MQ_E_IO, "%s", text); /* no room for the rest */
    assert_int_equal(strlen(mq_message()), length);
    mq_set_message(text);
    assert_int_equal(strlen(mq_message()), length);
}

static mq_status try_twice(mq_status first, mq_status second, int *reached)
{
    MQ_TRY(first);
    (*reached)++;
    MQ_TRY(second);
    (*reached)++;
    return MQ_OK;
}

static void test_try(void **state)
{
    (void)state;
    int reached = 0;
    assert_int_equal(try_twice(MQ_OK, MQ_OK, &reached), MQ_OK);
    assert_int_equal(reached, 2);
    assert_int_equal(try_twice(MQ_OK, MQ_E_IO, &reached), MQ_E_IO);
    assert_int_equal(reached, 3);
    assert_int_equal(try_twice(MQ_E_BUSY, MQ_E_IO, &reached), MQ_E_BUSY);
    assert_int_equal(reached, 3);
}

static void *other_thread(void *empty_there)
{
    *(bool *)empty_there = mq_message()[0] == '\0';
    mq_fail(MQ_E_IO, "of the other thread");
    return NULL;
}

static void test_messages_belong_to_threads(void **state)
{
    (void)state;
    pthread_t thread;
    bool empty_there = false;
    mq_fail(MQ_E_IO, "of this thread");
    assert_int_equal(pthread_create(&thread, NULL, other_thread, &empty_there), 0);
    pthread_join(thread, NULL);
    assert_true(empty_there);
    assert_string_equal(mq_message(), "of this thread");
    assert_string_equal(mq_errno_text(ENOENT), "No such file or directory");
    assert_true(strlen(mq_errno_text(123456)) > 0);
}

/* ---- the log -------------------------------------------------------------------------------- */

enum { LOGGERS = 4, LINES = 200 };

static void *log_lines(void *unused)
{
    (void)unused;
    for (int i = 0; i < LINES; i++) mq_log("a line of %s", "some words");
    return NULL;
}

static bool is_log_line(const char *line, const char *text)
{
    const char *bracket = strchr(line, ']');
    return line[0] == '[' && bracket && strcmp(bracket + 2, text) == 0;
}

/* What goes to stderr is caught in a file. */
static void test_log(void **state)
{
    (void)state;
    char path[] = "/tmp/mq_test_log_XXXXXX", line[256];
    int fd = mkstemp(path), saved = dup(STDERR_FILENO), n_whole = 0, n_all = 0, n_warnings = 0;
    pthread_t thread[LOGGERS];
    assert_true(fd >= 0 && saved >= 0 && dup2(fd, STDERR_FILENO) >= 0);
    for (int i = 0; i < LOGGERS; i++) pthread_create(&thread[i], NULL, log_lines, NULL);
    for (int i = 0; i < LOGGERS; i++) pthread_join(thread[i], NULL);
    mq_warn("watch %d", 1);
    mq_log_enable(false);
    mq_log("nobody hears this");
    mq_warn("nor this");
    mq_log_enable(true);
    dup2(saved, STDERR_FILENO);
    close(saved);
    FILE *f = fdopen(fd, "r");
    assert_non_null(f);
    rewind(f);
    for (; fgets(line, sizeof line, f); n_all++) {
        n_whole += is_log_line(line, "a line of some words\n");
        n_warnings += is_log_line(line, "warning: watch 1\n");
    }
    fclose(f);
    unlink(path);
    assert_int_equal(n_whole, LOGGERS * LINES);
    assert_int_equal(n_warnings, 1);
    assert_int_equal(n_all, LOGGERS * LINES + 1);
    assert_int_equal(mq_warning_count(), 1);
    assert_string_equal(mq_warning(0), "watch 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_long_messages_are_cut),
        cmocka_unit_test(test_try),
        cmocka_unit_test(test_messages_belong_to_threads),
        cmocka_unit_test(test_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
