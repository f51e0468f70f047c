#include "test_ops_util.h"

#include "base/parallel.h"
#include "ops/gemm.h"
#include "ops/ops.h"

#include <sys/wait.h>
#include <unistd.h>

/* Start, stop and names. One process, one instruction set: the order of the tests matters. */

static void test_names(void **state)
{
    (void)state;
    assert_int_equal(mq_ops_isa_level("no such thing"), -1);
    assert_int_equal(mq_ops_isa_level(""), -1);
    assert_true(mq_ops_isa_level("avx2") < mq_ops_isa_level("avx512_core"));
    assert_true(mq_ops_isa_level("avx512_core") < mq_ops_isa_level("avx512_core_bf16"));
    for (int level = 0; level <= mq_ops_isa_level("avx512_core_amx"); level++) {
        assert_int_equal(mq_ops_isa_level(mq_ops_isa_name(level)), level);
    }
    assert_true(mq_ops_isa_level(mq_ops_isa()) >= 0);
}

static void test_unknown_isa(void **state)
{
    (void)state;
    assert_int_equal(mq_ops_start(1, "avx9000"), MQ_E_USAGE);
    assert_non_null(strstr(mq_message(), "avx9000"));
}

/* In a process of its own: keeps to avx2, and says so. Returns which of the checks failed. */
static int run_limited(void)
{
    const uint16_t x[2] = {0x3F80, 0x4000}; /* 1, 2 in bf16 */
    const mq_gemm_shape shape = {.m = 1,
                                 .n = 1,
                                 .k = 2,
                                 .lda = 2,
                                 .ldb = 2,
                                 .ldc = 1,
                                 .in = MQ_BF16,
                                 .b_trans = true,
                                 .out = MQ_F32};
    float sum = 0;
    if (mq_ops_start(1, "avx2") != MQ_OK) return 1;
    if (mq_ops_isa_level(mq_ops_isa()) > mq_ops_isa_level("avx2")) return 2;
    if (mq_ops_has_bf16()) return 3;
    if (strstr(mq_ops_describe(), "avx512")) return 4;
    if (mq_gemm(&shape, x, x, &sum) != MQ_OK || sum != 5) return 5;
    mq_ops_stop();
    return 0;
}

static void test_narrower(void **state)
{
    (void)state;
    int status = 0;
    pid_t child = fork();
    if (child == 0) _exit(run_limited());
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* Agreeing on what this CPU has changes nothing; a wider limit later is fine, a narrower is not. */
static void test_limit(void **state)
{
    (void)state;
    char before[64];
    snprintf(before, sizeof before, "%s", mq_ops_isa());
    assert_int_equal(mq_ops_start(2, before), MQ_OK);
    assert_int_equal(mq_threads(), 2);
    assert_string_equal(mq_ops_isa(), before);
    assert_int_equal(mq_ops_has_bf16(),
                     mq_ops_isa_level(before) >= mq_ops_isa_level("avx512_core_bf16"));
    mq_ops_stop();
    assert_int_equal(mq_threads(), 1);
    assert_int_equal(mq_ops_start(1, mq_ops_isa_name(mq_ops_isa_level(before))), MQ_OK);
    if (mq_ops_isa_level(before) > mq_ops_isa_level("sse41")) {
        assert_int_equal(mq_ops_start(1, "sse41"), MQ_E_INTERNAL);
    }
    mq_ops_stop();
}

static void test_describe(void **state)
{
    (void)state;
    assert_non_null(strstr(mq_ops_describe(), "OpenBLAS "));
#ifdef MQ_WITH_DNNL
    assert_non_null(strstr(mq_ops_describe(), "oneDNN "));
    assert_non_null(strstr(mq_ops_describe(), mq_ops_isa()));
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),    cmocka_unit_test(test_unknown_isa),
        cmocka_unit_test(test_narrower), /* before this process settles its own */
        cmocka_unit_test(test_limit),    cmocka_unit_test(test_describe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
