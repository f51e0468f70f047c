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
                          .original_positions = 64};
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
        cmocka_unit_test(test_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
