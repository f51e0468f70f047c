#ifndef MQ_TEST_HARNESS_H
#define MQ_TEST_HARNESS_H

#include <mpi.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

/* Tests that run on several ranks. cmocka's asserts leave a test on the one rank that failed, and
 * the others then hang in the next collective; here nothing is left early: a check records its
 * failure, the test goes on, and the verdict is reduced over all ranks before anything is printed.
 *
 *     static void test_sum(void)
 *     {
 *         mq_comm *comm = NULL;
 *         if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &comm) == MQ_OK)) return;
 *         ...
 *         CHECK(x[3] == 6);                          // on any rank, in any branch or loop
 *         CHECK_MSG(x[i] == y[i], "i = %d", i);
 *         mq_comm_destroy(&comm);
 *     }
 *
 *     int main(int argc, char **argv)
 *     {
 *         harness_start(&argc, &argv);
 *         RUN(test_sum);
 *         return harness_finish();
 *     }
 *
 * CHECK never communicates. CHECK_ALL does: every rank must reach it, and it is true everywhere or
 * nowhere, so that all ranks may leave on it together. */

enum { HARNESS_TEXT = 512 };

static struct {
    int rank, size;
    long n_checks, n_failed;  /* of this rank, in the current test */
    char first[HARNESS_TEXT]; /* its first failure */
    /* the same on every rank */
    long all[3]; /* checks, failures, and ranks that failed, in the current test */
    int speaker; /* lowest rank that failed */
    int n_tests, n_bad_tests;
} harness;

/** Records a check of this rank; returns `good`. Not collective. */
static inline bool harness_check(bool good, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static inline bool harness_check(bool good, const char *file, int line, const char *fmt, ...)
{
    harness.n_checks++;
    if (good) return true;
    if (harness.n_failed++ == 0) {
        va_list args;
        va_start(args, fmt);
        int used = snprintf(harness.first, sizeof harness.first, "%s:%d: ", file, line);
        if (used >= 0 && used < HARNESS_TEXT) {
            vsnprintf(harness.first + used, (size_t)(HARNESS_TEXT - used), fmt, args);
        }
        va_end(args);
    }
    return false;
}

/** Whether `good` holds on all ranks; where it does not, the ranks concerned record a failure.
 *  Collective on MPI_COMM_WORLD. */
static inline bool harness_check_all(bool good, const char *file, int line, const char *text)
{
    int mine = harness_check(good, file, line, "%s", text), all = 0;
    MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
    return all;
}

#define CHECK(condition) harness_check((condition), __FILE__, __LINE__, "%s", #condition)
#define CHECK_MSG(condition, ...) harness_check((condition), __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_ALL(condition) harness_check_all((condition), __FILE__, __LINE__, #condition)

/** Runs one test and judges it. Collective. A test that checked nothing on any rank fails. */
static inline void harness_run(const char *name, void (*test)(void))
{
    harness.n_checks = harness.n_failed = 0;
    test();
    long mine[3] = {harness.n_checks, harness.n_failed, harness.n_failed > 0};
    int lowest = harness.n_failed > 0 ? harness.rank : harness.size;
    MPI_Allreduce(mine, harness.all, 3, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allreduce(&lowest, &harness.speaker, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    bool good = harness.all[0] > 0 && harness.all[1] == 0;
    harness.n_tests++;
    harness.n_bad_tests += !good;
    if (harness.all[1] > 0) {
        MPI_Bcast(harness.first, HARNESS_TEXT, MPI_CHAR, harness.speaker, MPI_COMM_WORLD);
    }
    if (harness.rank != 0) return;
    printf("%s %s: %ld checks on %d ranks\n", good ? "ok  " : "FAIL", name, harness.all[0],
           harness.size);
    if (harness.all[1] > 0) {
        printf("     %ld checks failed on %ld ranks; the first, on rank %d: %s\n", harness.all[1],
               harness.all[2], harness.speaker, harness.first);
    }
    fflush(stdout);
}

#define RUN(test) harness_run(#test, test)

/* What MPI_Init leaks is not looked at, and the check comes before MPI_Finalize: both unload
 * components, whose leaks could then not be told from our own (tests/lsan.supp names the rest). */
#if defined(__SANITIZE_ADDRESS__)
#define HARNESS_LEAK_CHECK 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HARNESS_LEAK_CHECK 1
#endif
#endif
#ifdef HARNESS_LEAK_CHECK
void __lsan_disable(void);
void __lsan_enable(void);
void __lsan_do_leak_check(void);
#else
#define __lsan_disable() ((void)0)
#define __lsan_enable() ((void)0)
#define __lsan_do_leak_check() ((void)0)
#endif

/** Starts MPI. */
static inline void harness_start(int *argc, char ***argv)
{
    int provided = 0;
    __lsan_disable();
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    __lsan_enable();
    MPI_Comm_rank(MPI_COMM_WORLD, &harness.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &harness.size);
}

/** Ends MPI; the exit status of main, the same on every rank. A program without tests fails. */
static inline int harness_finish(void)
{
    MPI_Barrier(MPI_COMM_WORLD); /* a leak ends the job: not before the last rank has reported */
    __lsan_do_leak_check();
    MPI_Finalize();
    return harness.n_bad_tests > 0 || harness.n_tests == 0;
}

#endif
