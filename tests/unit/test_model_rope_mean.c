#include "model/rope_mean.h"
#include "ops/kernels.h"

#include "base/memory.h"
#include "model/block.h"
#include "test_solve.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* The score of a query at t and a key at j, both turned by the kernel of the forward, squared and
 * averaged over all pairs j <= t of samples, against the quadratic forms of the turned moments. */

enum { HD = 16, N_SAMPLES = 3, LONGEST = 23 };
static const int64_t lengths[N_SAMPLES] = {1, 9, LONGEST};

/* dim < HD: the others do not turn, and scores of those that do are larger. */
static mq_arch arch_of(bool interleaved, int64_t dim)
{
    return (mq_arch){.head_dim = HD,
                     .rope = {.dim = dim, .theta = 30, .attention_factor = dim < HD ? 1.3 : 1},
                     .rope_interleaved = interleaved};
}

/* Pairs at each distance, by counting them. */
static void count_pairs(int64_t window, double *share)
{
    for (int s = 0; s < N_SAMPLES; s++) {
        for (int64_t t = 0; t < lengths[s]; t++) {
            for (int64_t j = 0; j <= t; j++) share[t - j] += t - j < window;
        }
    }
}

static double dot(const float *a, const float *b)
{
    double sum = 0;
    for (int i = 0; i < HD; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* x at a position. */
static void turn(const mq_arch *a, const float *table, const float *x, int64_t position, float *out)
{
    int32_t at = (int32_t)position;
    memcpy(out, x, HD * sizeof *out);
    assert_int_equal(
        mq_rope(out, 1, HD, 1, HD, a->rope.dim, table, &at, a->rope_interleaved, MQ_F32), MQ_OK);
}

static double mean_square_score(const mq_arch *a, const float *table, const float *q,
                                const float *k, int64_t window)
{
    double sum = 0, pairs = 0;
    for (int s = 0; s < N_SAMPLES; s++) {
        for (int64_t t = 0; t < lengths[s]; t++) {
            for (int64_t j = 0; j <= t; j++) {
                float at_t[HD], at_j[HD];
                if (t - j >= window) continue;
                turn(a, table, q, t, at_t);
                turn(a, table, k, j, at_j);
                sum += dot(at_t, at_j) * dot(at_t, at_j);
                pairs++;
            }
        }
    }
    return sum / pairs;
}

/* x^T T(y y^T) x */
static double form(const mq_rope_mean *mean, bool forward, const float *x, const float *y)
{
    double m[HD * HD], turned[HD * HD], sum = 0;
    for (int i = 0; i < HD * HD; i++) m[i] = (double)y[i / HD] * (double)y[i % HD];
    mq_rope_mean_turn(mean, forward, m, turned);
    for (int i = 0; i < HD * HD; i++) sum += turned[i] * (double)x[i / HD] * (double)x[i % HD];
    return sum;
}

static void compare(bool interleaved, int64_t dim, int64_t window)
{
    mq_arch a = arch_of(interleaved, dim);
    mq_rope_mean *mean = NULL;
    float *table = NULL, q[HD], k[HD];
    double share[LONGEST] = {0};
    uint64_t seed = 11;
    count_pairs(window, share);
    assert_int_equal(mq_rope_table(&a.rope, LONGEST, &table), MQ_OK);
    assert_int_equal(mq_rope_mean_create(&a, &a.rope, share, LONGEST, &mean), MQ_OK);
    for (int c = 0; c < 5; c++) {
        for (int i = 0; i < HD; i++) q[i] = (float)next_random(&seed);
        for (int i = 0; i < HD; i++) k[i] = (float)next_random(&seed);
        double want = mean_square_score(&a, table, q, k, window);
        assert_true(fabs(form(mean, false, q, k) - want) < 1e-5 * want);
        assert_true(fabs(form(mean, true, k, q) - want) < 1e-5 * want);
    }
    mq_rope_mean_destroy(&mean);
    assert_null(mean);
    mq_free(&table);
}

static void test_all_pairs(void **state)
{
    (void)state;
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        compare(interleaved, HD, LONGEST);
        compare(interleaved, HD, 5);  /* a sliding window */
        compare(interleaved, 10, 23); /* a part of each head */
    }
}

/* Without distance nothing turns. */
static void test_one_token(void **state)
{
    (void)state;
    mq_arch a = arch_of(false, HD);
    mq_rope_mean *mean = NULL;
    const double share = 4;
    double m[HD * HD], turned[HD * HD];
    uint64_t seed = 5;
    for (int i = 0; i < HD * HD; i++) m[i] = next_random(&seed);
    assert_int_equal(mq_rope_mean_create(&a, &a.rope, &share, 1, &mean), MQ_OK);
    mq_rope_mean_turn(mean, true, m, turned);
    for (int i = 0; i < HD * HD; i++) assert_true(fabs(turned[i] - m[i]) < 1e-15);
    mq_rope_mean_destroy(&mean);
    mq_rope_mean_destroy(&mean);
}

/* Nor does it in a block without rope. */
static void test_no_rope(void **state)
{
    (void)state;
    mq_arch a = arch_of(false, HD);
    mq_rope_mean *mean = NULL;
    double share[LONGEST] = {0}, m[HD * HD], turned[HD * HD];
    uint64_t seed = 6;
    count_pairs(LONGEST, share);
    for (int i = 0; i < HD * HD; i++) m[i] = next_random(&seed);
    assert_int_equal(mq_rope_mean_create(&a, NULL, share, LONGEST, &mean), MQ_OK);
    mq_rope_mean_turn(mean, false, m, turned);
    for (int i = 0; i < HD * HD; i++) assert_true(fabs(turned[i] - m[i]) < 1e-15);
    mq_rope_mean_destroy(&mean);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_pairs),
        cmocka_unit_test(test_one_token),
        cmocka_unit_test(test_no_rope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
