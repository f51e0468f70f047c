#include "test_ops_util.h"

#include "ops/kernels.h"
#include "ops/naive.h"
#include "ops/ops.h"

/* Linear attention against the naive loops, in samples on both sides of the kernel's steps of 64
 * tokens and heads on both sides of its panels of 64 columns. The norm at the end makes outputs of
 * magnitude 1 whatever the state is; errors of a nearly empty state are in proportion to it. */

typedef struct layout {
    int64_t k_heads, v_heads, d, dv, kernel;
    bool grouped;
    int64_t pad; /* widens the rows of x */
} layout;

typedef struct data {
    mq_delta_shape shape;
    void *x, *out;
    float *rates, *a, *conv, *a_log, *dt_bias, *norm, *want;
    int64_t n_tok;
} data;

static data make_data(const layout *l, int64_t n_tok, mq_dtype dtype)
{
    data t = {.n_tok = n_tok};
    int64_t channels = 2 * l->k_heads * l->d + l->v_heads * l->dv;
    t.shape = (mq_delta_shape){.n_k_heads = l->k_heads,
                               .n_v_heads = l->v_heads,
                               .k_dim = l->d,
                               .v_dim = l->dv,
                               .kernel = l->kernel,
                               .grouped = l->grouped,
                               .ld_x = channels + l->v_heads * l->dv + l->pad,
                               .ld_rates = 2 * l->v_heads,
                               .norm_eps = 1e-6};
    t.x = test_array(1, n_tok * t.shape.ld_x, 1, dtype);
    t.rates = test_array(2, n_tok * t.shape.ld_rates, 4, MQ_F32);
    t.a = t.rates + (l->grouped ? l->v_heads / l->k_heads : l->v_heads);
    t.conv = test_array(3, channels * l->kernel, 1.5, MQ_F32);
    t.a_log = test_array(4, l->v_heads, 2, MQ_F32); /* states that last and that do not */
    t.dt_bias = test_array(5, l->v_heads, 1, MQ_F32);
    t.norm = test_array(6, l->dv, 1, MQ_F32);
    t.out = test_array(7, n_tok * l->v_heads * l->dv, 1, dtype);
    t.want = test_exact(t.out, n_tok * l->v_heads * l->dv, dtype);
    t.shape.conv = t.conv;
    t.shape.a_log = t.a_log;
    t.shape.dt_bias = t.dt_bias;
    t.shape.norm = t.norm;
    return t;
}

static void free_data(data *t)
{
    free(t->x), free(t->out), free(t->rates), free(t->conv), free(t->a_log);
    free(t->dt_bias), free(t->norm), free(t->want);
}

static void run(const data *t, const int64_t *offset, int64_t n, mq_dtype dtype)
{
    if (mq_delta(&t->shape, t->x, t->rates, t->a, offset, n, t->out, dtype) != MQ_OK) {
        fail_msg("%s", mq_message());
    }
}

static void check(const layout *l, const int64_t *offset, int64_t n, mq_dtype dtype)
{
    data t = make_data(l, offset[n], dtype);
    int64_t n_out = t.n_tok * l->v_heads * l->dv;
    float *x = test_exact(t.x, t.n_tok * t.shape.ld_x, dtype);
    mq_status status = mq_naive_delta(&t.shape, x, t.rates, t.a, offset, n, t.want, MQ_F32);
    assert_int_equal(status, MQ_OK);
    run(&t, offset, n, dtype);
    double relative = dtype == MQ_BF16 ? TEST_BF16 : 1e-4;
    test_all_near(t.out, dtype, t.want, n_out, 2e-5, relative, "out");
    free(x);
    free_data(&t);
}

static const layout layouts[] = {
    {1, 1, 1, 1, 1, false, 0},   {2, 4, 6, 5, 4, true, 0},   {2, 4, 6, 5, 4, false, 3},
    {2, 2, 16, 64, 4, false, 0}, {1, 3, 24, 65, 3, true, 7}, {1, 2, 33, 130, 2, false, 0},
};
enum { N_LAYOUTS = sizeof layouts / sizeof *layouts };

static void test_lengths(void **state)
{
    (void)state;
    static const int64_t lengths[] = {1, 2, 3, 63, 64, 65, 128, 257};
    for (int i = 0; i < N_LAYOUTS; i++) {
        for (size_t j = 0; j < sizeof lengths / sizeof *lengths; j++) {
            const int64_t offset[] = {0, lengths[j]};
            check(&layouts[i], offset, 1, MQ_F32);
            check(&layouts[i], offset, 1, MQ_BF16);
        }
    }
}

/* A sample knows nothing of those before it; one may be empty. */
static void test_samples(void **state)
{
    (void)state;
    static const int64_t offset[] = {0, 1, 66, 66, 131, 133};
    for (int i = 0; i < N_LAYOUTS; i++) {
        check(&layouts[i], offset, 5, MQ_F32);
        check(&layouts[i], offset, 5, MQ_BF16);
    }
    check(&layouts[0], offset, 0, MQ_F32);
}

/* Rates at the ends of what f32 holds: a state that is wiped out, and one that stays for ever. */
static void test_extremes(void **state)
{
    (void)state;
    const layout l = {1, 2, 8, 8, 4, false, 0};
    const int64_t offset[] = {0, 70};
    data t = make_data(&l, 70, MQ_F32);
    t.a_log[0] = 80;
    t.a_log[1] = -80;
    for (int64_t i = 0; i < 70 * 4; i++) t.rates[i] *= 25;
    mq_status status = mq_naive_delta(&t.shape, t.x, t.rates, t.a, offset, 1, t.want, MQ_F32);
    assert_int_equal(status, MQ_OK);
    run(&t, offset, 1, MQ_F32);
    test_all_near(t.out, MQ_F32, t.want, 70 * 16, 2e-5, 1e-4, "out");
    free_data(&t);
}

static void test_refuses(void **state)
{
    (void)state;
    const layout l = {2, 4, 6, 5, 4, true, 0};
    const int64_t offset[] = {0, 1};
    data t = make_data(&l, 1, MQ_F32);
    t.shape.n_v_heads = 3;
    assert_int_equal(mq_delta(&t.shape, t.x, t.rates, t.a, offset, 1, t.out, MQ_F32),
                     MQ_E_INTERNAL);
    assert_non_null(strstr(mq_message(), "3 heads over 2"));
    free_data(&t);
}

static int start(void **state)
{
    (void)state;
    return mq_ops_start(2, "") != MQ_OK;
}

static int stop(void **state)
{
    (void)state;
    mq_ops_stop();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
