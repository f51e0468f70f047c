#include "base/parallel.h"
#include "ops/ops.h"
#include "ops/route.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { EXPERTS = 12, TOKENS = 131, MOST_K = 4 };

static mq_routing_kind kind_of(mq_score_kind score, int64_t k, int64_t groups, int64_t top_groups)
{
    return (mq_routing_kind){.score = score,
                             .n_experts = EXPERTS,
                             .top_k = k,
                             .n_groups = groups,
                             .top_groups = top_groups,
                             .group_score = MQ_GROUP_BEST_TWO,
                             .normalised = true,
                             .least_sum = 1e-12,
                             .scale = 2.5};
}

static void random_logits(float *out, int64_t n, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        out[i] = (float)(seed >> 8) / (float)(1 << 22) - 2;
    }
}

/* Scores by the definition. */
static double score_of(mq_score_kind kind, const float *logits, int64_t e)
{
    double sum = 0;
    if (kind == MQ_SCORE_SIGMOID) return 1 / (1 + exp(-(double)logits[e]));
    for (int64_t i = 0; i < EXPERTS; i++) sum += exp((double)logits[i]);
    return exp((double)logits[e]) / sum;
}

/* How many experts that may be chosen are better than e. */
static int better_than(const mq_routing_kind *kind, const float *logits, const float *correction,
                       const bool *open, int64_t e)
{
    int n = 0;
    double own = score_of(kind->score, logits, e) + (double)correction[e];
    for (int64_t i = 0; i < EXPERTS; i++) {
        double other = score_of(kind->score, logits, i) + (double)correction[i];
        n += open[i] && (other > own || (other == own && i < e));
    }
    return n;
}

/* The groups whose best two experts have the largest sums. */
static void open_groups(const mq_routing_kind *kind, const float *logits, const float *correction,
                        bool *open)
{
    int64_t each = EXPERTS / kind->n_groups;
    double worth[EXPERTS];
    for (int64_t g = 0; g < kind->n_groups; g++) {
        worth[g] = -INFINITY;
        for (int64_t i = g * each; i < (g + 1) * each; i++) {
            for (int64_t j = i + 1; j < (g + 1) * each; j++) {
                double sum = score_of(kind->score, logits, i) + (double)correction[i] +
                             score_of(kind->score, logits, j) + (double)correction[j];
                worth[g] = fmax(worth[g], sum);
            }
        }
    }
    for (int64_t e = 0; e < EXPERTS; e++) {
        int64_t better = 0;
        for (int64_t g = 0; g < kind->n_groups; g++) better += worth[g] > worth[e / each];
        open[e] = kind->n_groups == 1 || better < kind->top_groups;
    }
}

static void check(const mq_routing_kind *kind, uint32_t seed)
{
    float logits[TOKENS * EXPERTS], correction[EXPERTS], weight[TOKENS * MOST_K];
    int32_t expert[TOKENS * MOST_K];
    random_logits(logits, TOKENS * EXPERTS, seed);
    random_logits(correction, EXPERTS, seed + 1);
    for (int e = 0; e < EXPERTS; e++) correction[e] *= 0.1f;
    assert_int_equal(mq_route(kind, logits, correction, TOKENS, expert, weight), MQ_OK);
    for (int64_t t = 0; t < TOKENS; t++) {
        const float *row = logits + t * EXPERTS;
        bool open[EXPERTS];
        double sum = 0;
        open_groups(kind, row, correction, open);
        for (int64_t i = 0; i < kind->top_k; i++) {
            int32_t e = expert[t * kind->top_k + i];
            assert_true(open[e]);
            assert_int_equal(better_than(kind, row, correction, open, e), i);
            sum += score_of(kind->score, row, e);
        }
        for (int64_t i = 0; i < kind->top_k; i++) {
            double own = score_of(kind->score, row, expert[t * kind->top_k + i]);
            double expected = 2.5 * own / (kind->normalised ? sum : 1);
            assert_true(fabs((double)weight[t * kind->top_k + i] - expected) < 1e-6);
        }
    }
}

static void test_choice_and_weights(void **state)
{
    (void)state;
    for (int64_t k = 1; k <= MOST_K; k++) {
        for (int s = 0; s < 2; s++) {
            mq_routing_kind kind = kind_of((mq_score_kind)s, k, 1, 1);
            check(&kind, (uint32_t)(10 * k + s));
            kind.normalised = false;
            check(&kind, (uint32_t)(100 * k + s));
            kind = kind_of((mq_score_kind)s, k, 4, 2);
            check(&kind, (uint32_t)(1000 * k + s));
        }
    }
}

/* Spoilt tokens still go to as many experts as others, all different. */
static void test_not_finite(void **state)
{
    (void)state;
    mq_routing_kind kind = kind_of(MQ_SCORE_SOFTMAX, 4, 4, 2);
    float logits[4 * EXPERTS], weight[4 * MOST_K];
    int32_t expert[4 * MOST_K];
    random_logits(logits, 4 * EXPERTS, 5);
    for (int e = 0; e < EXPERTS; e++) logits[e] = NAN;
    logits[EXPERTS + 3] = INFINITY;
    logits[2 * EXPERTS + 5] = -INFINITY;
    for (int s = 0; s < 2; s++) {
        kind.score = (mq_score_kind)s;
        assert_int_equal(mq_route(&kind, logits, NULL, 4, expert, weight), MQ_OK);
        for (int t = 0; t < 4; t++) {
            for (int i = 0; i < 4; i++) {
                assert_in_range(expert[t * 4 + i], 0, EXPERTS - 1);
                for (int j = 0; j < i; j++) {
                    assert_int_not_equal(expert[t * 4 + i], expert[t * 4 + j]);
                }
            }
        }
    }
}

static void test_ties_go_to_the_lower_number(void **state)
{
    (void)state;
    mq_routing_kind kind = kind_of(MQ_SCORE_SIGMOID, 3, 1, 1);
    float logits[EXPERTS] = {0}, weight[MOST_K];
    int32_t expert[MOST_K];
    logits[7] = 1;
    assert_int_equal(mq_route(&kind, logits, NULL, 1, expert, weight), MQ_OK);
    assert_int_equal(expert[0], 7);
    assert_int_equal(expert[1], 0);
    assert_int_equal(expert[2], 1);
}

static void test_sort(void **state)
{
    (void)state;
    mq_routing_kind kind = kind_of(MQ_SCORE_SOFTMAX, 3, 1, 1);
    float logits[TOKENS * EXPERTS], weight[TOKENS * MOST_K], row_weight[TOKENS * MOST_K];
    int32_t expert[TOKENS * MOST_K], token[TOKENS * MOST_K];
    int64_t begin[EXPERTS + 1], seen = 0;
    uint8_t skipped[TOKENS] = {0};
    for (int t = 40; t < 60; t++) skipped[t] = 1;
    random_logits(logits, TOKENS * EXPERTS, 9);
    assert_int_equal(mq_route(&kind, logits, NULL, TOKENS, expert, weight), MQ_OK);
    mq_route_sort(&kind, expert, weight, TOKENS, skipped, begin, token, row_weight);
    assert_int_equal(begin[0], 0);
    assert_int_equal(begin[EXPERTS], (TOKENS - 20) * 3);
    for (int64_t e = 0; e < EXPERTS; e++) {
        for (int64_t r = begin[e]; r < begin[e + 1]; r++) {
            assert_false(skipped[token[r]]);
            if (r > begin[e]) assert_true(token[r] > token[r - 1]);
            for (int64_t i = 0; i < 3; i++) {
                if (expert[token[r] * 3 + i] != e) continue;
                assert_true(weight[token[r] * 3 + i] == row_weight[r]);
                seen++;
            }
        }
    }
    assert_int_equal(seen, begin[EXPERTS]);
}

/* Gathered rows, weighed and added again, against loops. */
static void test_rows(void **state)
{
    (void)state;
    enum { D = 37, N = 70 };
    static float x[TOKENS * D], rows[N * D], sum[TOKENS * D], expected[TOKENS * D];
    float weight[N];
    int32_t token[N];
    random_logits(x, TOKENS * D, 3);
    random_logits(weight, N, 4);
    for (int i = 0; i < N; i++) token[i] = (i * 2) % TOKENS;
    memset(sum, 0, sizeof sum);
    memset(expected, 0, sizeof expected);
    assert_int_equal(mq_gather_rows(x, D, MQ_F32, token, N, rows), MQ_OK);
    assert_int_equal(mq_scatter_add(rows, D, MQ_F32, token, weight, N, sum), MQ_OK);
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < D; j++) {
            expected[token[i] * D + j] += weight[i] * x[token[i] * D + j];
        }
    }
    assert_memory_equal(sum, expected, sizeof sum);
    assert_int_equal(mq_scale_rows(rows, D, MQ_F32, weight, N), MQ_OK);
    for (int i = 0; i < N * D; i++)
        assert_true(rows[i] == weight[i / D] * x[token[i / D] * D + i % D]);
    memcpy(expected, x, sizeof x);
    assert_int_equal(mq_add_sum(sum, 0.5, TOKENS, D, x, MQ_F32), MQ_OK);
    for (int i = 0; i < TOKENS * D; i++) {
        assert_true(x[i] == (float)((double)expected[i] + 0.5 * (double)sum[i]));
    }
}

static void test_router(void **state)
{
    (void)state;
    enum { N_IN = 50 };
    static float x[TOKENS * N_IN], w[EXPERTS * N_IN], y[TOKENS * EXPERTS];
    float bias[EXPERTS];
    random_logits(x, TOKENS * N_IN, 1);
    random_logits(w, EXPERTS * N_IN, 2);
    random_logits(bias, EXPERTS, 3);
    assert_int_equal(mq_router_logits(x, MQ_F32, TOKENS, N_IN, w, bias, EXPERTS, y), MQ_OK);
    for (int64_t t = 0; t < TOKENS; t++) {
        for (int64_t e = 0; e < EXPERTS; e++) {
            double sum = (double)bias[e];
            for (int64_t j = 0; j < N_IN; j++) {
                sum += (double)x[t * N_IN + j] * (double)w[e * N_IN + j];
            }
            assert_true(fabs(sum - (double)y[t * EXPERTS + e]) < 1e-4);
        }
    }
}

static int start(void **state)
{
    (void)state;
    return mq_ops_start(2, "") == MQ_OK ? 0 : -1;
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
        cmocka_unit_test(test_choice_and_weights),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_ties_go_to_the_lower_number),
        cmocka_unit_test(test_sort),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_router),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
