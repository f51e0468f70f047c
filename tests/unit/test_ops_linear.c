#include "test_ops_util.h"

#include "ops/naive.h"
#include "ops/ops.h"

/* Linear layers, Gram panels and column sums against naive loops, at 1, 2 and 3 threads with the
 * same bits. Bounds as in test_ops_gemm.c, with sum |a||b| <= k for values in [-1, 1). */

typedef struct sizes {
    int64_t n_tok, n_in, n_out, ldy;
} sizes;

static const sizes all_sizes[] = {{1, 1, 1, 1},       {1, 24, 3, 3},     {63, 40, 65, 70},
                                  {64, 64, 64, 64},   {512, 8, 16, 16},  {513, 16, 1025, 1030},
                                  {3, 5, 2113, 2113}, {1100, 33, 48, 48}};

static void want_linear(const sizes *z, const void *x, const void *w, const float *bias,
                        const void *before, float *want, mq_dtype dtype)
{
    const mq_gemm_shape shape = {.m = z->n_tok,
                                 .n = z->n_out,
                                 .k = z->n_in,
                                 .lda = z->n_in,
                                 .ldb = z->n_in,
                                 .ldc = z->ldy,
                                 .in = dtype,
                                 .out = MQ_F32,
                                 .b_trans = true};
    mq_naive_gemm(&shape, x, w, want);
    for (int64_t i = 0; i < z->n_tok * z->ldy; i++) {
        if (i % z->ldy >= z->n_out)
            want[i] = test_get(before, i, dtype);
        else if (bias)
            want[i] += bias[i % z->ldy];
    }
}

static void check_linear(const sizes *z, mq_dtype dtype, bool with_bias, bool add)
{
    int64_t n_y = z->n_tok * z->ldy;
    void *x = test_array(1, z->n_tok * z->n_in, 1, dtype);
    void *w = test_array(2, z->n_out * z->n_in, 1, dtype), *first = NULL;
    float *bias = with_bias ? test_array(3, z->n_out, 1, MQ_F32) : NULL;
    void *before = test_array(4, n_y, 1, dtype);
    float *want = malloc((size_t)n_y * sizeof *want);
    want_linear(z, x, w, bias, before, want, dtype);
    for (int threads = 1; threads <= 3; threads++) {
        void *y = test_copy(before, n_y, dtype);
        assert_int_equal(mq_ops_start(threads, ""), MQ_OK);
        mq_status status =
            add ? mq_linear_add(x, z->n_tok, z->n_in, w, z->n_out, bias, y, dtype)
                : mq_linear(x, z->n_tok, z->n_in, w, z->n_out, bias, y, z->ldy, dtype);
        if (status != MQ_OK) fail_msg("%s", mq_message());
        for (int64_t i = 0; i < n_y; i++) {
            double sum = (double)want[i] + (add ? (double)test_get(before, i, dtype) : 0);
            double bound = (double)(z->n_in + 3) * (double)(z->n_in + 2) * 0x1p-23;
            test_near((double)test_get(y, i, dtype), sum, bound, dtype == MQ_BF16 ? TEST_BF16 : 0,
                      "linear", i);
        }
        if (!first) first = test_copy(y, n_y, dtype);
        assert_memory_equal(y, first, (size_t)n_y * mq_dtype_size(dtype));
        free(y);
    }
    free(x), free(w), free(bias), free(before), free(want), free(first);
}

static void test_linear(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof all_sizes / sizeof *all_sizes; i++) {
        for (int bits = 0; bits < 4; bits++) {
            check_linear(&all_sizes[i], bits & 1 ? MQ_BF16 : MQ_F32, bits & 2, false);
        }
    }
}

static void test_linear_add(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof all_sizes / sizeof *all_sizes; i++) {
        sizes z = all_sizes[i];
        z.ldy = z.n_out;
        for (int bits = 0; bits < 4; bits++) {
            check_linear(&z, bits & 1 ? MQ_BF16 : MQ_F32, bits & 2, true);
        }
    }
}

static void test_no_tokens(void **state)
{
    (void)state;
    float x = 1, y = 2;
    double sum = 3;
    assert_int_equal(mq_linear(&x, 0, 1, &x, 1, NULL, &y, 1, MQ_F32), MQ_OK);
    assert_true(y == 2);
    assert_int_equal(mq_column_sumsq(&x, MQ_F32, 0, 1, &sum), MQ_OK);
    assert_true(sum == 0);
    assert_int_equal(mq_gram_panel(&x, MQ_F32, 0, 1, 0, 1, 0, 1, &y), MQ_OK);
    assert_true(y == 0);
}

/* Rows do not touch each other: NaN in one token, also in the padded last tile, stays there. */
static void test_nan_row(void **state)
{
    (void)state;
    enum { T = 70, D = 32, BAD = 66 };
    uint16_t *x = test_array(1, T * D, 1, MQ_BF16), *w = test_array(2, D * D, 1, MQ_BF16), y[T * D];
    x[BAD * D + 3] = 0x7FC0;
    assert_int_equal(mq_linear(x, T, D, w, D, NULL, y, D, MQ_BF16), MQ_OK);
    for (int i = 0; i < T * D; i++) {
        assert_int_equal(isnan(mq_bf16_to_f32(y[i])) != 0, i / D == BAD);
    }
    free(x), free(w);
}

static void check_gram(int64_t n_tok, int64_t ldx, int64_t i0, int64_t n_i, int64_t j0, int64_t n_j,
                       mq_dtype dtype)
{
    void *x = test_array(1, n_tok * ldx, 1, dtype);
    float *h = test_array(2, n_i * n_j, 1, MQ_F32);
    if (mq_gram_panel(x, dtype, n_tok, ldx, i0, n_i, j0, n_j, h) != MQ_OK) {
        fail_msg("%s", mq_message());
    }
    for (int64_t i = 0; i < n_i; i++) {
        for (int64_t j = 0; j < n_j; j++) {
            double sum = 0, size = 0;
            for (int64_t t = 0; t < n_tok; t++) {
                double p = (double)test_get(x, t * ldx + i0 + i, dtype) *
                           (double)test_get(x, t * ldx + j0 + j, dtype);
                sum += p;
                size += fabs(p);
            }
            test_near((double)h[i * n_j + j], sum, (double)(n_tok + 2) * size * 0x1p-23 + 1e-30, 0,
                      "gram", i * n_j + j);
        }
    }
    free(x), free(h);
}

static void test_gram(void **state)
{
    (void)state;
    static const int64_t tokens[] = {1, 63, 64, 65, 300};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        for (int type = 0; type < 2; type++) {
            mq_dtype dtype = type ? MQ_BF16 : MQ_F32;
            check_gram(tokens[i], 1, 0, 1, 0, 1, dtype);
            check_gram(tokens[i], 50, 0, 50, 0, 50, dtype);
            check_gram(tokens[i], 100, 64, 36, 0, 64, dtype);
        }
    }
}

static void check_sumsq(int64_t n_tok, int64_t n, mq_dtype dtype)
{
    void *x = test_array(1, n_tok * n, 1, dtype);
    double *got = malloc((size_t)n * sizeof *got);
    for (int threads = 1; threads <= 3; threads++) {
        assert_int_equal(mq_ops_start(threads, ""), MQ_OK);
        assert_int_equal(mq_column_sumsq(x, dtype, n_tok, n, got), MQ_OK);
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t t = 0; t < n_tok; t++) {
                sum += pow((double)test_get(x, t * n + j, dtype), 2);
            }
            assert_true(got[j] == sum); /* tokens in order: the same bits */
        }
    }
    free(x), free(got);
}

static void test_sumsq(void **state)
{
    (void)state;
    static const int64_t columns[] = {1, 3, 127, 128, 129, 300};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        check_sumsq(77, columns[i], MQ_BF16);
        check_sumsq(77, columns[i], MQ_F32);
    }
    float x[6] = {NAN, INFINITY, 1e-44f, 1, 1, 0}; /* two tokens of three columns */
    double sum[3];
    assert_int_equal(mq_column_sumsq(x, MQ_F32, 2, 3, sum), MQ_OK);
    assert_true(isnan(sum[0]) && isinf(sum[1]));
    assert_true(sum[2] == pow((double)x[2], 2) && sum[2] > 0); /* no subnormal is lost */
}

int main(void)
{
    if (mq_ops_start(1, "") != MQ_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),    cmocka_unit_test(test_linear_add),
        cmocka_unit_test(test_no_tokens), cmocka_unit_test(test_nan_row),
        cmocka_unit_test(test_gram),      cmocka_unit_test(test_sumsq),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_ops_stop();
    return failed;
}
