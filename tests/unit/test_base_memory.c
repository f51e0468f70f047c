#include "base/memory.h"

#include "base/cgroup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static void test_alloc(void **state)
{
    (void)state;
    size_t before = 0, now = 0, peak = 0, old_peak = 0;
    mq_memory_use(&before, &old_peak);
    for (int64_t n = 0; n < 200; n += 7) {
        unsigned char *p = NULL;
        assert_int_equal(mq_alloc(n, 3, "test", &p), MQ_OK);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (int64_t i = 0; i < 3 * n; i++) assert_int_equal(p[i], 0);
        memset(p, 0xAB, (size_t)n * 3); /* the next allocation must be zero again */
        mq_memory_use(&now, &peak);
        assert_true(now >= before + 3 * (size_t)n && now <= before + 3 * (size_t)n + 128);
        assert_true(peak >= now);
        mq_free(&p);
        assert_null(p);
        mq_free(&p);
    }
    mq_memory_use(&now, &peak);
    assert_int_equal(now, before);
}

static void test_peak(void **state)
{
    (void)state;
    double *a = NULL, *b = NULL;
    size_t now = 0, peak = 0, later = 0;
    assert_int_equal(mq_alloc(1 << 17, sizeof *a, "a", &a), MQ_OK);
    assert_int_equal(mq_alloc(1 << 17, sizeof *b, "b", &b), MQ_OK);
    mq_free(&a);
    mq_free(&b);
    mq_memory_use(&now, &peak);
    assert_true(peak >= (size_t)2 << 20 && now < (size_t)1 << 20);
    assert_int_equal(mq_alloc(1, 1, "a", &a), MQ_OK);
    mq_memory_use(&now, &later);
    assert_int_equal(later, peak);
    mq_free(&a);
    assert_true(mq_memory_peak_rss() > 100000);
    assert_true(mq_memory_of_node() > (size_t)16 << 20);
}

static void test_failures(void **state)
{
    (void)state;
    void *p = NULL;
    assert_int_equal(mq_alloc((int64_t)1 << 55, 8, "a huge thing", &p), MQ_E_MEMORY);
    assert_non_null(strstr(mq_message(), "a huge thing: cannot allocate 288230376151711744 bytes"));
    assert_int_equal(mq_alloc(INT64_MAX, 8, "more", &p), MQ_E_INPUT);
    assert_int_equal(mq_alloc(1, SIZE_MAX, "no room for the padding", &p), MQ_E_INPUT);
    assert_int_equal(mq_alloc(-1, 8, "negative", &p), MQ_E_INTERNAL);
    assert_null(p);
}

/* ---- control groups ------------------------------------------------------------------------- */

static char mount[] = "/tmp/mq_test_cgroup_XXXXXX";

static void put(const char *folder, const char *file, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s%s", mount, folder);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s%s/%s", mount, folder, file);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int make_groups(void **state)
{
    (void)state;
    return mkdtemp(mount) ? 0 : -1;
}

static int remove_groups(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", mount);
    return system(command);
}

/* A Slurm step: the limit is the job's, above the step's own group. */
static void test_cgroup_2(void **state)
{
    (void)state;
    put("", "memory.max", "max\n");
    put("/slurm", "memory.max", "max\n");
    put("/slurm/job_7", "memory.max", "34359738368\n");
    put("/slurm/job_7/step_0", "memory.max", "max\n");
    put("/slurm/job_8", "memory.max", "34359738368\n");
    put("/slurm/job_8/step_0", "memory.max", "1073741824\n");
    assert_true(mq_cgroup_memory_limit("0::/slurm/job_7/step_0\n", mount) == 34359738368u);
    assert_true(mq_cgroup_memory_limit("0::/slurm/job_8/step_0", mount) == 1073741824u);
    assert_true(mq_cgroup_memory_limit("0::/slurm/job_8\n", mount) == 34359738368u);
    assert_true(mq_cgroup_memory_limit("0::/slurm\n", mount) == SIZE_MAX);
    assert_true(mq_cgroup_memory_limit("0::/\n", mount) == SIZE_MAX);
    /* Folders that are not here, below one that is. */
    assert_true(mq_cgroup_memory_limit("0::/slurm/job_7/a/b\n", mount) == 34359738368u);
    put("", "memory.max", "1000000\n");
    assert_true(mq_cgroup_memory_limit("0::/slurm/job_8/step_0\n", mount) == 1000000u);
    assert_true(mq_cgroup_memory_limit("0::/\n", mount) == 1000000u);
}

static void test_cgroup_1(void **state)
{
    (void)state;
    put("/memory", "memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    put("/memory/job", "memory.limit_in_bytes", "2147483648\n");
    put("/cpuset", "memory.limit_in_bytes", "5\n");
    const char *lines =
        "9:name=systemd:/job\n5:cpuset:/\n4:cpu,memory,pids:/job/step\n3:cpu:/job\n";
    assert_true(mq_cgroup_memory_limit(lines, mount) == 2147483648u);
    assert_true(mq_cgroup_memory_limit("4:memory:/other\n", mount) == 9223372036854771712u);
    assert_true(mq_cgroup_memory_limit("4:memoryx,xmemory:/job\n", mount) == SIZE_MAX);
    assert_true(mq_cgroup_memory_limit("", mount) == SIZE_MAX);
    assert_true(mq_cgroup_memory_limit("nonsense\n4\n4:memory\n::\n", "/nonexistent") == SIZE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_peak),
        cmocka_unit_test(test_failures),
        cmocka_unit_test_setup_teardown(test_cgroup_2, make_groups, NULL),
        cmocka_unit_test_setup_teardown(test_cgroup_1, NULL, remove_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
