#include "base/parallel.h"

#include "base/memory.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Everything at 1 to 4 threads. */

enum { MOST_THREADS = 4, N_SLOTS = 5000 };

static void start(int n_threads)
{
    assert_int_equal(mq_threads_start(n_threads, NULL), MQ_OK);
    assert_int_equal(mq_threads(), n_threads);
}

static mq_status square(void *context, int64_t i)
{
    ((int64_t *)context)[i] += i * i; /* += shows a task that ran twice */
    return MQ_OK;
}

static void test_every_task_once(void **state)
{
    (void)state;
    static int64_t slot[N_SLOTS];
    for (int n = 1; n <= MOST_THREADS; n++) {
        start(n);
        static const int64_t lengths[] = {0, 1, 2, 3, 4, 5, 17, N_SLOTS};
        for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
            memset(slot, 0, sizeof slot);
            assert_int_equal(mq_parallel_for(lengths[k], square, slot), MQ_OK);
            for (int64_t i = 0; i < N_SLOTS; i++) {
                if (slot[i] != (i < lengths[k] ? i * i : 0)) fail_msg("slot %d", (int)i);
            }
        }
        mq_threads_stop();
        assert_int_equal(mq_threads(), 1);
    }
}

static mq_status count(void *context, int64_t i)
{
    (void)i;
    atomic_fetch_add((atomic_int *)context, 1);
    return MQ_OK;
}

/* A worker that comes late to a loop, or twice, would show in one of many short loops. */
static void test_many_short_loops(void **state)
{
    (void)state;
    for (int n = 1; n <= MOST_THREADS; n++) {
        start(n);
        atomic_int total = 0;
        for (int loop = 1; loop <= 1000; loop++) {
            assert_int_equal(mq_parallel_for(7, count, &total), MQ_OK);
            assert_int_equal(atomic_load(&total), 7 * loop);
        }
    }
    mq_threads_stop();
}

typedef struct failing {
    int64_t first, every;
} failing;

static mq_status fail_sometimes(void *context, int64_t i)
{
    const failing *f = context;
    if (i < f->first || (i - f->first) % f->every != 0) return MQ_OK;
    /* Later tasks fail more gravely: it is the lowest that counts. */
    return mq_fail(i == f->first ? MQ_E_INPUT : MQ_E_INTERNAL, "task %d", (int)i);
}

static void test_lowest_failure_wins(void **state)
{
    (void)state;
    for (int n = 1; n <= MOST_THREADS; n++) {
        start(n);
        for (int64_t first = 0; first < 200; first += 13) {
            char expected[32];
            failing f = {first, 1 + first % 3};
            mq_set_message("old");
            assert_int_equal(mq_parallel_for(200, fail_sometimes, &f), MQ_E_INPUT);
            snprintf(expected, sizeof expected, "task %d", (int)first);
            assert_string_equal(mq_message(), expected);
            f.first = 1000;
            assert_int_equal(mq_parallel_for(200, fail_sometimes, &f), MQ_OK); /* forgotten */
        }
    }
    mq_threads_stop();
}

static mq_status nested(void *context, int64_t i)
{
    int64_t *row = (int64_t *)context + i * 10;
    mq_status status = mq_parallel_for(10, square, row);
    failing f = {5, 1};
    if (status == MQ_OK && mq_parallel_for(10, fail_sometimes, &f) != MQ_E_INPUT) {
        status = MQ_E_INTERNAL;
    }
    return status;
}

static void test_nested_loops_run_serially(void **state)
{
    (void)state;
    static int64_t slot[500];
    for (int n = 1; n <= MOST_THREADS; n++) {
        start(n);
        memset(slot, 0, sizeof slot);
        assert_int_equal(mq_parallel_for(50, nested, slot), MQ_OK);
        for (int i = 0; i < 500; i++) assert_int_equal(slot[i], (i % 10) * (i % 10));
    }
    mq_threads_stop();
}

static atomic_int starts;
static _Thread_local bool started;

static void on_start(void)
{
    atomic_fetch_add(&starts, 1);
    started = true;
}

static mq_status want_started(void *context, int64_t i)
{
    (void)context;
    (void)i;
    return started ? MQ_OK : mq_fail(MQ_E_INTERNAL, "on_start did not run in this thread");
}

static void test_start_and_restart(void **state)
{
    (void)state;
    for (int n = 0; n <= MOST_THREADS; n++) {
        atomic_store(&starts, 0);
        assert_int_equal(mq_threads_start(n, on_start), MQ_OK);
        assert_int_equal(mq_parallel_for(1000, want_started, NULL), MQ_OK);
        assert_int_equal(mq_threads(), n > 1 ? n : 1);
    } /* each start ends the pool before */
    mq_threads_stop();
    assert_int_equal(atomic_load(&starts), MOST_THREADS);
    mq_threads_stop(); /* harmless */
    atomic_int total = 0;
    assert_int_equal(mq_parallel_for(9, count, &total), MQ_OK); /* without a pool */
    assert_int_equal(atomic_load(&total), 9);
}

/* Fills this thread's scratch with the task's number; a slot shared with another thread, or with
 * another slot, would be overwritten meanwhile. */
static mq_status use_scratch(void *context, int64_t i)
{
    (void)context;
    size_t bytes = (size_t)(i % 50 + 1) * 64;
    unsigned char *a = mq_scratch(0, bytes), *b = mq_scratch(MQ_SCRATCH_SLOTS - 1, 4096);
    if (!a || !b || (uintptr_t)a % 64 || (uintptr_t)b % 64 || a == b) {
        return mq_fail(MQ_E_MEMORY, "scratch");
    }
    memset(a, (int)(i % 251), bytes);
    memset(b, (int)(i % 241), 4096);
    for (size_t k = 0; k < bytes; k++) {
        if (a[k] != i % 251) return mq_fail(MQ_E_INTERNAL, "slot 0 of task %d", (int)i);
    }
    for (size_t k = 0; k < 4096; k++) {
        if (b[k] != i % 241) return mq_fail(MQ_E_INTERNAL, "the last slot of task %d", (int)i);
    }
    return mq_scratch(0, bytes) == a ? MQ_OK : mq_fail(MQ_E_INTERNAL, "scratch moved");
}

static void test_scratch(void **state)
{
    (void)state;
    size_t before = 0, after = 0, peak = 0;
    mq_memory_use(&before, &peak);
    for (int n = 1; n <= MOST_THREADS; n++) {
        start(n);
        assert_int_equal(mq_parallel_for(2000, use_scratch, NULL), MQ_OK);
        mq_threads_stop();
        mq_scratch_free();
        mq_memory_use(&after, &peak);
        assert_int_equal(after, before); /* workers freed theirs */
    }
    assert_null(mq_scratch(1, SIZE_MAX / 4));
    assert_non_null(mq_scratch(1, 10)); /* usable again */
    mq_scratch_free();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task_once),
        cmocka_unit_test(test_many_short_loops),
        cmocka_unit_test(test_lowest_failure_wins),
        cmocka_unit_test(test_nested_loops_run_serially),
        cmocka_unit_test(test_start_and_restart),
        cmocka_unit_test(test_scratch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
