#include "base/file.h"
#include "base/memory.h"
#include "model/arch_parse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Models whose language model is one part of several. */

#define SIZES                                                                       \
    "\"hidden_size\": 64, \"intermediate_size\": 96, \"num_hidden_layers\": 2, "    \
    "\"vocab_size\": 100, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, " \
    "\"rms_norm_eps\": 1e-6"

static char *read_data(const char *name)
{
    char path[4096], *text = NULL;
    snprintf(path, sizeof path, "%s/configs/arch/%s.json", MQ_SOURCE_DIR, name);
    assert_int_equal(mq_read_text(path, 1 << 20, &text, NULL), MQ_OK);
    return text;
}

/* root: members beside the model_type and the language model's settings; inner: more of those. */
static mq_status parse(const char *family, const char *root, const char *inner, mq_arch *arch)
{
    char config[2048];
    char *descriptor = read_data(family), *common = read_data("common");
    snprintf(config, sizeof config, "{\"model_type\": \"%s\", \"text_config\": {" SIZES "%s}%s}",
             family, inner, root);
    mq_status status = mq_arch_parse(config, "M/config.json", descriptor, common, arch);
    mq_free(&descriptor);
    mq_free(&common);
    return status;
}

static void accepts(const char *family, const char *root, const char *inner, mq_arch *arch)
{
    if (parse(family, root, inner, arch) != MQ_OK) fail_msg("%s", mq_message());
}

static void refuses(const char *family, const char *root, const char *inner, const char *text)
{
    mq_arch arch;
    assert_int_equal(parse(family, root, inner, &arch), MQ_E_INPUT);
    if (!strstr(mq_message(), text)) fail_msg("\"%s\" lacks \"%s\"", mq_message(), text);
}

static void test_keys(void **state)
{
    (void)state;
    mq_arch a;
    accepts("qwen2_5_vl", "", "", &a);
    assert_true(!a.tied && a.hidden == 64 && a.rope.theta == 1e6);
    accepts("qwen2_5_vl", ", \"tie_word_embeddings\": true", ", \"tie_word_embeddings\": false",
            &a);
    assert_true(a.tied);
    accepts("qwen2_5_vl", ", \"tie_word_embeddings\": false", ", \"tie_word_embeddings\": true",
            &a);
    assert_true(a.tied);
    /* settings of other parts mean nothing here, whatever they hold */
    accepts("qwen2_5_vl", ", \"vision_config\": {\"new\": 1, \"hidden_size\": 3}", "", &a);
    accepts("qwen2_5_vl", ", \"hidden_size\": 64, \"image_token_id\": 5", "", &a);
    refuses("qwen2_5_vl", ", \"hidden_size\": 32", "", "\"hidden_size\" stands outside");
    refuses("qwen2_5_vl", ", \"rope_theta\": 5.0", "", "\"rope_theta\" stands outside");
    refuses("qwen2_5_vl", ", \"new_feature\": 1", "", "unknown key \"new_feature\"");
    refuses("qwen2_5_vl", "", ", \"new_feature\": 1", "unknown key \"new_feature\"");
    refuses("qwen2_5_vl", ", \"audio_config\": {\"a\": 1}", "", "unknown key \"audio_config\"");
    refuses("qwen2_5_vl", "", ", \"model_type\": \"llama\"", "of the type \"llama\"");
}

static void test_where(void **state)
{
    (void)state;
    mq_arch a;
    char *descriptor = read_data("qwen3_vl"), *common = read_data("common");
    const char *flat = "{\"model_type\": \"qwen3_vl\", " SIZES "}";
    assert_int_equal(mq_arch_parse(flat, "M/config.json", descriptor, common, &a), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "\"text_config\" must be an object"));
    mq_free(&descriptor);
    descriptor = read_data("qwen2_5_vl");
    flat = "{\"model_type\": \"qwen2_5_vl\", \"vision_config\": {\"a\": 1}, " SIZES "}";
    assert_int_equal(mq_arch_parse(flat, "M/config.json", descriptor, common, &a), MQ_OK);
    mq_free(&descriptor);
    mq_free(&common);
}

static void test_copied(void **state)
{
    (void)state;
    mq_arch a;
    accepts("qwen3_vl", "", "", &a);
    assert_true(mq_arch_is_copied(&a, "model.visual.blocks.0.norm1.weight"));
    assert_false(mq_arch_is_copied(&a, "model.visuals.weight"));
    assert_false(mq_arch_is_copied(&a, "model.language_model.norm.weight"));
    /* a block that predicts the token after the next */
    accepts("glm4v_moe", "",
            ", \"n_routed_experts\": 4, \"num_experts_per_tok\": 2, \"n_shared_experts\": 1, "
            "\"moe_intermediate_size\": 32, \"rope_theta\": 1e4, \"num_nextn_predict_layers\": 1",
            &a);
    assert_true(mq_arch_is_copied(&a, "model.language_model.layers.2.eh_proj.weight"));
    assert_false(mq_arch_is_copied(&a, "model.language_model.layers.1.eh_proj.weight"));
}

#define ERNIE                                                                       \
    ", \"moe_num_experts\": 4, \"moe_k\": 2, \"moe_intermediate_size\": [48, 16], " \
    "\"rope_theta\": 1e4, \"mlp_layer_types\": "

/* Experts of images, numbered after those of text, stay where they are. */
static void test_other_kinds(void **state)
{
    (void)state;
    mq_arch a;
    accepts("ernie4_5_vl_moe", "", ERNIE "[\"sparse\", \"dense\"]", &a);
    assert_true(a.block[0].routed && !a.block[1].routed);
    assert_int_equal(a.moe.intermediate, 48);
    assert_int_equal(a.moe.shared_intermediate, 96);
    static const struct {
        const char *name;
        bool copied;
    } names[] = {
        {"model.layers.0.mlp.experts.4.gate_proj.weight", true},
        {"model.layers.0.mlp.experts.7.down_proj.weight", true},
        {"model.layers.0.mlp.experts.3.down_proj.weight", false},
        {"model.layers.0.mlp.experts.8.down_proj.weight", false},
        {"model.layers.0.mlp.experts.4.down_projector.weight", false},
        {"model.layers.0.mlp.experts.down_proj.weight", false},
        {"model.layers.0.mlp.experts.99999999999999999999.down_proj.weight", false},
        {"model.layers.1.mlp.experts.4.down_proj.weight", false},
        {"model.layers.2.mlp.experts.4.down_proj.weight", false},
        {"model.layers.0.mlp.gate.weight_1", true},
        {"model.layers.0.mlp.gate.weight_12", false},
        {"model.layers.1.mlp.gate.weight_1", false},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (mq_arch_is_copied(&a, names[i].name) != names[i].copied) fail_msg("%s", names[i].name);
    }
    accepts("ernie4_5_vl_moe", "", ERNIE "null", &a);
    assert_true(!a.block[0].routed && a.block[1].routed);
    refuses("ernie4_5_vl_moe", "", ERNIE "[\"sparse\"]", "\"mlp_layer_types\" must say");
    refuses("ernie4_5_vl_moe", "", ERNIE "[\"sparse\", \"thin\"]", "\"mlp_layer_types\" must say");
}

static void check_axes(const mq_arch *a, const int *axis, int n)
{
    assert_int_equal(a->rope.n_axes, 3);
    assert_int_equal(a->rope.dim, 2 * n);
    for (int i = 0; i < n; i++) assert_int_equal(a->rope.axis[i], axis[i]);
}

static void test_axes(void **state)
{
    (void)state;
    static const int apart[8] = {0, 0, 1, 1, 1, 2, 2, 2}, mixed[8] = {0, 1, 2, 0, 1, 2, 0, 0};
    mq_arch a;
    accepts("qwen2_5_vl", "", "", &a);
    assert_int_equal(a.rope.n_axes, 1);
    accepts("qwen2_5_vl", "",
            ", \"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [2, 3, 3]}", &a);
    check_axes(&a, apart, 8);
    accepts("qwen3_vl", "",
            ", \"head_dim\": 16, \"rope_parameters\": {\"rope_type\": \"default\", "
            "\"mrope_interleaved\": true, \"mrope_section\": [4, 2, 2]}",
            &a);
    check_axes(&a, mixed, 8);
    refuses("qwen2_5_vl", "",
            ", \"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [2, 3]}",
            "three numbers of pairs, 8 together");
    refuses("qwen2_5_vl", "",
            ", \"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [2, 3, 4]}",
            "8 together");
    refuses("qwen2_5_vl", "",
            ", \"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [-2, 5, 5]}",
            "8 together");
    refuses("qwen2_5_vl", "", ", \"rope_scaling\": {\"mrope_interleaved\": true}",
            "\"mrope_interleaved\" is true");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),   cmocka_unit_test(test_where),
        cmocka_unit_test(test_copied), cmocka_unit_test(test_other_kinds),
        cmocka_unit_test(test_axes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
