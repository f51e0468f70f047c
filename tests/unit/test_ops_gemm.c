#include "test_ops_util.h"

#include "base/parallel.h"
#include "ops/gemm_impl.h"
#include "ops/naive.h"
#include "ops/ops.h"

#include <pthread.h>

/* Products against the naive loop. The bound is the textbook one for any order of summation in f32:
 * |error| <= 2 k 2^-24 sum |a||b|, plus one rounding of C to its type. (The factor 2: the bf16 dot
 * instruction rounds its two products of a step separately.) The sum of magnitudes is itself a
 * naive product. */

typedef mq_status (*product)(const mq_gemm_shape *s, const void *a, const void *b,
                             const float *bias, void *c);

static void magnitudes(void *x, int64_t n, mq_dtype dtype)
{
    for (int64_t i = 0; i < n; i++) test_set(x, i, fabsf(test_get(x, i, dtype)), dtype);
}

static void check_product(product run, const mq_gemm_shape *s, bool with_bias)
{
    int64_t n_a = (s->a_trans ? s->k : s->m) * s->lda, n_b = (s->b_trans ? s->n : s->k) * s->ldb;
    int64_t n_c = s->m * s->ldc;
    void *a = test_array(1, n_a, 1, s->in), *b = test_array(2, n_b, 1, s->in);
    float *bias = with_bias ? test_array(3, s->n, 1, MQ_F32) : NULL;
    void *got = test_array(4, n_c, 1, s->out), *before = test_copy(got, n_c, s->out);
    mq_gemm_shape exact = *s;
    exact.out = MQ_F32;
    float *want = malloc((size_t)n_c * sizeof *want), *size = malloc((size_t)n_c * sizeof *size);
    for (int64_t i = 0; i < n_c; i++) want[i] = size[i] = test_get(got, i, s->out);
    if (run(s, a, b, bias, got) != MQ_OK) fail_msg("%s", mq_message());
    mq_naive_gemm(&exact, a, b, want);
    magnitudes(a, n_a, s->in);
    magnitudes(b, n_b, s->in);
    magnitudes(size, n_c, MQ_F32);
    mq_naive_gemm(&exact, a, b, size);
    for (int64_t i = 0; i < n_c; i++) {
        int64_t col = i % s->ldc;
        if (col >= s->n) { /* padding of a row stays as it was */
            assert_memory_equal(mq_dtype_size(s->out) * (size_t)i + (char *)got,
                                mq_dtype_size(s->out) * (size_t)i + (char *)before,
                                mq_dtype_size(s->out));
            continue;
        }
        double bound = ((double)s->k + 2) * 0x1p-23 * ((double)size[i] + 1) + 1e-30;
        double sum = (double)want[i] + (bias ? (double)bias[col] : 0);
        test_near((double)test_get(got, i, s->out), sum, bound, s->out == MQ_BF16 ? TEST_BF16 : 0,
                  mq_gemm_describe(s).text, i);
    }
    free(a), free(b), free(bias), free(got), free(before), free(want), free(size);
}

/* All types and orientations of one size; pad widens every stride. */
static void check_size(product run, int64_t m, int64_t n, int64_t k, int64_t pad)
{
    for (int bits = 0; bits < 32; bits++) {
        bool at = bits & 1, bt = bits & 2, accumulate = bits & 4;
        mq_dtype in = bits & 8 ? MQ_BF16 : MQ_F32, out = bits & 16 ? MQ_BF16 : MQ_F32;
        if (out == MQ_BF16 && (in == MQ_F32 || accumulate)) continue;
        mq_gemm_shape s = {.m = m,
                           .n = n,
                           .k = k,
                           .lda = (at ? m : k) + pad,
                           .ldb = (bt ? k : n) + pad,
                           .ldc = n + pad,
                           .in = in,
                           .out = out,
                           .a_trans = at,
                           .b_trans = bt,
                           .accumulate = accumulate};
        check_product(run, &s, false);
        if (!accumulate) check_product(run, &s, true);
    }
}

static void check_sizes(product run)
{
    static const int64_t sizes[][3] = {{1, 1, 1},   {1, 17, 5},   {3, 1, 64},  {2, 3, 1},
                                       {7, 65, 33}, {64, 64, 64}, {65, 70, 40}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_size(run, sizes[i][0], sizes[i][1], sizes[i][2], 0);
        check_size(run, sizes[i][0], sizes[i][1], sizes[i][2], 9);
    }
}

static void test_gemm(void **state)
{
    (void)state;
    check_sizes(mq_gemm_bias);
    check_size(mq_gemm_bias, 5, 6, 0, 0); /* an empty sum */
}

static void test_blas(void **state)
{
    (void)state;
    check_sizes(mq_gemm_blas);
    /* past a tile in every direction */
    const mq_gemm_shape s = {.m = 515,
                             .n = 517,
                             .k = 2050,
                             .lda = 2050,
                             .ldb = 2050,
                             .ldc = 520,
                             .in = MQ_BF16,
                             .out = MQ_BF16,
                             .b_trans = true};
    mq_gemm_shape small_n = s;
    small_n.n = 3;
    mq_gemm_shape small_m = s;
    small_m.m = 3;
    check_product(mq_gemm_blas, &small_n, true);
    check_product(mq_gemm_blas, &small_m, true);
}

static void test_nan_inf(void **state)
{
    (void)state;
    enum { N = 64 };
    const mq_gemm_shape s = {.m = N,
                             .n = N,
                             .k = N,
                             .lda = N,
                             .ldb = N,
                             .ldc = N,
                             .in = MQ_BF16,
                             .out = MQ_F32,
                             .b_trans = true};
    uint16_t *a = test_array(1, N * N, 1, MQ_BF16), *b = test_array(2, N * N, 1, MQ_BF16);
    float *c = test_array(3, N * N, 1, MQ_F32);
    a[3 * N + 5] = 0x7FC0; /* NaN */
    a[9 * N + 1] = 0x7F80; /* inf */
    assert_int_equal(mq_gemm(&s, a, b, c), MQ_OK);
    for (int j = 0; j < N; j++) {
        assert_true(isnan(c[3 * N + j]));
        assert_true(isinf(c[9 * N + j]));
        assert_true(isfinite(c[4 * N + j]));
    }
    free(a), free(b), free(c);
}

static void test_refused(void **state)
{
    (void)state;
    float x[4] = {0};
    mq_gemm_shape s = {
        .m = 2, .n = 2, .k = 2, .lda = 2, .ldb = 2, .ldc = 2, .in = MQ_F32, .out = MQ_F32};
    mq_gemm_shape bad = s;
    bad.lda = 1;
    assert_int_equal(mq_gemm(&bad, x, x, x), MQ_E_INTERNAL);
    assert_non_null(strstr(mq_message(), "2 x 2 x 2"));
    bad = s;
    bad.out = MQ_BF16;
    assert_int_equal(mq_gemm(&bad, x, x, x), MQ_E_INTERNAL);
    bad = s;
    bad.k = -1;
    assert_int_equal(mq_gemm(&bad, x, x, x), MQ_E_INTERNAL);
}

/* A product made and run in another thread has the bits of one made and run here. */
typedef struct job {
    mq_gemm_shape shape;
    const void *a, *b;
    float *c;
    mq_status status;
} job;

static void *run_job(void *p)
{
    job *j = p;
    j->status = mq_gemm(&j->shape, j->a, j->b, j->c);
    mq_scratch_free();
    return NULL;
}

static void test_threads_share_products(void **state)
{
    (void)state;
    enum { M = 100, N = 200, K = 300 };
    void *a = test_array(1, M * K, 1, MQ_BF16), *b = test_array(2, N * K, 1, MQ_BF16);
    float *c[3];
    for (int i = 0; i < 3; i++) c[i] = test_array(3, M * N, 1, MQ_F32);
    job j = {.shape = {.m = M,
                       .n = N,
                       .k = K,
                       .lda = K,
                       .ldb = K,
                       .ldc = N,
                       .in = MQ_BF16,
                       .out = MQ_F32,
                       .b_trans = true},
             .a = a,
             .b = b};
    mq_ops_stop(); /* empties the cache, so that the other thread makes the product */
    pthread_t thread;
    j.c = c[0];
    assert_int_equal(pthread_create(&thread, NULL, run_job, &j), 0);
    pthread_join(thread, NULL);
    assert_int_equal(j.status, MQ_OK);
    assert_int_equal(mq_gemm(&j.shape, a, b, c[1]), MQ_OK);
    mq_ops_stop();
    assert_int_equal(mq_gemm(&j.shape, a, b, c[2]), MQ_OK);
    assert_memory_equal(c[0], c[1], M * N * sizeof(float));
    assert_memory_equal(c[0], c[2], M * N * sizeof(float));
    for (int i = 0; i < 3; i++) free(c[i]);
    free(a), free(b);
}

#ifdef MQ_WITH_DNNL
/* More shapes than the cache holds, from all threads at once. */
static mq_status many_shapes(void *context, int64_t i)
{
    (void)context;
    int64_t k = 1 + i / 2; /* every shape twice */
    float a[2048], b[2048], c = 0;
    for (int64_t l = 0; l < k; l++) a[l] = 1, b[l] = 1;
    const mq_gemm_shape s = {.m = 1,
                             .n = 1,
                             .k = k,
                             .lda = k,
                             .ldb = k,
                             .ldc = 1,
                             .in = MQ_F32,
                             .out = MQ_F32,
                             .b_trans = true};
    MQ_TRY(mq_gemm(&s, a, b, &c));
    if (c != (float)k) return mq_fail(MQ_E_INTERNAL, "sum of %d ones is %g", (int)k, (double)c);
    return MQ_OK;
}

static void test_cache_is_bounded(void **state)
{
    (void)state;
    assert_int_equal(mq_ops_start(3, ""), MQ_OK);
    int64_t capacity = mq_gemm_dnnl_capacity();
    mq_status status = mq_parallel_for(2 * (capacity + 100), many_shapes, NULL);
    if (status != MQ_OK) fail_msg("%s", mq_message());
    assert_in_range(mq_gemm_dnnl_cached(), 1, capacity);
    mq_ops_stop();
    assert_int_equal(mq_gemm_dnnl_cached(), 0);
}
#endif

int main(void)
{
    if (mq_ops_start(1, "") != MQ_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_blas),
        cmocka_unit_test(test_nan_inf),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_threads_share_products),
#ifdef MQ_WITH_DNNL
        cmocka_unit_test(test_cache_is_bounded),
#endif
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_ops_stop();
    return failed;
}
