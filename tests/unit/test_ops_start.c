#include "test_ops_util.h"

#include "base/parallel.h"
#include "ops/ops.h"

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
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_unknown_isa),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_describe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
