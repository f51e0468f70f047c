#include "test_ops_util.h"

#include "ops/naive.h"
#include "ops/ops.h"

/* Norms, rotary embedding, gated activations, embedding and log-sum-exp against naive loops; the
 * same bits at 1, 2 and 3 threads; awkward values. f32 bounds: a few 2^-24 per operation; bf16: one
 * rounding on top. */

static const mq_dtype types[] = {MQ_F32, MQ_BF16};

static double rounding(mq_dtype dtype)
{
    return dtype == MQ_BF16 ? TEST_BF16 : 0;
}

static void check_norm(mq_norm_kind kind, int64_t n_tok, int64_t d, double scale, mq_dtype dtype)
{
    void *x = test_array(1, n_tok * d, scale, dtype);
    float *w = test_array(2, d, 1, MQ_F32), *want = test_exact(x, n_tok * d, dtype);
    float *bias = n_tok % 2 ? test_array(3, d, 1, MQ_F32) : NULL;
    mq_naive_norm(kind, want, n_tok, d, w, bias, 1e-5, want, MQ_F32);
    for (int threads = 1; threads <= 3; threads++) {
        void *y = test_copy(x, n_tok * d, dtype); /* in place */
        assert_int_equal(mq_ops_start(threads, ""), MQ_OK);
        assert_int_equal(mq_norm(kind, y, n_tok, d, w, bias, 1e-5, y, dtype), MQ_OK);
        /* A layer norm of a constant row is rounding noise over sqrt(eps): absolute. */
        test_all_near(y, dtype, want, n_tok * d, 2e-6, 2e-6 + rounding(dtype), "norm");
        void *again = malloc((size_t)(n_tok * d) * mq_dtype_size(dtype));
        assert_int_equal(mq_norm(kind, x, n_tok, d, w, bias, 1e-5, again, dtype), MQ_OK);
        assert_memory_equal(y, again, (size_t)(n_tok * d) * mq_dtype_size(dtype));
        free(y), free(again);
    }
    free(x), free(want), free(w), free(bias);
}

static void test_norm(void **state)
{
    (void)state;
    static const int64_t widths[] = {1, 2, 15, 16, 17, 64, 100, 576};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        for (int type = 0; type < 2; type++) {
            check_norm(MQ_NORM_RMS, 1, widths[i], 1, types[type]);
            check_norm(MQ_NORM_RMS, 130, widths[i], 30, types[type]);
            check_norm(MQ_NORM_RMS, 3, widths[i], 1e-3, types[type]);
            check_norm(MQ_NORM_RMS, 3, widths[i], 0, types[type]);
            check_norm(MQ_NORM_LAYER, 130, widths[i], 1, types[type]);
            check_norm(MQ_NORM_LAYER, 2, widths[i], 0, types[type]);
        }
    }
}

static void test_norm_awkward(void **state)
{
    (void)state;
    enum { D = 20 };
    float x[4 * D], y[4 * D], w[D];
    for (int j = 0; j < 4 * D; j++) x[j] = 1;
    for (int j = 0; j < D; j++) w[j] = 1;
    x[0 * D + 19] = NAN;
    x[1 * D + 3] = INFINITY;
    for (int j = 0; j < D; j++) x[2 * D + j] = 1e-42f; /* subnormal */
    assert_int_equal(mq_norm(MQ_NORM_RMS, x, 4, D, w, NULL, 1e-6, y, MQ_F32), MQ_OK);
    for (int j = 0; j < D; j++) {
        assert_true(isnan(y[j]));
        assert_true(j == 3 ? isnan(y[D + j]) : y[D + j] == 0);
        test_near((double)y[2 * D + j], 1e-39, 2e-42, 0, "subnormal", j);
        test_near((double)y[3 * D + j], 1, 1e-6, 0, "ones", j);
    }
}

/* Each head is a row of mq_norm; what lies between rows stays. */
static void check_norm_heads(mq_norm_kind kind, bool per_head, mq_dtype dtype)
{
    enum { T = 70, H = 3, D = 24, LD = H * D + 5 };
    void *x = test_array(1, T * LD, 2, dtype), *before = test_copy(x, T * LD, dtype);
    float *w = test_array(2, H * D, 1, MQ_F32);
    assert_int_equal(mq_norm_heads(kind, x, T, LD, H, D, w, per_head, 1e-6, dtype), MQ_OK);
    for (int t = 0; t < T; t++) {
        for (int h = 0; h < H; h++) {
            float head[D], want[D];
            for (int j = 0; j < D; j++) head[j] = test_get(before, t * LD + h * D + j, dtype);
            mq_naive_norm(kind, head, 1, D, w + (per_head ? h * D : 0), NULL, 1e-6, want, MQ_F32);
            for (int j = 0; j < D; j++) {
                test_near((double)test_get(x, t * LD + h * D + j, dtype), (double)want[j], 2e-6,
                          2e-6 + rounding(dtype), "head", t);
            }
        }
        for (int j = H * D; j < LD; j++) {
            assert_true(test_get(x, t * LD + j, dtype) == test_get(before, t * LD + j, dtype));
        }
    }
    free(x), free(before), free(w);
}

static void test_norm_heads(void **state)
{
    (void)state;
    for (int bits = 0; bits < 8; bits++) {
        check_norm_heads(bits & 1 ? MQ_NORM_LAYER : MQ_NORM_RMS, bits & 2, types[bits >> 2]);
    }
}

/* Three positions a token that are the same are one. */
static void check_same_axes(const void *x, int64_t n_tok, int64_t ld, int64_t heads, int64_t d,
                            int64_t dim, const float *table, const int32_t *position,
                            bool interleaved, mq_dtype dtype, const void *want)
{
    void *got = test_copy(x, n_tok * ld, dtype);
    int32_t *three = malloc((size_t)(3 * n_tok) * sizeof *three);
    uint8_t axis[64];
    for (int64_t t = 0; t < 3 * n_tok; t++) three[t] = position[t / 3];
    for (int i = 0; i < 64; i++) axis[i] = (uint8_t)(i % 3);
    assert_true(dim <= 128);
    assert_int_equal(
        mq_rope_axes(got, n_tok, ld, heads, d, dim, table, three, 3, axis, interleaved, dtype),
        MQ_OK);
    assert_memory_equal(got, want, (size_t)(n_tok * ld) * mq_dtype_size(dtype));
    free(got), free(three);
}

static void check_rope_part(int64_t n_tok, int64_t heads, int64_t d, int64_t dim, int64_t pad,
                            bool interleaved, mq_dtype dtype)
{
    enum { POSITIONS = 40 };
    int64_t ld = heads * d + pad, n = n_tok * ld;
    float *table = malloc((size_t)(POSITIONS * dim) * sizeof *table);
    int32_t *position = malloc((size_t)n_tok * sizeof *position);
    for (int64_t p = 0; p < POSITIONS; p++) {
        for (int64_t i = 0; i < dim / 2; i++) {
            double angle = (double)p * pow(10000, -2.0 * (double)i / (double)dim);
            table[p * dim + i] = (float)cos(angle);
            table[p * dim + dim / 2 + i] = (float)sin(angle);
        }
    }
    for (int64_t t = 0; t < n_tok; t++) position[t] = (int32_t)(t * 7 % POSITIONS);
    void *x = test_array(1, n, 1, dtype), *first = NULL;
    float *want = test_exact(x, n, dtype);
    mq_naive_rope(want, n_tok, ld, heads, d, dim, table, position, interleaved, MQ_F32);
    for (int threads = 1; threads <= 3; threads++) {
        void *got = test_copy(x, n, dtype);
        assert_int_equal(mq_ops_start(threads, ""), MQ_OK);
        assert_int_equal(
            mq_rope(got, n_tok, ld, heads, d, dim, table, position, interleaved, dtype), MQ_OK);
        test_all_near(got, dtype, want, n, 2e-7, rounding(dtype), "rope");
        if (!first) first = test_copy(got, n, dtype);
        assert_memory_equal(got, first, (size_t)n * mq_dtype_size(dtype));
        free(got);
    }
    check_same_axes(x, n_tok, ld, heads, d, dim, table, position, interleaved, dtype, first);
    free(table), free(position), free(x), free(want), free(first);
}

/* All of a head, and the first of its pairs alone. */
static void check_rope(int64_t n_tok, int64_t heads, int64_t d, int64_t pad, bool interleaved,
                       mq_dtype dtype)
{
    check_rope_part(n_tok, heads, d, d, pad, interleaved, dtype);
    check_rope_part(n_tok, heads, d, d / 4 * 2, pad, interleaved, dtype);
}

/* Turning the last coordinates of heads leaves those before them, and what lies behind a row. */
static void test_rope_at_the_end(void **state)
{
    (void)state;
    enum { T = 130, HEADS = 3, D = 10, DIM = 4, N = T * HEADS * D };
    int32_t position[T];
    float *x = test_array(1, N + 1, 1, MQ_F32), *want = test_array(1, N + 1, 1, MQ_F32);
    float *table = test_array(2, T * DIM, 1, MQ_F32);
    for (int t = 0; t < T; t++) position[t] = t;
    assert_int_equal(
        mq_rope(x + D - DIM, T, HEADS * D, HEADS, D, DIM, table, position, true, MQ_F32), MQ_OK);
    mq_naive_rope(want + D - DIM, T, HEADS * D, HEADS, D, DIM, table, position, true, MQ_F32);
    test_all_near(x, MQ_F32, want, N, 2e-7, 0, "rope");
    assert_true(x[N] == want[N]);
    free(x), free(want), free(table);
}

static void check_split_keys(mq_dtype dtype)
{
    enum { T = 70, HEADS = 3, NOPE = 4, V = 6, ROPE = 2 };
    void *kv = test_array(1, (int64_t)T * HEADS * (NOPE + V), 1, dtype);
    void *shared = test_array(2, (int64_t)T * ROPE, 1, dtype);
    void *k = test_array(3, (int64_t)T * HEADS * (NOPE + ROPE), 1, dtype);
    float *from = test_exact(kv, (int64_t)T * HEADS * (NOPE + V), dtype);
    float *part = test_exact(shared, (int64_t)T * ROPE, dtype);
    assert_int_equal(mq_split_keys(kv, T, HEADS, NOPE, V, shared, ROPE, k, dtype), MQ_OK);
    float *keys = test_exact(k, (int64_t)T * HEADS * (NOPE + ROPE), dtype);
    float *values = test_exact(kv, (int64_t)T * HEADS * (NOPE + V), dtype);
    for (int64_t i = 0; i < T * HEADS; i++) {
        int64_t t = i / HEADS, h = i % HEADS;
        const float *key = keys + i * (NOPE + ROPE), *head = from + i * (NOPE + V);
        assert_memory_equal(key, head, NOPE * sizeof *key);
        assert_memory_equal(key + NOPE, part + t * ROPE, ROPE * sizeof *key);
        assert_memory_equal(values + t * HEADS * (NOPE + V) + h * V, head + NOPE, V * sizeof *key);
    }
    free(kv), free(shared), free(k), free(from), free(part), free(keys), free(values);
}

static void test_split_keys(void **state)
{
    (void)state;
    check_split_keys(MQ_BF16);
    check_split_keys(MQ_F32);
}

static void test_rope(void **state)
{
    (void)state;
    for (int bits = 0; bits < 4; bits++) {
        mq_dtype dtype = types[bits & 1];
        check_rope(1, 1, 2, 0, bits & 2, dtype);
        check_rope(3, 2, 6, 4, bits & 2, dtype);
        check_rope(200, 3, 64, 0, bits & 2, dtype);
        check_rope(65, 1, 80, 80, bits & 2, dtype);
    }
}

static void check_gated(mq_activation act, int64_t n_tok, int64_t d, int64_t pad, double size,
                        mq_dtype dtype)
{
    int64_t ld_gate = d + pad, ld_up = d + 2 * pad;
    void *gate = test_array(1, n_tok * ld_gate, size, dtype);
    void *up = test_array(2, n_tok * ld_up, 1, dtype), *first = NULL;
    float *want = malloc((size_t)(n_tok * d) * sizeof *want);
    float *gate_exact = test_exact(gate, n_tok * ld_gate, dtype);
    float *up_exact = test_exact(up, n_tok * ld_up, dtype);
    mq_naive_gated(act, gate_exact, ld_gate, up_exact, ld_up, n_tok, d, want, MQ_F32);
    for (int threads = 1; threads <= 3; threads++) {
        void *y = test_array(3, n_tok * d, 1, dtype);
        assert_int_equal(mq_ops_start(threads, ""), MQ_OK);
        assert_int_equal(mq_gated(act, gate, ld_gate, up, ld_up, n_tok, d, y, dtype), MQ_OK);
        /* In the tail exp magnifies the rounding of its argument; the reference's 1 + tanh(u)
         * cancels there to a few 1e-16. */
        double absolute = act.kind == MQ_GELU_TANH ? 2e-15 : 1e-24;
        /* u + 1 cancels near up = -1. */
        if (act.kind == MQ_CLIPPED_SWIGLU) absolute = 1e-6;
        test_all_near(y, dtype, want, n_tok * d, absolute, 1e-5 + rounding(dtype), "gated");
        if (!first) first = test_copy(y, n_tok * d, dtype);
        assert_memory_equal(y, first, (size_t)(n_tok * d) * mq_dtype_size(dtype));
        free(y);
    }
    free(gate), free(up), free(gate_exact), free(up_exact), free(want), free(first);
}

static void test_gated(void **state)
{
    (void)state;
    static const mq_activation acts[] = {
        {.kind = MQ_SILU},    {.kind = MQ_GELU_TANH},        {.kind = MQ_GELU_ERF},
        {.kind = MQ_SIGMOID}, {MQ_CLIPPED_SWIGLU, 7, 1.702}, {MQ_CLIPPED_SWIGLU, 0.5, 1}};
    for (size_t kind = 0; kind < sizeof acts / sizeof *acts; kind++) {
        for (int type = 0; type < 2; type++) {
            check_gated(acts[kind], 1, 1, 0, 3, types[type]);
            check_gated(acts[kind], 3, 513, 0, 3, types[type]);
            check_gated(acts[kind], 130, 40, 7, 8, types[type]);
            check_gated(acts[kind], 2, 100, 0, 1e-3, types[type]);
        }
    }
}

static void test_gated_awkward(void **state)
{
    (void)state;
    enum { N = 8 };
    const float gate[N] = {0, -0.0f, INFINITY, 100, -100, NAN, 1e-44f, -300};
    float up[N], y[N];
    for (int j = 0; j < N; j++) up[j] = 1;
    for (int kind = MQ_SILU; kind <= MQ_GELU_ERF; kind++) {
        const mq_activation act = {.kind = (mq_activation_kind)kind};
        assert_int_equal(mq_gated(act, gate, N, up, N, 1, N, y, MQ_F32), MQ_OK);
        assert_true(y[0] == 0 && y[1] == 0 && signbit(y[1]));
        assert_true(y[2] == INFINITY && y[3] == 100);
        assert_true(fabsf(y[4]) < 1e-30f && fabsf(y[7]) < 1e-30f);
        assert_true(isnan(y[5]));
        assert_true(fabsf(y[6]) <= 1e-44f);
    }
}

/* torch 2.15 on float64: g = clamp(gate, max=limit), u = clamp(up, -limit, limit),
 * (u + 1) g sigmoid(slope g). */
static void test_clipped_swiglu_numbers(void **state)
{
    (void)state;
    enum { N = 10 };
    static const float gate[N] = {-9, -2.5f, -0.5f, 0, 0.25f, 3, 6.5f, 7, 7.5f, 40};
    static const float up[N] = {0.5f, -8, 7.25f, -1, 3, -0.75f, -7, 9, 1.5f, 0};
    static const struct {
        mq_activation act;
        double want[N];
    } cases[] = {{{MQ_CLIPPED_SWIGLU, 7, 1.702},
                  {-3.00476698e-06, 0.20991699, -1.19689251, 0, 0.6047986, 0.745482173, -38.9993884,
                   55.999625, 17.4998828, 6.99995313}},
                 {{MQ_CLIPPED_SWIGLU, 2, 1},
                  {-0.00166582678, 0.18964545, -0.566311003, 0, 0.421632376, 0.440398539,
                   -1.76159416, 5.28478247, 4.40398539, 1.76159416}}};
    for (int c = 0; c < 2; c++) {
        float y[N], exact[N];
        mq_naive_gated(cases[c].act, gate, N, up, N, 1, N, exact, MQ_F32);
        assert_int_equal(mq_gated(cases[c].act, gate, N, up, N, 1, N, y, MQ_F32), MQ_OK);
        for (int j = 0; j < N; j++) {
            test_near((double)exact[j], cases[c].want[j], 0, 1e-7, "naive", j);
            test_near((double)y[j], cases[c].want[j], 0, 1e-6, "clipped", j);
        }
    }
}

static void test_clipped_swiglu_awkward(void **state)
{
    (void)state;
    enum { N = 6 };
    const mq_activation act = {MQ_CLIPPED_SWIGLU, 7, 1.702};
    const float gate[N] = {INFINITY, -INFINITY, NAN, 1, 1, 1};
    const float up[N] = {1, 1, 1, NAN, INFINITY, -INFINITY};
    float y[N], once = 0, one = 1;
    assert_int_equal(mq_gated(act, gate, N, up, N, 1, N, y, MQ_F32), MQ_OK);
    assert_true(fabsf(y[0] - 14) < 1e-3f);
    assert_true(isnan(y[1])); /* -inf * 0, as in PyTorch */
    assert_true(isnan(y[2]) && isnan(y[3]));
    assert_int_equal(mq_gated(act, &one, 1, NULL, 1, 1, 1, &once, MQ_F32), MQ_OK);
    assert_true(fabsf(y[4] - 8 * once) < 1e-5f && fabsf(y[5] + 6 * once) < 1e-5f);
}

/* y may be what is gated. */
static void test_gated_in_place(void **state)
{
    (void)state;
    enum { T = 70, D = 40, LD = 100 };
    const mq_activation act = {.kind = MQ_SIGMOID};
    for (int type = 0; type < 2; type++) {
        void *gate = test_array(1, T * LD, 3, types[type]),
             *x = test_array(2, T * D, 1, types[type]);
        void *y = test_copy(x, T * D, types[type]);
        assert_int_equal(mq_gated(act, gate, LD, x, D, T, D, y, types[type]), MQ_OK);
        assert_int_equal(mq_gated(act, gate, LD, x, D, T, D, x, types[type]), MQ_OK);
        assert_memory_equal(x, y, (size_t)(T * D) * mq_dtype_size(types[type]));
        free(gate), free(x), free(y);
    }
}

static void check_split_gates(int64_t n_tok, int64_t n_heads, int64_t d, int64_t rest,
                              mq_dtype dtype)
{
    int64_t ld = 2 * n_heads * d + rest, n = n_tok * ld;
    void *x = test_array(1, n, 1, dtype), *want = test_array(2, n, 1, dtype);
    mq_naive_split_gates(x, n_tok, ld, n_heads, d, want, dtype);
    for (int threads = 1; threads <= 3; threads++) {
        void *y = test_copy(x, n, dtype);
        assert_int_equal(mq_ops_start(threads, ""), MQ_OK);
        assert_int_equal(mq_split_gates(y, n_tok, ld, n_heads, d, dtype), MQ_OK);
        assert_memory_equal(y, want, (size_t)n * mq_dtype_size(dtype));
        free(y);
    }
    assert_int_equal(mq_ops_start(1, ""), MQ_OK);
    free(x), free(want);
}

static void test_split_gates(void **state)
{
    (void)state;
    for (int type = 0; type < 2; type++) {
        check_split_gates(1, 1, 1, 0, types[type]);
        check_split_gates(3, 1, 24, 5, types[type]);
        check_split_gates(64, 2, 5, 0, types[type]);
        check_split_gates(65, 5, 3, 7, types[type]);
        check_split_gates(257, 4, 16, 64, types[type]);
        check_split_gates(0, 4, 16, 64, types[type]);
    }
}

/* A norm without weights is one with ones. */
static void test_norm_heads_unweighted(void **state)
{
    (void)state;
    enum { T = 70, HEADS = 3, D = 21, LD = HEADS * D + 4 };
    float ones[HEADS * D];
    for (int i = 0; i < HEADS * D; i++) ones[i] = 1;
    for (int bits = 0; bits < 4; bits++) {
        mq_dtype dtype = types[bits & 1];
        mq_norm_kind kind = bits & 2 ? MQ_NORM_LAYER : MQ_NORM_RMS;
        void *x = test_array(1, T * LD, 2, dtype), *y = test_copy(x, T * LD, dtype);
        assert_int_equal(mq_norm_heads(kind, x, T, LD, HEADS, D, NULL, true, 1e-5, dtype), MQ_OK);
        assert_int_equal(mq_norm_heads(kind, y, T, LD, HEADS, D, ones, true, 1e-5, dtype), MQ_OK);
        assert_memory_equal(x, y, (size_t)(T * LD) * mq_dtype_size(dtype));
        free(x), free(y);
    }
}

static void test_embed(void **state)
{
    (void)state;
    enum { V = 11, D = 20, T = 100 };
    static const mq_dtype tables[] = {MQ_F32, MQ_BF16, MQ_F16};
    int32_t token[T];
    for (int t = 0; t < T; t++) token[t] = t * 5 % V;
    for (int i = 0; i < 3; i++) {
        float *values = test_array(1, V * D, 1, MQ_F32), exact[V * D];
        void *table = malloc(V * D * sizeof(float));
        assert_int_equal(mq_from_f32(values, V * D, tables[i], table), MQ_OK);
        assert_int_equal(mq_to_f32(table, tables[i], V * D, exact), MQ_OK);
        for (int type = 0; type < 2; type++) {
            void *x = test_array(2, T * D, 1, types[type]);
            assert_int_equal(mq_embed(table, tables[i], V, D, token, T, 1.5, x, types[type]),
                             MQ_OK);
            for (int j = 0; j < T * D; j++) {
                test_near((double)test_get(x, j, types[type]),
                          1.5 * (double)exact[token[j / D] * D + j % D], 0,
                          0x1p-24 + rounding(types[type]), "embed", j);
            }
            free(x);
        }
        free(values), free(table);
    }
}

static void test_embed_refuses(void **state)
{
    (void)state;
    float table[6] = {0}, x[4] = {9, 9, 9, 9};
    int32_t token[2] = {1, 3};
    assert_int_equal(mq_embed(table, MQ_F32, 3, 2, token, 2, 1, x, MQ_F32), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "token 3 at position 1"));
    token[1] = -1;
    assert_int_equal(mq_embed(table, MQ_F32, 3, 2, token, 2, 1, x, MQ_F32), MQ_E_INPUT);
    assert_true(x[0] == 9);
    token[1] = 0;
    assert_int_equal(mq_embed(table, MQ_I64, 3, 2, token, 2, 1, x, MQ_F32), MQ_E_INPUT);
}

static void check_logsumexp(int64_t n, double size)
{
    float *x = test_array((uint64_t)n, n, size, MQ_F32);
    int64_t want_at = 0, at = -1;
    for (int64_t j = 1; j < n; j++) {
        if (x[j] > x[want_at]) want_at = j;
    }
    long double sum = 0;
    for (int64_t j = 0; j < n; j++) sum += expl((long double)x[j] - (long double)x[want_at]);
    double want = (double)((long double)x[want_at] + logl(sum));
    test_near(mq_logsumexp(x, n, &at), want, 1e-14, 1e-15, "logsumexp", n);
    assert_int_equal(at, want_at);
    free(x);
}

static void test_logsumexp(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 15, 16, 17, 63, 64, 65, 1000, 49152};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_logsumexp(sizes[i], 1);
        check_logsumexp(sizes[i], 20);
        check_logsumexp(sizes[i], 1e4);
        check_logsumexp(sizes[i], 0);
    }
}

static void test_logsumexp_awkward(void **state)
{
    (void)state;
    int64_t at;
    float x[40];
    for (int j = 0; j < 40; j++) x[j] = 2;
    assert_true(fabs(mq_logsumexp(x, 40, &at) - (2 + log(40))) < 1e-15 && at == 0);
    x[7] = x[30] = 5; /* the first of equals */
    mq_logsumexp(x, 40, &at);
    assert_int_equal(at, 7);
    x[3] = -INFINITY;
    assert_true(isfinite(mq_logsumexp(x, 40, &at)));
    x[20] = INFINITY;
    assert_true(mq_logsumexp(x, 40, &at) == INFINITY && at == 20);
    x[39] = NAN;
    assert_true(isnan(mq_logsumexp(x, 40, &at)));
    x[20] = 0;
    assert_true(isnan(mq_logsumexp(x, 40, &at)));
    for (int j = 0; j < 40; j++) x[j] = -INFINITY;
    assert_true(mq_logsumexp(x, 40, &at) == -INFINITY && at == 0);
    for (int j = 0; j < 40; j++) x[j] = NAN;
    assert_true(isnan(mq_logsumexp(x, 40, &at)) && at == 0);
}

int main(void)
{
    if (mq_ops_start(1, "") != MQ_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_norm_awkward),
        cmocka_unit_test(test_norm_heads),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_rope_at_the_end),
        cmocka_unit_test(test_split_keys),
        cmocka_unit_test(test_gated),
        cmocka_unit_test(test_gated_awkward),
        cmocka_unit_test(test_clipped_swiglu_numbers),
        cmocka_unit_test(test_clipped_swiglu_awkward),
        cmocka_unit_test(test_gated_in_place),
        cmocka_unit_test(test_split_gates),
        cmocka_unit_test(test_norm_heads_unweighted),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_embed_refuses),
        cmocka_unit_test(test_logsumexp),
        cmocka_unit_test(test_logsumexp_awkward),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_ops_stop();
    return failed;
}
