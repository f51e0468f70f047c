#include "test_ops_util.h"

#include "ops/naive.h"
#include "ops/ops.h"

/* Attention against the naive loops. In F32 the error is that of the products and of exp: scores of
 * magnitude 4 or so, hence 1e-5. In BF16 probabilities are rounded once (2^-8 relative each, so at
 * most 2^-8 max|v| in the sum, and |v| < 1) and the output once. */

typedef struct layout {
    int64_t heads, kv_heads, d, pad; /* pad widens the strides of q, k, v and out */
    int64_t window;
    double cap;
    int64_t chunk;
    bool sink, factor;
} layout;

typedef struct data {
    mq_attention_shape shape;
    void *q, *k, *v, *out;
    float *want, *sink, *factor;
    int64_t n_tok;
} data;

static data make_data(const layout *l, int64_t n_tok, mq_dtype dtype)
{
    data x = {.n_tok = n_tok};
    x.shape = (mq_attention_shape){.n_heads = l->heads,
                                   .n_kv_heads = l->kv_heads,
                                   .head_dim = l->d,
                                   .ld_q = l->heads * l->d + l->pad,
                                   .ld_k = l->kv_heads * l->d + 2 * l->pad,
                                   .ld_v = l->kv_heads * l->d + 3 * l->pad,
                                   .ld_out = l->heads * l->d + l->pad,
                                   .scale = 1 / sqrt((double)l->d),
                                   .cap = l->cap,
                                   .window = l->window,
                                   .chunk = l->chunk};
    /* Sinks between those that take nearly all and nearly nothing; factors around 1. */
    x.sink = test_array(5, l->heads, 8, MQ_F32);
    x.factor = test_array(6, n_tok, 0.5, MQ_F32);
    for (int64_t t = 0; t < n_tok; t++) x.factor[t] += 1;
    x.shape.sink = l->sink ? x.sink : NULL;
    x.shape.query_factor = l->factor ? x.factor : NULL;
    x.q = test_array(1, n_tok * x.shape.ld_q, 4, dtype); /* peaked and flat rows both */
    x.k = test_array(2, n_tok * x.shape.ld_k, 1, dtype);
    x.v = test_array(3, n_tok * x.shape.ld_v, 1, dtype);
    x.out = test_array(4, n_tok * x.shape.ld_out, 1, dtype);
    x.want = test_exact(x.out, n_tok * x.shape.ld_out, dtype);
    return x;
}

static void naive(const data *x, const int64_t *offset, int64_t n, mq_dtype dtype)
{
    const mq_attention_shape *s = &x->shape;
    float *q = test_exact(x->q, x->n_tok * s->ld_q, dtype);
    float *k = test_exact(x->k, x->n_tok * s->ld_k, dtype);
    float *v = test_exact(x->v, x->n_tok * s->ld_v, dtype);
    assert_int_equal(mq_naive_attention(s, q, k, v, offset, n, x->want, MQ_F32), MQ_OK);
    free(q), free(k), free(v);
}

static void free_data(data *x)
{
    free(x->q), free(x->k), free(x->v), free(x->out), free(x->want);
    free(x->sink), free(x->factor);
}

static void run(const data *x, const int64_t *offset, int64_t n, void *out, mq_dtype dtype)
{
    if (mq_attention(&x->shape, x->q, x->k, x->v, offset, n, out, dtype) != MQ_OK) {
        fail_msg("%s", mq_message());
    }
}

static void check(const layout *l, const int64_t *offset, int64_t n, mq_dtype dtype)
{
    data x = make_data(l, offset[n], dtype);
    int64_t n_out = x.n_tok * x.shape.ld_out;
    naive(&x, offset, n, dtype);
    run(&x, offset, n, x.out, dtype);
    double bound = dtype == MQ_BF16 ? 0x1p-8 : 1e-5;
    test_all_near(x.out, dtype, x.want, n_out, bound, dtype == MQ_BF16 ? TEST_BF16 : 0,
                  "attention");
    free_data(&x);
}

/* Lengths around the block of 128, an empty sample, and all of them in one unit. */
static void test_lengths(void **state)
{
    (void)state;
    static const int64_t offset[] = {0, 1, 8, 8, 135, 263, 392, 692};
    static const layout layouts[] = {{.heads = 1, .kv_heads = 1, .d = 8},
                                     {.heads = 4, .kv_heads = 2, .d = 24},
                                     {.heads = 3, .kv_heads = 1, .d = 16, .pad = 5},
                                     {.heads = 4, .kv_heads = 1, .d = 5, .pad = 1, .window = 64},
                                     {.heads = 2, .kv_heads = 2, .d = 16, .window = 1},
                                     {.heads = 2, .kv_heads = 1, .d = 80, .window = 200},
                                     {.heads = 1, .kv_heads = 1, .d = 1, .window = 1000}};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        check(&layouts[i], offset, 7, MQ_F32);
        check(&layouts[i], offset, 7, MQ_BF16);
    }
}

/* Scores of up to 4 or so, capped by far, a little and hardly at all. */
static void test_soft_cap(void **state)
{
    (void)state;
    static const int64_t offset[] = {0, 1, 130, 330};
    static const layout layouts[] = {
        {.heads = 2, .kv_heads = 1, .d = 16, .cap = 0.5},
        {.heads = 4, .kv_heads = 2, .d = 24, .pad = 3, .window = 50, .cap = 5},
        {.heads = 1, .kv_heads = 1, .d = 8, .cap = 50}};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        check(&layouts[i], offset, 3, MQ_F32);
        check(&layouts[i], offset, 3, MQ_BF16);
    }
}

/* Windows and chunks from one token to more than a block of queries, at lengths on both sides. */
static void test_windows_and_chunks(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 63, 64, 65, 128, 257, 1000};
    static const int64_t offset[] = {0, 1, 3, 66, 130, 195, 452};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const layout window = {.heads = 2, .kv_heads = 1, .d = 6, .window = sizes[i]};
        const layout chunk = {.heads = 2, .kv_heads = 1, .d = 6, .pad = 3, .chunk = sizes[i]};
        layout both = chunk;
        both.window = 50;
        both.sink = true;
        for (int type = 0; type < 2; type++) {
            check(&window, offset, 6, type ? MQ_BF16 : MQ_F32);
            check(&chunk, offset, 6, type ? MQ_BF16 : MQ_F32);
            check(&both, offset, 6, type ? MQ_BF16 : MQ_F32);
        }
    }
}

/* Heads of v that are smaller and larger than those of q and k, with all else that matters. */
static void test_value_dim(void **state)
{
    (void)state;
    static const int64_t offset[] = {0, 1, 130, 330};
    static const int64_t value_dim[] = {1, 16, 25, 40};
    const layout l = {.heads = 4, .kv_heads = 2, .d = 24, .pad = 64, .window = 50, .cap = 5};
    for (size_t i = 0; i < sizeof value_dim / sizeof *value_dim; i++) {
        for (int type = 0; type < 2; type++) {
            mq_dtype dtype = type ? MQ_BF16 : MQ_F32;
            data x = make_data(&l, 330, dtype);
            x.shape.value_dim = value_dim[i];
            naive(&x, offset, 3, dtype);
            run(&x, offset, 3, x.out, dtype);
            test_all_near(x.out, dtype, x.want, 330 * x.shape.ld_out, type ? 0x1p-8 : 1e-5,
                          type ? TEST_BF16 : 0, "attention");
            free_data(&x);
        }
    }
}

/* Alone, with all else, and with more keys than one chunk of the kernel holds. */
static void test_sinks_and_factors(void **state)
{
    (void)state;
    static const int64_t offset[] = {0, 1, 64, 321, 321}, far[] = {0, 1300};
    const layout sink = {.heads = 4, .kv_heads = 2, .d = 8, .sink = true};
    const layout factor = {.heads = 3, .kv_heads = 3, .d = 5, .pad = 1, .factor = true};
    const layout all = {.heads = 4,
                        .kv_heads = 1,
                        .d = 16,
                        .pad = 2,
                        .window = 40,
                        .cap = 2,
                        .chunk = 100,
                        .sink = true,
                        .factor = true};
    layout wide = {.heads = 1, .kv_heads = 1, .d = 4, .sink = true, .factor = true};
    for (int type = 0; type < 2; type++) {
        mq_dtype dtype = type ? MQ_BF16 : MQ_F32;
        check(&sink, offset, 4, dtype);
        check(&factor, offset, 4, dtype);
        check(&all, offset, 4, dtype);
        check(&wide, far, 1, dtype);
    }
    wide.chunk = 1200;
    check(&wide, far, 1, MQ_F32);
}

/* torch 2.15: softmax in float64 of the masked scores of two heads with the sink behind them, which
 * is dropped after; chunks of 3, queries times 1 + 0.1 log1p(floor((t + 1) / 2)). */
static void test_numbers(void **state)
{
    (void)state;
    enum { T = 5, HEADS = 2, D = 2 };
    static const int64_t offset[] = {0, T};
    static const float q[] = {-3.046875f, -1.5f,      -1.3125f,  -3.21875f,  1.734375f,
                              0.484375f,  -1.328125f, 1.609375f, 0.875f,     2.34375f,
                              3.53125f,   -0.1875f,   0.125f,    -1.234375f, -1.59375f,
                              -0.265625f, -1.59375f,  0.671875f, 0.546875f,  3.4375f};
    static const float k[] = {-3.140625f, -0.25f,   7.171875f,  -3.65625f, 3.203125f,
                              -2.546875f, 0.65625f, -0.953125f, 2.765625f, 5.0625f};
    static const float v[] = {0.828125f,  -1.96875f, -1.8125f,  1.078125f, 0.21875f,
                              -4.515625f, 1.21875f,  -0.28125f, 1.65625f,  -0.5f};
    static const float sink[] = {0.5f, -1},
                       factor[] = {1, 1.06931472f, 1.06931472f, 1.10986125f, 1.10986125f};
    static const double want[] = {0.818771421,  -1.94651319,  0.802972884, -1.9089544,
                                  -1.8021471,   1.0717175,    0.789321063, -1.87660761,
                                  -0.153476254, -0.368600874, -1.81148766, 1.07533849,
                                  0.669629034,  -0.154529777, 0.775702712, -0.179008318,
                                  0.545569163,  -0.151688344, 1.65623077,  -0.499993719};
    float exact[T * HEADS * D], out[T * HEADS * D];
    const mq_attention_shape shape = {.n_heads = HEADS,
                                      .n_kv_heads = 1,
                                      .head_dim = D,
                                      .ld_q = HEADS * D,
                                      .ld_k = D,
                                      .ld_v = D,
                                      .ld_out = HEADS * D,
                                      .scale = 0.5,
                                      .chunk = 3,
                                      .sink = sink,
                                      .query_factor = factor};
    assert_int_equal(mq_naive_attention(&shape, q, k, v, offset, 1, exact, MQ_F32), MQ_OK);
    assert_int_equal(mq_attention(&shape, q, k, v, offset, 1, out, MQ_F32), MQ_OK);
    for (int i = 0; i < T * HEADS * D; i++) {
        test_near((double)exact[i], want[i], 1e-7, 1e-7, "naive", i);
        test_near((double)out[i], want[i], 3e-6, 0, "attention", i);
    }
}

/* A sink that nothing reaches leaves nothing, one of -inf is none, one of +inf or NaN is NaN. */
static void test_odd_sinks(void **state)
{
    (void)state;
    enum { HEADS = 5, T = 3 };
    const int64_t offset[] = {0, T};
    const float sink[HEADS] = {200, -INFINITY, INFINITY, NAN, -200};
    float x[T * HEADS], out[T * HEADS];
    for (int i = 0; i < T * HEADS; i++) x[i] = 1;
    const mq_attention_shape shape = {.n_heads = HEADS,
                                      .n_kv_heads = HEADS,
                                      .head_dim = 1,
                                      .ld_q = HEADS,
                                      .ld_k = HEADS,
                                      .ld_v = HEADS,
                                      .ld_out = HEADS,
                                      .scale = 1,
                                      .sink = sink};
    assert_int_equal(mq_attention(&shape, x, x, x, offset, 1, out, MQ_F32), MQ_OK);
    for (int t = 0; t < T; t++) {
        const float *row = out + t * HEADS;
        assert_true(row[0] >= 0 && row[0] < 1e-37f);
        assert_true(row[1] == 1 && row[4] == 1);
        assert_true(isnan(row[2]) && isnan(row[3]));
    }
}

/* tanh itself, on both sides of where its two forms meet. */
static void test_tanh(void **state)
{
    (void)state;
    for (int i = -4000; i <= 4000; i++) {
        float x = (float)i * 0.0013f, y = x;
        mq_soft_cap(&y, 1, 2, 2);
        double want = 2 * tanh((double)x);
        assert_true(fabs((double)y - want) <= 3e-7 * fabs(want));
    }
    float odd[3] = {INFINITY, -INFINITY, NAN};
    mq_soft_cap(odd, 3, 1, 30);
    assert_true(odd[0] == 30 && odd[1] == -30 && isnan(odd[2]));
}

/* More keys than a chunk holds: the running maximum at work, with and without a window. */
static void test_long(void **state)
{
    (void)state;
    static const int64_t offset[] = {0, 1300};
    const layout whole = {.heads = 1, .kv_heads = 1, .d = 4},
                 windowed = {.heads = 1, .kv_heads = 1, .d = 4, .window = 1100};
    check(&whole, offset, 1, MQ_F32);
    check(&whole, offset, 1, MQ_BF16);
    check(&windowed, offset, 1, MQ_F32);
}

/* Scores that rise along the keys make every chunk correct what came before. */
static void test_rising_scores(void **state)
{
    (void)state;
    enum { T = 1300, D = 4 };
    const int64_t offset[] = {0, T};
    const layout l = {.heads = 1, .kv_heads = 1, .d = D};
    data x = make_data(&l, T, MQ_F32);
    for (int t = 0; t < T; t++) {
        for (int i = 0; i < D; i++) {
            ((float *)x.q)[t * D + i] = 1;
            ((float *)x.k)[t * D + i] = (float)t * 0.05f;
        }
    }
    naive(&x, offset, 1, MQ_F32);
    run(&x, offset, 1, x.out, MQ_F32);
    test_all_near(x.out, MQ_F32, x.want, T * D, 1e-4, 0, "rising scores");
    free_data(&x);
}

static void test_threads(void **state)
{
    (void)state;
    static const int64_t offset[] = {0, 300, 307, 700};
    const layout l = {.heads = 6,
                      .kv_heads = 2,
                      .d = 24,
                      .pad = 3,
                      .window = 150,
                      .chunk = 170,
                      .sink = true,
                      .factor = true};
    for (int type = 0; type < 2; type++) {
        mq_dtype dtype = type ? MQ_BF16 : MQ_F32;
        data x = make_data(&l, 700, dtype);
        int64_t n_out = 700 * x.shape.ld_out;
        void *first = test_copy(x.out, n_out, dtype);
        run(&x, offset, 3, first, dtype);
        for (int threads = 2; threads <= 3; threads++) {
            void *out = test_copy(x.out, n_out, dtype);
            assert_int_equal(mq_ops_start(threads, ""), MQ_OK);
            run(&x, offset, 3, out, dtype);
            assert_memory_equal(out, first, (size_t)n_out * mq_dtype_size(dtype));
            free(out);
        }
        assert_int_equal(mq_ops_start(1, ""), MQ_OK);
        free(first);
        free_data(&x);
    }
}

/* A sample alone has the bits it has among others: samples do not see each other. */
static void test_samples_apart(void **state)
{
    (void)state;
    const layout l = {.heads = 2, .kv_heads = 1, .d = 16};
    const int64_t both[] = {0, 130, 330}, alone[] = {130, 330};
    data x = make_data(&l, 330, MQ_BF16);
    run(&x, both, 2, x.out, MQ_BF16);
    uint16_t *second = test_copy(x.out, 330 * 32, MQ_BF16);
    memset(x.out, 0, 330 * 32 * 2);
    run(&x, alone, 1, x.out, MQ_BF16);
    assert_memory_equal((uint16_t *)x.out + 130 * 32, second + 130 * 32, 200 * 32 * 2);
    free(second);
    free_data(&x);
}

static void test_nan(void **state)
{
    (void)state;
    enum { T = 40, D = 8 };
    const int64_t offset[] = {0, T};
    const layout l = {.heads = 1, .kv_heads = 1, .d = D};
    data x = make_data(&l, T, MQ_BF16);
    uint16_t *q = x.q, *k = x.k, *out = x.out;
    q[5 * D] = 0x7FC0;  /* query 5 is NaN: so is its row alone */
    k[30 * D] = 0x7F80; /* key 30 is inf: scores of +-inf from query 30 on */
    run(&x, offset, 1, x.out, MQ_BF16);
    for (int t = 0; t < T; t++) {
        for (int i = 0; i < D; i++) {
            float v = mq_bf16_to_f32(out[t * D + i]);
            if (t == 5) assert_true(isnan(v));
            if (t != 5 && t < 30) assert_true(isfinite(v));
            /* A score of +inf gives NaN as in PyTorch; one of -inf hides the key. */
            if (t >= 30) assert_int_equal(isnan(v) != 0, mq_bf16_to_f32(q[t * D]) > 0);
        }
    }
    free_data(&x);
}

static void test_all_scores_infinite(void **state)
{
    (void)state;
    const int64_t offset[] = {0, 2};
    float q[2] = {1, 1}, k[2] = {-INFINITY, 0}, v[2] = {7, 3}, out[2];
    const mq_attention_shape shape = {.n_heads = 1,
                                      .n_kv_heads = 1,
                                      .head_dim = 1,
                                      .ld_q = 1,
                                      .ld_k = 1,
                                      .ld_v = 1,
                                      .ld_out = 1,
                                      .scale = 1};
    assert_int_equal(mq_attention(&shape, q, k, v, offset, 1, out, MQ_F32), MQ_OK);
    assert_true(isnan(out[0])); /* nothing but -inf */
    assert_true(out[1] == 3);   /* -inf hides the first key */
}

static void test_refused(void **state)
{
    (void)state;
    const int64_t offset[] = {0, 1}, backwards[] = {1, 0};
    float x[4] = {0};
    mq_attention_shape s = {.n_heads = 3,
                            .n_kv_heads = 2,
                            .head_dim = 1,
                            .ld_q = 3,
                            .ld_k = 2,
                            .ld_v = 2,
                            .ld_out = 3,
                            .scale = 1};
    assert_int_equal(mq_attention(&s, x, x, x, offset, 1, x, MQ_F32), MQ_E_INTERNAL);
    s.n_kv_heads = 3;
    s.scale = NAN;
    assert_int_equal(mq_attention(&s, x, x, x, offset, 1, x, MQ_F32), MQ_E_INTERNAL);
    s.scale = 1;
    s.value_dim = -1;
    assert_int_equal(mq_attention(&s, x, x, x, offset, 1, x, MQ_F32), MQ_E_INTERNAL);
    s.value_dim = 0;
    assert_int_equal(mq_attention(&s, x, x, x, backwards, 1, x, MQ_F32), MQ_E_INTERNAL);
    assert_int_equal(mq_attention(&s, x, x, x, offset, 0, x, MQ_F32), MQ_OK);
}

int main(void)
{
    if (mq_ops_start(1, "") != MQ_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_soft_cap),
        cmocka_unit_test(test_windows_and_chunks),
        cmocka_unit_test(test_sinks_and_factors),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_odd_sinks),
        cmocka_unit_test(test_value_dim),
        cmocka_unit_test(test_tanh),
        cmocka_unit_test(test_rising_scores),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_samples_apart),
        cmocka_unit_test(test_nan),
        cmocka_unit_test(test_all_scores_infinite),
        cmocka_unit_test(test_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_ops_stop();
    return failed;
}
