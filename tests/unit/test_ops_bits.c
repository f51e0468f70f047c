#include "test_ops_util.h"

#include "ops/kernels.h"
#include "ops/ops.h"
#include "ops/vector.h"

/* Sums over the bits of what the vectorised kernels give for fixed input. They hold for every clone
 * of vector.h, every compiler and every CPU, for each operation is rounded as IEEE 754 says and in
 * a fixed order: what fails here has lost that (contraction, another order of a sum, a library
 * function), and results would depend on the machine. Products are not among them: their order of
 * summation belongs to oneDNN and OpenBLAS. New numbers need a reason in the commit. */

enum { T = 70, D = 301, N = T * D };

static uint64_t fingerprint(const void *x, size_t bytes)
{
    const unsigned char *b = x;
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (size_t i = 0; i < bytes; i++) h = (h ^ b[i]) * UINT64_C(0x100000001B3);
    return h;
}

static void check(const char *what, uint64_t got, uint64_t want)
{
    if (got != want) fail_msg("%s: got 0x%016llX", what, (unsigned long long)got);
}

static void test_norm_bits(void **state)
{
    (void)state;
    float *w = test_array(2, D, 1, MQ_F32), *x = test_array(1, N, 3, MQ_F32);
    assert_int_equal(mq_norm(MQ_NORM_RMS, x, T, D, w, NULL, 1e-6, x, MQ_F32), MQ_OK);
    check("RMS norm", fingerprint(x, N * sizeof *x), UINT64_C(0xA1C8E406FF07CC3A));
    assert_int_equal(mq_norm(MQ_NORM_LAYER, x, T, D, w, NULL, 1e-6, x, MQ_F32), MQ_OK);
    check("layer norm", fingerprint(x, N * sizeof *x), UINT64_C(0xC5701FB15FC0969A));
    uint16_t *y = test_array(1, N, 3, MQ_BF16);
    assert_int_equal(mq_norm(MQ_NORM_RMS, y, T, D, w, NULL, 1e-6, y, MQ_BF16), MQ_OK);
    check("RMS norm in bf16", fingerprint(y, N * sizeof *y), UINT64_C(0xBA08908D2EEBC080));
    free(w), free(x), free(y);
}

static void test_gated_bits(void **state)
{
    (void)state;
    static const uint64_t want[] = {UINT64_C(0x72E839E51B2AF143), UINT64_C(0x9222CDD0FA6DA292),
                                    UINT64_C(0x57394C5E067345BB), UINT64_C(0x21A5A24C2FE0AF6F),
                                    UINT64_C(0xF91472E07BE266F8)};
    float *gate = test_array(1, N, 12, MQ_F32), *up = test_array(2, N, 1, MQ_F32);
    float *y = malloc(N * sizeof *y);
    for (int kind = MQ_SILU; kind <= MQ_CLIPPED_SWIGLU; kind++) {
        const mq_activation act = {(mq_activation_kind)kind, 7, 1.702};
        assert_int_equal(mq_gated(act, gate, D, up, D, T, D, y, MQ_F32), MQ_OK);
        check("gated", fingerprint(y, N * sizeof *y), want[kind]);
    }
    free(gate), free(up), free(y);
}

static void test_rope_bits(void **state)
{
    (void)state;
    enum { HEAD = 86 };
    float *x = test_array(1, N, 2, MQ_F32), *table = test_array(2, 10 * HEAD, 1, MQ_F32);
    int32_t position[T];
    for (int t = 0; t < T; t++) position[t] = t % 10;
    assert_int_equal(mq_rope(x, T, D, 3, HEAD, HEAD, table, position, false, MQ_F32), MQ_OK);
    check("rope", fingerprint(x, N * sizeof *x), UINT64_C(0x27FDA372924B0C78));
    assert_int_equal(mq_rope(x, T, D, 3, HEAD, HEAD, table, position, true, MQ_F32), MQ_OK);
    check("interleaved rope", fingerprint(x, N * sizeof *x), UINT64_C(0x73BD002845395CC2));
    free(x), free(table);
}

static void test_exp_bits(void **state)
{
    (void)state;
    uint64_t h = 0;
    for (uint32_t i = 0; i < 1u << 20; i++) {
        uint32_t bits = i * 4093u; /* over all exponents and both signs */
        float x;
        memcpy(&x, &bits, sizeof x);
        float y = mq_expf(x);
        if (isnan(x)) y = 0; /* which NaN is not laid down */
        uint32_t out;
        memcpy(&out, &y, sizeof out);
        h = h * 31 + out;
        double want = exp((double)x);
        double unit = fmax(fabs(want) * 0x1p-23, 0x1p-149);
        if (!isnan(x) && want < 3.4e38) test_near((double)y, want, unit, 0, "exp", i);
        if (want > 3.5e38) assert_true(isinf(y));
    }
    check("exp", h, UINT64_C(0xFD37B002C4AABBB6));
}

int main(void)
{
    if (mq_ops_start(1, "") != MQ_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm_bits),
        cmocka_unit_test(test_gated_bits),
        cmocka_unit_test(test_rope_bits),
        cmocka_unit_test(test_exp_bits),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_ops_stop();
    return failed;
}
