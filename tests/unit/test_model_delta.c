/* Linear attention as config.json describes it: which blocks have it, their layers and tensors. */
#include "base/file.h"
#include "base/memory.h"
#include "model/arch_parse.h"
#include "model/tensors.h"
#include "pipeline/gptq_config.h"
#include "plan/scheme.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Qwen3-Next-80B-A3B as it is published. */
#define NEXT                                                                                     \
    "{\"architectures\": [\"Qwen3NextForCausalLM\"], \"attention_bias\": false, "                \
    "\"attention_dropout\": 0.0, \"bos_token_id\": 151643, \"decoder_sparse_step\": 1, "         \
    "\"eos_token_id\": 151645, \"full_attention_interval\": 4, \"head_dim\": 256, "              \
    "\"hidden_act\": \"silu\", \"hidden_size\": 2048, \"initializer_range\": 0.02, "             \
    "\"intermediate_size\": 5120, \"linear_conv_kernel_dim\": 4, \"linear_key_head_dim\": 128, " \
    "\"linear_num_key_heads\": 16, \"linear_num_value_heads\": 32, \"linear_value_head_dim\": "  \
    "128, \"max_position_embeddings\": 262144, \"mlp_only_layers\": [], \"model_type\": "        \
    "\"qwen3_next\", \"moe_intermediate_size\": 512, \"norm_topk_prob\": true, "                 \
    "\"num_attention_heads\": 16, \"num_experts\": 512, \"num_experts_per_tok\": 10, "           \
    "\"num_hidden_layers\": 48, \"num_key_value_heads\": 2, \"output_router_logits\": false, "   \
    "\"partial_rotary_factor\": 0.25, \"rms_norm_eps\": 1e-06, \"rope_scaling\": null, "         \
    "\"rope_theta\": 10000000, \"router_aux_loss_coef\": 0.001, "                                \
    "\"shared_expert_intermediate_size\": 512, \"tie_word_embeddings\": false, "                 \
    "\"torch_dtype\": \"bfloat16\", \"use_cache\": true, \"use_sliding_window\": false, "        \
    "\"vocab_size\": 151936}"

/* A small one of Qwen3.5's kind, with 32 value heads over 16 key heads of 128, and with few. */
#define BASE                                                                              \
    "{\"model_type\": \"qwen3_5_text\", \"hidden_size\": 64, \"intermediate_size\": 96, " \
    "\"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "  \
    "\"head_dim\": 16, \"vocab_size\": 100, \"attention_bias\": true"
#define SMALL                                                             \
    BASE ", \"linear_num_key_heads\": 2, \"linear_num_value_heads\": 6, " \
         "\"linear_key_head_dim\": 8, \"linear_value_head_dim\": 12"
#define TYPES ", \"layer_types\": [\"full_attention\", \"linear_attention\", \"full_attention\"]"

static char *read_data(const char *name)
{
    char path[4096], *text = NULL;
    snprintf(path, sizeof path, "%s/configs/arch/%s.json", MQ_SOURCE_DIR, name);
    assert_int_equal(mq_read_text(path, 1 << 20, &text, NULL), MQ_OK);
    return text;
}

static mq_status parse(const char *family, const char *config, mq_arch *arch)
{
    char *descriptor = read_data(family), *common = read_data("common");
    mq_status status = mq_arch_parse(config, "M/config.json", descriptor, common, arch);
    mq_free(&descriptor);
    mq_free(&common);
    return status;
}

static void accepts(const char *family, const char *config, mq_arch *arch)
{
    if (parse(family, config, arch) != MQ_OK) fail_msg("%s", mq_message());
}

static void refuses(const char *config, const char *text)
{
    mq_arch arch;
    assert_int_equal(parse("qwen3_5", config, &arch), MQ_E_INPUT);
    if (!strstr(mq_message(), text)) fail_msg("\"%s\" lacks \"%s\"", mq_message(), text);
}

/* "attn_in: in_qkv 12288x2048 | attn_out: o 2048x4096" */
static void check_attention(const mq_arch *a, int64_t block, const char *expected)
{
    static const mq_tap_id taps[] = {MQ_TAP_ATTN_IN, MQ_TAP_ATTN_OUT};
    mq_linear_id linears[MQ_N_LINEARS];
    char text[512];
    size_t used = 0;
    for (int t = 0; t < 2; t++) {
        int n = mq_arch_tap_linears(a, block, taps[t], linears);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s:", t ? " | " : "",
                                 mq_tap_name(taps[t]));
        for (int l = 0; l < n; l++) {
            int64_t n_out = 0, n_in = 0;
            mq_arch_linear_shape(a, block, linears[l], &n_out, &n_in);
            assert_int_equal(n_in, mq_arch_tap_width(a, block, taps[t]));
            used += (size_t)snprintf(text + used, sizeof text - used, " %s %dx%d",
                                     mq_linear_name(linears[l]), (int)n_out, (int)n_in);
        }
    }
    assert_string_equal(text, expected);
}

/* The shape of a small tensor whose name ends so; "" where there is none. */
static void check_vector(const mq_arch *a, int64_t block, const char *end, const char *expected)
{
    mq_vector list[MQ_N_VECTORS];
    char text[64] = "";
    int n = mq_arch_vectors(a, block, list);
    for (int i = 0; i < n; i++) {
        size_t length = strlen(list[i].name), tail = strlen(end), used = 0;
        if (length < tail || strcmp(list[i].name + length - tail, end) != 0) continue;
        for (int d = 0; d < list[i].n_dims; d++) {
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%d", d ? "x" : "",
                                     (int)list[i].dim[d]);
        }
    }
    assert_string_equal(text, expected);
}

static void test_qwen3_next(void **state)
{
    (void)state;
    mq_arch a;
    char name[256];
    accepts("qwen3_next", NEXT, &a);
    check_attention(&a, 0, "attn_in: in_qkv 12288x2048 | attn_out: o 2048x4096");
    check_attention(&a, 3, "attn_in: q 8192x2048 k 512x2048 v 512x2048 | attn_out: o 2048x4096");
    assert_true(a.block[46].linear && !a.block[47].linear && a.block[0].routed);
    mq_arch_linear_name(&a, MQ_IN_QKV, 2, name, sizeof name);
    assert_string_equal(name, "model.layers.2.linear_attn.in_proj_qkvz");
    mq_arch_linear_name(&a, MQ_O, 2, name, sizeof name);
    assert_string_equal(name, "model.layers.2.linear_attn.out_proj");
    mq_arch_linear_name(&a, MQ_O, 3, name, sizeof name);
    assert_string_equal(name, "model.layers.3.self_attn.o_proj");
    check_vector(&a, 0, "linear_attn.in_proj_ba.weight", "64x2048");
    check_vector(&a, 0, "linear_attn.conv1d.weight", "8192x1x4");
    check_vector(&a, 0, "linear_attn.norm.weight", "128");
    check_vector(&a, 0, "self_attn.q_norm.weight", "");
    check_vector(&a, 3, "self_attn.q_norm.weight", "256");
    check_vector(&a, 3, "linear_attn.A_log", "");
    assert_true(mq_arch_couples(&a, 3, MQ_TAP_ATTN_IN));
    assert_false(mq_arch_couples(&a, 0, MQ_TAP_ATTN_IN));
    assert_true(mq_arch_is_copied(&a, "mtp.fc.weight"));
}

static void test_qwen3_5(void **state)
{
    (void)state;
    mq_arch a;
    accepts("qwen3_5", SMALL TYPES "}", &a);
    check_attention(&a, 1, "attn_in: in_qkv 104x64 in_z 72x64 | attn_out: o 64x72");
    check_attention(&a, 0, "attn_in: q 128x64 k 32x64 v 32x64 | attn_out: o 64x64");
    check_vector(&a, 1, "linear_attn.in_proj_a.weight", "6x64");
    check_vector(&a, 1, "linear_attn.in_proj_b.weight", "6x64");
    /* attention_bias is of the other kind. */
    check_vector(&a, 0, "o_proj.bias", "64");
    check_vector(&a, 1, "out_proj.bias", "");
    accepts("qwen3_5", SMALL ", \"full_attention_interval\": 2}", &a);
    assert_true(a.block[0].linear && !a.block[1].linear && a.block[2].linear);
    accepts("qwen3_5", SMALL "}", &a);
    assert_true(a.block[0].linear && a.block[1].linear && a.block[2].linear);
}

static void test_refused(void **state)
{
    (void)state;
    refuses(BASE TYPES ", \"linear_num_value_heads\": 5}", "5 value heads");
    refuses(SMALL TYPES ", \"linear_conv_kernel_dim\": 0}", "convolution over 0");
    refuses(BASE TYPES ", \"linear_key_head_dim\": 1000000000}", "out of range");
    refuses(SMALL TYPES ", \"hidden_act\": \"gelu\"}", "silu");
    refuses(SMALL ", \"full_attention_interval\": 0}", "each 0-th block");
    refuses(SMALL ", \"layer_types\": [\"sliding_attention\", \"full_attention\", "
                  "\"full_attention\"]}",
            "sliding_attention");
}

static int rules_for(const mq_scheme *scheme, const mq_quantize_options *options,
                     const char *pattern)
{
    cJSON *config = NULL;
    assert_int_equal(mq_gptq_config(scheme, options, &config), MQ_OK);
    const cJSON *dynamic = mq_json_find(config, "dynamic");
    int n = cJSON_GetObjectItemCaseSensitive(dynamic, pattern) != NULL;
    cJSON_Delete(config);
    return n;
}

/* Readers join what makes q, k, v and z, and what makes b and a. */
static void test_scheme(void **state)
{
    (void)state;
    mq_arch a;
    mq_scheme *s = NULL;
    const char *const skip[] = {"in_proj_z"}, *const both[] = {"in_proj_(qkv|z)"};
    mq_quantize_options o;
    mq_quantize_defaults(&o);
    o.group = -1;
    o.skip = skip;
    o.n_skip = 1;
    accepts("qwen3_5", SMALL TYPES "}", &a);
    assert_int_equal(mq_scheme_create(&a, &o, &s), MQ_OK);
    assert_true(mq_scheme_splits_fused(s));
    assert_int_equal(rules_for(s, &o, "-:^model\\.layers\\.\\d+\\.linear_attn\\.in_proj_a$"), 1);
    assert_int_equal(rules_for(s, &o, "-:^model\\.layers\\.\\d+\\.linear_attn\\.in_proj_ba$"), 1);
    mq_scheme_destroy(&s);
    o.skip = both;
    assert_int_equal(mq_scheme_create(&a, &o, &s), MQ_OK);
    assert_false(mq_scheme_splits_fused(s));
    assert_int_equal(rules_for(s, &o,
                               "-:model\\.layers\\.1\\.linear_attn\\.(?:in_proj_qkv|in_proj_z|"
                               "in_proj_qkvz)$"),
                     1);
    mq_scheme_destroy(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qwen3_next),
        cmocka_unit_test(test_qwen3_5),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_scheme),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
