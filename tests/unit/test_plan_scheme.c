/* Which layer gets which bits, and what the checkpoint's config says of it. */
#include "base/memory.h"
#include "pipeline/gptq_config.h"
#include "plan/scheme.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

enum { LINEARS = 7 }; /* of a block */

/* Three blocks, hidden 96, intermediate 160. */
static mq_arch small_arch(void)
{
    static const char *const leaf[MQ_N_LINEARS] = {
        [MQ_Q] = "self_attn.q_proj", [MQ_K] = "self_attn.k_proj", [MQ_V] = "self_attn.v_proj",
        [MQ_O] = "self_attn.o_proj", [MQ_GATE] = "mlp.gate_proj", [MQ_UP] = "mlp.up_proj",
        [MQ_DOWN] = "mlp.down_proj"};
    mq_arch arch = {.n_blocks = 3,
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

static mq_quantize_options options_of(int bits, int64_t group)
{
    mq_quantize_options o;
    mq_quantize_defaults(&o);
    o.bits = bits;
    o.group = group;
    return o;
}

static const mq_layer_plan *plan_of(const mq_scheme *s, int64_t block, mq_linear_id linear)
{
    return mq_scheme_layer(s, block, linear);
}

static void all_alike(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    mq_quantize_options o = options_of(4, 32);
    mq_scheme *s = NULL;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_int_equal(s->n_quantised, 3 * LINEARS);
    assert_false(mq_scheme_needs_rules(s));
    assert_false(mq_scheme_splits_fused(s));
    mq_scheme_destroy(&s);
    o.group = -1; /* another number of columns a layer, but one setting */
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_int_equal(plan_of(s, 1, MQ_DOWN)->quant.group, 160);
    assert_int_equal(plan_of(s, 1, MQ_UP)->quant.group, 96);
    assert_false(mq_scheme_needs_rules(s));
    mq_scheme_destroy(&s);
}

static void a_group_that_does_not_divide(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    mq_quantize_options o = options_of(4, 128);
    mq_scheme *s = NULL;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_E_USAGE);
    assert_null(s);
    assert_non_null(strstr(mq_message(), "model.layers.0.self_attn.q_proj"));
    assert_non_null(strstr(mq_message(), "16, 32, 48"));
}

static void overrides_and_skips(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    mq_quantize_options o = options_of(4, 32);
    const mq_override list[] = {{"layers\\.1\\..*down", 8, -1}, {"down_proj", 3, 0}};
    const char *const skip[] = {"o_proj"};
    mq_scheme *s = NULL;
    o.override_ = list;
    o.n_override = 2;
    o.skip = skip;
    o.n_skip = 1;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_int_equal(plan_of(s, 1, MQ_DOWN)->quant.bits, 8); /* the first match counts */
    assert_int_equal(plan_of(s, 1, MQ_DOWN)->quant.group, 160);
    assert_int_equal(plan_of(s, 2, MQ_DOWN)->quant.bits, 3);
    assert_int_equal(plan_of(s, 2, MQ_DOWN)->quant.group, 32);
    assert_false(plan_of(s, 0, MQ_O)->quantise);
    assert_true(mq_scheme_needs_rules(s));
    assert_false(mq_scheme_splits_fused(s));

    cJSON *config = NULL;
    assert_int_equal(mq_gptq_config(s, &o, &config), MQ_OK);
    const cJSON *dynamic = mq_json_find(config, "dynamic");
    const cJSON *rule =
        cJSON_GetObjectItemCaseSensitive(dynamic, "+:model\\.layers\\.1\\.mlp\\.(?:down_proj)$");
    assert_non_null(rule);
    char *text = cJSON_PrintUnformatted(rule);
    assert_string_equal(text, "{\"bits\":8,\"group_size\":-1}");
    cJSON_free(text);
    assert_non_null(cJSON_GetObjectItemCaseSensitive(
        dynamic, "-:model\\.layers\\.2\\.self_attn\\.(?:o_proj)$"));
    assert_int_equal(cJSON_GetArraySize(mq_json_find(config, "modules_in_block_to_quantize")), 6);
    cJSON_Delete(config);
    mq_scheme_destroy(&s);
}

/* What a family is sensitive in: overrides and skips of the user come first. */
static void protection(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    mq_quantize_options o = options_of(4, 32);
    const mq_override list[] = {{"layers\\.0\\..*down", 3, 0}};
    mq_scheme *s = NULL;
    o.protect = true;
    snprintf(arch.family, sizeof arch.family, "plain");
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_E_USAGE);
    assert_non_null(strstr(mq_message(), "configs/arch/plain.json"));
    arch.sensitive = (mq_sensitive){.skip = {"\\.0\\.self_attn\\.o_proj$"},
                                    .bits8 = {"\\.(0|2)\\.mlp\\.down_proj$", "nothing"},
                                    .n_skip = 1,
                                    .n_bits8 = 2};
    o.override_ = list;
    o.n_override = 1;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_int_equal(plan_of(s, 0, MQ_DOWN)->quant.bits, 3);
    assert_int_equal(plan_of(s, 1, MQ_DOWN)->quant.bits, 4);
    assert_int_equal(plan_of(s, 2, MQ_DOWN)->quant.bits, 8);
    assert_true(plan_of(s, 2, MQ_DOWN)->fixed && plan_of(s, 2, MQ_DOWN)->quant.group == 32);
    assert_false(plan_of(s, 0, MQ_O)->quantise);
    assert_true(plan_of(s, 1, MQ_O)->quantise);
    assert_true(mq_scheme_needs_rules(s));
    mq_scheme_destroy(&s);
    o.protect = false;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_int_equal(plan_of(s, 2, MQ_DOWN)->quant.bits, 4);
    mq_scheme_destroy(&s);
}

static void assert_no_head(const mq_arch *arch, const mq_quantize_options *o, const char *word)
{
    mq_scheme *s = NULL;
    assert_int_equal(mq_scheme_create(arch, o, &s), MQ_E_USAGE);
    assert_null(s);
    assert_non_null(strstr(mq_message(), word));
}

static void head(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    mq_quantize_options o = options_of(4, 32);
    const mq_override list[] = {{"lm_head", 8, -1}};
    mq_scheme *s = NULL;
    cJSON *config = NULL;
    snprintf(arch.head, sizeof arch.head, "lm_head.weight");
    arch.vocab = 1000;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_false(mq_scheme_layer(s, 0, MQ_HEAD)->quantise);
    int64_t of_blocks = s->n_quantised;
    mq_scheme_destroy(&s);

    o.lm_head = true;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_int_equal(s->n_quantised, of_blocks + 1);
    assert_false(mq_scheme_needs_rules(s));
    mq_scheme_destroy(&s);

    o.override_ = list;
    o.n_override = 1;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_int_equal(s->head.quant.bits, 8);
    assert_int_equal(s->head.quant.group, arch.hidden);
    assert_true(mq_scheme_needs_rules(s));
    assert_int_equal(mq_gptq_config(s, &o, &config), MQ_OK);
    const cJSON *rule =
        cJSON_GetObjectItemCaseSensitive(mq_json_find(config, "dynamic"), "+:^lm_head$");
    char *text = cJSON_PrintUnformatted(rule);
    assert_string_equal(text, "{\"bits\":8,\"group_size\":-1}");
    assert_true(cJSON_IsTrue(mq_json_find(config, "lm_head")));
    cJSON_free(text);
    cJSON_Delete(config);
    mq_scheme_destroy(&s);

    o.average_bits = 3.5;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    mq_scheme_destroy(&s);
    o.n_override = 0;
    assert_no_head(&arch, &o, "--override 'lm_head=bits:8'");
    o.average_bits = 0;
    o.last_block = arch.n_blocks - 1;
    assert_no_head(&arch, &o, "--layers");
    o.last_block = -1;
    arch.tied = true;
    assert_no_head(&arch, &o, "tie_word_embeddings");
}

static const char *string_of(const cJSON *object, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
}

/* Zero points need v2 of the format; both switches reach every layer. */
static void zero_points_and_signs(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    for (int i = 0; i < 4; i++) {
        mq_quantize_options o = options_of(4, 32);
        mq_scheme *s = NULL;
        cJSON *config = NULL;
        o.zero_points = i % 2;
        o.positive_scales = i / 2;
        assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
        for (int l = 0; l < MQ_N_LINEARS; l++) {
            if (!mq_arch_has(&arch, 2, (mq_linear_id)l)) continue;
            const mq_quant *quant = &plan_of(s, 2, (mq_linear_id)l)->quant;
            assert_int_equal(quant->zero_points, i % 2);
            assert_int_equal(quant->positive, i / 2);
            assert_int_equal(quant->lowest_zero, 0);
        }
        assert_int_equal(mq_gptq_config(s, &o, &config), MQ_OK);
        const char *format = i % 2 ? "gptq_v2" : "gptq";
        assert_string_equal(string_of(config, "format"), format);
        assert_string_equal(string_of(config, "checkpoint_format"), format);
        assert_int_equal(cJSON_IsTrue(mq_json_find(config, "sym")), i % 2 == 0);
        cJSON_Delete(config);
        mq_scheme_destroy(&s);
    }
}

static void every_layer_overridden(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    mq_quantize_options o = options_of(4, 32);
    const mq_override list[] = {{".", 8, 0}};
    mq_scheme *s = NULL;
    o.override_ = list;
    o.n_override = 1;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_true(mq_scheme_needs_rules(s)); /* the config's own bits are still 4 */
    mq_scheme_destroy(&s);
}

static void fused_layers_and_ranges(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    mq_quantize_options o = options_of(4, 32);
    const mq_override list[] = {{"v_proj", 8, 0}};
    mq_scheme *s = NULL;
    o.override_ = list;
    o.n_override = 1;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_true(mq_scheme_splits_fused(s));
    mq_scheme_destroy(&s);
    o.n_override = 0;
    o.first_block = 1;
    o.last_block = 2;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_int_equal(s->n_quantised, LINEARS);
    assert_true(mq_scheme_needs_rules(s));
    mq_scheme_destroy(&s);
    o.last_block = 4;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_E_USAGE);
}

/* vLLM has q_a and kv_a in one, where there is a q_a. */
static void fused_latents(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    static const char *const leaf[MQ_N_LINEARS] = {
        [MQ_Q_A] = "q_a_proj", [MQ_KV_A] = "kv_a_proj", [MQ_Q_B] = "q_b_proj", [MQ_KV_B] = "kv_b"};
    mq_quantize_options o = options_of(4, 32);
    const char *const skip[] = {"layers.1.*_a_proj"};
    mq_scheme *s = NULL;
    cJSON *config = NULL;
    arch.latent =
        (mq_latent){.q_rank = 64, .kv_rank = 32, .nope_dim = 16, .rope_dim = 8, .v_dim = 8};
    for (int l = MQ_Q; l < MQ_O; l++) {
        arch.linear[l][0] = '\0';
        if (!leaf[l]) continue;
        snprintf(arch.linear[l], sizeof arch.linear[l], "model.layers.{i}.x.%s", leaf[l]);
    }
    snprintf(arch.copied[arch.n_copied++], sizeof arch.copied[0], "model.layers.3.");
    o.skip = skip;
    o.n_skip = 1;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_OK);
    assert_int_equal(s->n_quantised, 3 * 8 - 2);
    assert_false(mq_scheme_splits_fused(s));
    assert_int_equal(mq_gptq_config(s, &o, &config), MQ_OK);
    const cJSON *dynamic = mq_json_find(config, "dynamic");
    assert_int_equal(cJSON_GetArraySize(dynamic), 2);
    assert_non_null(cJSON_GetObjectItemCaseSensitive(
        dynamic, "-:model\\.layers\\.1\\.x\\.(?:q_a_proj|kv_a_proj|fused_qkv_a_proj)$"));
    assert_non_null(cJSON_GetObjectItemCaseSensitive(dynamic, "-:^model\\.layers\\.3\\."));
    cJSON_Delete(config);
    mq_scheme_destroy(&s);
}

static void patterns_that_help_nobody(void **state)
{
    (void)state;
    mq_arch arch = small_arch();
    mq_quantize_options o = options_of(4, 32);
    const char *const unmatched[] = {"nothing"}, *const broken[] = {"a("}, *const all[] = {"."};
    mq_scheme *s = NULL;
    o.n_skip = 1;
    o.skip = unmatched;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_E_USAGE);
    o.skip = broken;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_E_USAGE);
    o.skip = all;
    assert_int_equal(mq_scheme_create(&arch, &o, &s), MQ_E_USAGE);
    assert_non_null(strstr(mq_message(), "nothing left"));
}

static void config_keeps_its_bytes(void **state)
{
    (void)state;
    cJSON *q = cJSON_Parse("{\"bits\":4}"), *parsed = NULL;
    char *out = NULL;
    const char *source = "{\n  \"rope_theta\": 1e6,\n  \"x\": 1.0\n}\n";
    assert_int_equal(mq_config_with_quantization(source, "config.json", q, &out), MQ_OK);
    assert_int_equal(strncmp(out, source, strlen(source) - 3), 0);
    assert_int_equal(mq_json_parse(out, "config.json", &parsed), MQ_OK);
    assert_non_null(mq_json_find(parsed, "quantization_config.bits"));
    cJSON_Delete(parsed);
    char *twice = NULL;
    assert_int_equal(mq_config_with_quantization(out, "config.json", q, &twice), MQ_E_INPUT);
    mq_free(&out);
    cJSON_Delete(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_alike),
        cmocka_unit_test(a_group_that_does_not_divide),
        cmocka_unit_test(overrides_and_skips),
        cmocka_unit_test(protection),
        cmocka_unit_test(head),
        cmocka_unit_test(zero_points_and_signs),
        cmocka_unit_test(every_layer_overridden),
        cmocka_unit_test(fused_layers_and_ranges),
        cmocka_unit_test(fused_latents),
        cmocka_unit_test(patterns_that_help_nobody),
        cmocka_unit_test(config_keeps_its_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
