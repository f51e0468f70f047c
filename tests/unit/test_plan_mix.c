/* A scheme whose widths follow from a budget: fused layers alike, overrides fixed and counted. */
#include "pipeline/gptq_config.h"
#include "plan/mix.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

enum { BLOCKS = 3, HARMS = BLOCKS * MQ_EXPERTS * MQ_MAX_WIDTHS };

/* Hidden 96, intermediate 160; q and o 96 x 96, k and v 48 x 96, gate and up 160 x 96, down 96 x
 * 160: a block is 96 * 768 weights: 96 * 192 of q, k, v; 96 * 96; 96 * 320; 96 * 160. */
static mq_arch small_arch(void)
{
    static const char *const leaf[MQ_N_LINEARS] = {
        [MQ_Q] = "self_attn.q_proj", [MQ_K] = "self_attn.k_proj", [MQ_V] = "self_attn.v_proj",
        [MQ_O] = "self_attn.o_proj", [MQ_GATE] = "mlp.gate_proj", [MQ_UP] = "mlp.up_proj",
        [MQ_DOWN] = "mlp.down_proj"};
    mq_arch arch = {.n_blocks = BLOCKS,
                    .hidden = 96,
                    .intermediate = 160,
                    .n_heads = 4,
                    .n_kv_heads = 2,
                    .head_dim = 24};
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        if (leaf[l])
            snprintf(arch.linear[l], sizeof arch.linear[l], "model.layers.{i}.%s", leaf[l]);
    }
    return arch;
}

static mq_quantize_options options_of(double average)
{
    mq_quantize_options o;
    mq_quantize_defaults(&o);
    o.average_bits = average;
    o.group = 32;
    return o;
}

static int bits_of(const mq_scheme *s, int64_t block, mq_linear_id linear)
{
    return mq_scheme_layer(s, block, linear)->quant.bits;
}

/* A quarter of the harm for a bit more. */
static void set_harm(double *harm, int64_t block, mq_linear_id linear, double at_two)
{
    static const double share[MQ_MAX_WIDTHS] = {1, 0.25, 0.0625, 0x1p-12};
    double *at = harm + (block * MQ_EXPERTS + linear) * MQ_MAX_WIDTHS;
    for (int j = 0; j < MQ_MAX_WIDTHS; j++) at[j] = at_two * share[j];
}

static void harm_decides(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    mq_quantize_options o = options_of(3.0);
    mq_scheme *s = NULL;
    double harm[HARMS] = {0};
    for (int64_t b = 0; b < BLOCKS; b++) {
        for (int l = 0; l < MQ_N_LINEARS; l++) set_harm(harm, b, (mq_linear_id)l, 1e-6);
    }
    set_harm(harm, 1, MQ_V, 1000); /* of three that are fused */
    set_harm(harm, 2, MQ_DOWN, 1);
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_int_equal(s->bits, 2);
    assert_true(mq_mix_average(s) == 2);
    assert_int_equal(mq_mix_choose(s, harm), MQ_OK);
    assert_int_equal(bits_of(s, 1, MQ_V), 8);
    assert_int_equal(bits_of(s, 1, MQ_Q), 8);
    assert_int_equal(bits_of(s, 1, MQ_K), 8);
    assert_true(bits_of(s, 2, MQ_DOWN) > 3);
    assert_true(bits_of(s, 0, MQ_GATE) == bits_of(s, 0, MQ_UP));
    assert_true(mq_mix_average(s) <= 3);
    assert_true(mq_mix_average(s) > 2.95);
    assert_false(mq_scheme_splits_fused(s));
    assert_true(mq_scheme_needs_rules(s));
    assert_true(s->bits == 2 || s->bits == 3); /* most weights' */

    cJSON *config = NULL;
    assert_int_equal(mq_gptq_config(s, &o, &config), MQ_OK);
    const cJSON *rule = cJSON_GetObjectItemCaseSensitive(
        mq_json_find(config, "dynamic"),
        "+:model\\.layers\\.1\\.self_attn\\.(?:q_proj|k_proj|v_proj|qkv_proj)$");
    assert_non_null(rule);
    char *text = cJSON_PrintUnformatted(rule);
    assert_string_equal(text, "{\"bits\":8,\"group_size\":32}");
    cJSON_free(text);
    cJSON_Delete(config);
    mq_scheme_destroy(&s);
}

static void overrides_count_and_stay(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    mq_quantize_options o = options_of(3.5);
    const mq_override list[] = {{"v_proj", 8, 0}, {"gate_proj", 0, 16}};
    const char *const skip[] = {"down_proj"};
    mq_scheme *s = NULL;
    double harm[HARMS] = {0};
    for (int64_t b = 0; b < BLOCKS; b++) {
        for (int l = 0; l < MQ_N_LINEARS; l++) set_harm(harm, b, (mq_linear_id)l, 1.0);
    }
    o.override_ = list;
    o.n_override = 2;
    o.skip = skip;
    o.n_skip = 1;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_false(mq_mix_is_free(s, 0, MQ_V));
    assert_false(mq_mix_is_free(s, 0, MQ_DOWN));
    assert_true(mq_mix_is_free(s, 0, MQ_GATE)); /* another group size is no choice of bits */
    assert_int_equal(mq_mix_choose(s, harm), MQ_OK);
    assert_int_equal(bits_of(s, 2, MQ_V), 8);
    assert_int_equal(bits_of(s, 2, MQ_Q), bits_of(s, 2, MQ_K));
    int64_t bits = 0, weights = 0;
    for (int64_t b = 0; b < BLOCKS; b++) {
        bits += 96 * (144 * bits_of(s, b, MQ_Q) + 48 * 8 + 96 * bits_of(s, b, MQ_O) +
                      320 * bits_of(s, b, MQ_UP));
        weights += 96 * 608;
    }
    assert_true(2 * bits <= 7 * weights);
    assert_true(mq_mix_average(s) == (double)bits / (double)weights);
    mq_scheme_destroy(&s);
}

static void budgets_that_cannot_be(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    mq_quantize_options o = options_of(8.5);
    const mq_override half[] = {{"mlp", 8, 0}}, all[] = {{".", 4, 0}};
    mq_scheme *s = NULL;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_E_USAGE);
    o.average_bits = 1.5;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_E_USAGE);
    o.average_bits = 5.7; /* (288 * 2 + 480 * 8) / 768 = 5.75 */
    o.override_ = half;
    o.n_override = 1;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_E_USAGE);
    assert_non_null(strstr(mq_message(), "5.75"));
    o.average_bits = 5.75;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    mq_scheme_destroy(&s);
    o.override_ = all;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_E_USAGE);
    assert_null(s);
}

static void chosen_widths(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    mq_quantize_options o = options_of(4.5);
    static const int two[] = {4, 8}, wrong[][2] = {{8, 4}, {4, 5}, {4, 4}};
    mq_scheme *s = NULL;
    double harm[HARMS] = {0};
    o.widths = two;
    o.n_widths = 2;
    for (int64_t b = 0; b < BLOCKS; b++) {
        for (int l = 0; l < MQ_N_LINEARS; l++) set_harm(harm, b, (mq_linear_id)l, 1.0 + (double)b);
    }
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_int_equal(mq_mix_choose(s, harm), MQ_OK);
    assert_int_equal(s->bits, 4);
    for (int64_t b = 0; b < BLOCKS; b++) {
        for (int l = 0; l < MQ_N_LINEARS; l++) {
            int bits = bits_of(s, b, (mq_linear_id)l);
            if (!mq_arch_has(&arch, b, (mq_linear_id)l)) continue;
            assert_true(bits == 4 || bits == 8);
        }
    }
    mq_scheme_destroy(&s);
    o.average_bits = 3.5;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_E_USAGE);
    o.average_bits = 4.5;
    for (int i = 0; i < 3; i++) {
        o.widths = wrong[i];
        assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_E_USAGE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(harm_decides),
        cmocka_unit_test(overrides_count_and_stay),
        cmocka_unit_test(budgets_that_cannot_be),
        cmocka_unit_test(chosen_widths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
