#include "base/memory.h"
#include "model/block.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

/* Reference numbers: transformers 5.23, LlamaRotaryEmbedding, position 100. */
typedef struct reference {
    double theta;
    mq_rope_scaling scaling;
    double factor;
    int64_t head_dim;
    double cosine[8], sine[8];
} reference;

static const reference references[] = {
    {10000,
     MQ_ROPE_PLAIN,
     1,
     16,
     {0.8623189, 0.9786828, -0.8390715, -0.9997861, 0.5403023, 0.9504153, 0.9950042, 0.9995},
     {-0.5063657, 0.2053776, -0.5440211, -0.0206838, 0.841471, 0.3109836, 0.0998334, 0.0316175}},
    {10000,
     MQ_ROPE_LINEAR,
     4,
     8,
     {0.9912028, -0.8011436, 0.9689124, 0.9996875},
     {-0.1323518, 0.5984721, 0.247404, 0.0249974}},
    {5000,
     MQ_ROPE_LLAMA3,
     8,
     16,
     {0.8623189, -0.2595437, -0.6041251, 0.871462, 0.9844157, 0.9981424, 0.999779, 0.9999737},
     {-0.5063657, -0.9657314, 0.7968895, 0.4904629, 0.1758574, 0.0609235, 0.0210209, 0.0072495}},
};

static mq_rope_kind rope_of(const reference *r)
{
    return (mq_rope_kind){.dim = r->head_dim,
                          .theta = r->theta,
                          .scaling = r->scaling,
                          .factor = r->factor,
                          .low_freq = 1,
                          .high_freq = 4,
                          .original_positions = 64,
                          .attention_factor = 1};
}

static void test_against_transformers(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof references / sizeof *references; c++) {
        const reference *r = &references[c];
        mq_rope_kind a = rope_of(r);
        float *table = NULL;
        int64_t half = r->head_dim / 2;
        assert_int_equal(mq_rope_table(&a, 101, &table), MQ_OK);
        for (int64_t i = 0; i < half; i++) {
            const float *row = table + 100 * r->head_dim;
            /* An inverse frequency off by one unit moves the angle by 100 * 6e-8. */
            assert_true(fabs((double)row[i] - r->cosine[i]) < 1e-5);
            assert_true(fabs((double)row[half + i] - r->sine[i]) < 1e-5);
            assert_true(table[i] == 1 && table[half + i] == 0);
        }
        mq_free(&table);
    }
}

/* transformers 5.23, ROPE_INIT_FUNCTIONS: theta 10000, 16 coordinates, 64 original positions of
 * 512, position 100. */
static const struct {
    mq_rope_kind kind;
    double cosine[8], sine[8];
} scaled[] = {
    {{.scaling = MQ_ROPE_YARN,
      .factor = 8,
      .beta_fast = 32,
      .beta_slow = 1,
      .truncate = true,
      .attention_factor = 1.2079441541679836},
     {1.041633, -1.1086396, -0.6269662, 1.1147959, 1.1985193, 1.2070005, 1.2078497, 1.2079347},
     {-0.6116614, -0.4796326, -1.0324934, 0.4651442, 0.1506001, 0.0477358, 0.0150989, 0.0047748}},
    {{.scaling = MQ_ROPE_YARN,
      .factor = 8,
      .beta_fast = 16,
      .beta_slow = 2,
      .attention_factor = 1.2079441541679836},
     {1.041633, 1.0524697, 0.3808918, 1.1147959, 1.1985193, 1.2070005, 1.2078497, 1.2079347},
     {-0.6116614, -0.5928209, 1.1463205, 0.4651442, 0.1506001, 0.0477358, 0.0150989, 0.0047748}},
    {{.scaling = MQ_ROPE_LONG,
      .attention_factor = 1.224744871391589,
      .short_factor = {1, 1.1F, 1.2F, 1.3F, 1.4F, 1.5F, 1.6F, 1.7F}},
     {1.0561206, -1.0899161, -0.564858, -0.9295409, 0.9253699, 1.197629, 1.2223537, 1.224533},
     {-0.6201687, -0.5586438, 1.0867085, 0.7974672, 0.8023034, 0.2562906, 0.0764967, 0.0227809}},
    {{.scaling = MQ_ROPE_LONG,
      .attention_factor = 1.224744871391589,
      .stage = 1,
      .long_factor = {1, 2, 3, 4, 5, 6, 7, 8}},
     {1.0561206, -1.2182004, -1.2023002, 0.8615354, 1.2003316, 1.2230443, 1.22462, 1.2247354},
     {-0.6201687, -0.1264432, -0.2333973, 0.8704923, 0.2433193, 0.0645199, 0.0174958, 0.0048412}},
};

static void test_scaled(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof scaled / sizeof *scaled; c++) {
        mq_rope_kind kind = scaled[c].kind;
        float *table = NULL;
        kind.dim = 16;
        kind.theta = 10000;
        kind.original_positions = 64;
        assert_int_equal(mq_rope_table(&kind, 101, &table), MQ_OK);
        for (int64_t i = 0; i < 8; i++) {
            assert_true(fabs((double)table[1600 + i] - scaled[c].cosine[i]) < 1e-5);
            assert_true(fabs((double)table[1608 + i] - scaled[c].sine[i]) < 1e-5);
        }
        mq_free(&table);
    }
}

/* Which of theta's doublings a sample has: up to 32 tokens none, then one more for each doubling.
 */
static void test_stages(void **state)
{
    (void)state;
    static const struct {
        int64_t length;
        int stage;
    } lengths[] = {{0, 0},         {1, 0},  {31, 0},  {32, 0},  {33, 1},  {63, 1},
                   {64, 1},        {65, 2}, {128, 2}, {129, 3}, {257, 4}, {INT64_C(1) << 24, 19},
                   {INT64_MAX, 25}};
    mq_rope_kind kind = {.dim = 16, .theta = 1e4, .original_positions = 32};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        kind.scaling = MQ_ROPE_DOUBLING;
        assert_int_equal(mq_rope_stage(&kind, lengths[i].length), lengths[i].stage);
        kind.scaling = MQ_ROPE_LONG;
        assert_int_equal(mq_rope_stage(&kind, lengths[i].length), lengths[i].length > 32);
        kind.scaling = MQ_ROPE_YARN;
        assert_int_equal(mq_rope_stage(&kind, lengths[i].length), 0);
    }
    kind.original_positions = 1;
    kind.scaling = MQ_ROPE_DOUBLING;
    assert_int_equal(mq_rope_stage(&kind, INT64_C(1) << 24), 24);
}

/* torch 2.15: 1 / base ** (arange(0, 16, 2) / 16) with base = 10000 alpha ** (16 / 14), alpha 1, 3,
 * 7 and 15, in f32; cosines at position 100 in f64. */
static void test_doubling(void **state)
{
    (void)state;
    static const double cosine[4][8] = {
        {0.8623189, 0.9786828, -0.8390715, -0.9997861, 0.5403023, 0.9504153, 0.9950042, 0.9995000},
        {0.8623189, -0.3203282, 0.5209657, -0.3930875, 0.8608919, 0.9896100, 0.9992397, 0.9999444},
        {0.8623189, 0.3766640, 0.8535405, 0.1960608, 0.9463926, 0.9968993, 0.9998221, 0.9999898},
        {0.8623189, -0.8710367, -0.0993261, 0.5480688, 0.9774459, 0.9989558, 0.9999518, 0.9999978},
    };
    static mq_arch a;
    mq_rope_tables tables;
    a.rope = (mq_rope_kind){.dim = 16,
                            .theta = 1e4,
                            .scaling = MQ_ROPE_DOUBLING,
                            .original_positions = 128,
                            .attention_factor = 1};
    assert_int_equal(mq_rope_tables_create(&a, 1000, &tables), MQ_OK);
    for (int s = 0; s < 4; s++) {
        for (int i = 0; i < 8; i++) {
            assert_true(fabs((double)tables.rope[s][1600 + i] - cosine[s][i]) < 1e-5);
        }
    }
    assert_null(tables.rope[4]);
    mq_rope_tables_free(&tables);
    assert_int_equal(mq_rope_tables_create(&a, 1025, &tables), MQ_OK);
    assert_non_null(tables.rope[4]);
    mq_rope_tables_free(&tables);
    assert_int_equal(mq_rope_tables_create(&a, (1 << 24) + 1, &tables), MQ_E_INPUT);
    assert_true(!tables.rope[0] && !tables.rope[1]);
}

/* Around the positions at which factors begin to grow. torch: log1p(floor((p + 1) / 8)) 0.5 + 1,
 * and log(p + 1) / log(8). */
static void test_query_factors(void **state)
{
    (void)state;
    static const double steps[] = {1, 1.34657359, 1.34657359, 1.54930614};
    static const double log_of[] = {1, 1, 1.05664167, 1.33333333};
    static const int64_t at[] = {6, 7, 8, 15};
    float *factor = NULL;
    const mq_query_scale stepped = {MQ_QUERY_STEPS, 8, 0.5, false};
    const mq_query_scale logarithm = {MQ_QUERY_LOG, 8, 0, false};
    assert_int_equal(mq_query_factors(&stepped, 16, &factor), MQ_OK);
    for (int i = 0; i < 4; i++) assert_true(fabs((double)factor[at[i]] - steps[i]) < 2e-7);
    assert_true(factor[0] == 1);
    mq_free(&factor);
    assert_int_equal(mq_query_factors(&logarithm, 16, &factor), MQ_OK);
    for (int i = 0; i < 4; i++) assert_true(fabs((double)factor[at[i]] - log_of[i]) < 2e-7);
    assert_true(factor[0] == 1);
    mq_free(&factor);
}

/* What is not computed: samples beyond which dynamic scaling begins. And which tables there are. */
static void test_tables(void **state)
{
    (void)state;
    static mq_arch a;
    mq_rope_tables tables;
    a.rope = (mq_rope_kind){.dim = 16, .theta = 1e4, .scaling = MQ_ROPE_NTK, .attention_factor = 1};
    a.max_position = 64;
    assert_int_equal(mq_rope_tables_create(&a, 64, &tables), MQ_OK);
    assert_true(tables.rope[0] && !tables.sliding_rope && !tables.rope[1]);
    mq_rope_tables_free(&tables);
    assert_int_equal(mq_rope_tables_create(&a, 65, &tables), MQ_E_INPUT);
    assert_null(tables.rope[0]);
    a.rope = scaled[3].kind;
    a.rope.dim = 16;
    a.rope.theta = 1e4;
    a.rope.original_positions = 64;
    for (int i = 0; i < 8; i++) a.rope.short_factor[i] = 1;
    assert_int_equal(mq_rope_tables_create(&a, 64, &tables), MQ_OK);
    assert_null(tables.rope[1]);
    mq_rope_tables_free(&tables);
    assert_int_equal(mq_rope_tables_create(&a, 65, &tables), MQ_OK);
    assert_true(tables.rope[1] && !tables.rope[2]);
    mq_rope_tables_free(&tables);
}

static void test_lengths(void **state)
{
    (void)state;
    mq_rope_kind a = rope_of(&references[0]);
    float *table = NULL;
    assert_int_equal(mq_rope_table(&a, 0, &table), MQ_OK);
    mq_free(&table);
    assert_int_equal(mq_rope_table(&a, -1, &table), MQ_E_INPUT);
    assert_int_equal(mq_rope_table(&a, (1 << 24) + 1, &table), MQ_E_INPUT);
    assert_null(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_transformers),
        cmocka_unit_test(test_scaled),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_stages),
        cmocka_unit_test(test_doubling),
        cmocka_unit_test(test_query_factors),
        cmocka_unit_test(test_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
