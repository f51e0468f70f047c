/* Latent attention as config.json describes it: sizes, taps, scale, and what is only copied. */
#include "base/file.h"
#include "base/memory.h"
#include "model/arch_parse.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Of DeepSeek-V3, without what says nothing of attention. */
#define V3                                                                                       \
    "\"model_type\": \"deepseek_v3\", \"hidden_size\": 7168, \"intermediate_size\": 18432, "     \
    "\"num_hidden_layers\": 61, \"num_attention_heads\": 128, \"num_key_value_heads\": 128, "    \
    "\"kv_lora_rank\": 512, \"q_lora_rank\": 1536, \"qk_nope_head_dim\": 128, "                  \
    "\"qk_rope_head_dim\": 64, \"v_head_dim\": 128, \"max_position_embeddings\": 163840, "       \
    "\"vocab_size\": 129280, \"rms_norm_eps\": 1e-06, \"rope_theta\": 10000, "                   \
    "\"num_nextn_predict_layers\": 1, \"rope_scaling\": {\"beta_fast\": 32, \"beta_slow\": 1, "  \
    "\"factor\": 40, \"mscale\": 1.0, \"mscale_all_dim\": 1.0, "                                 \
    "\"original_max_position_embeddings\": 4096, \"type\": \"yarn\"}, \"first_k_dense_replace\"" \
    ": 3, \"n_routed_experts\": 256, \"topk_method\": \"noaux_tc\", \"scoring_func\": "          \
    "\"sigmoid\", \"ep_size\": 1"

/* A small one, of DeepSeek-V2-Lite's kind. */
#define LITE                                                                                  \
    "\"model_type\": \"deepseek_v2\", \"hidden_size\": 64, \"intermediate_size\": 96, "       \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"kv_lora_rank\": 32, "            \
    "\"q_lora_rank\": null, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 4, \"vocab_size\"" \
    ": 100, \"v_head_dim\": 16, \"num_experts_per_tok\": 1"

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

static void refuses(const char *family, const char *config, const char *text)
{
    mq_arch arch;
    assert_int_equal(parse(family, config, &arch), MQ_E_INPUT);
    if (!strstr(mq_message(), text)) fail_msg("\"%s\" lacks \"%s\"", mq_message(), text);
}

/* "q_lora 1536: q_b 24576x1536 | ..." for the taps of attention. */
static void check_attention(const mq_arch *a, const char *expected)
{
    mq_tap_id taps[MQ_N_TAPS];
    mq_linear_id linears[MQ_N_LINEARS];
    char text[512];
    size_t used = 0;
    int n_taps = mq_arch_taps(a, 0, taps);
    for (int t = 0; t < n_taps && taps[t] <= MQ_TAP_ATTN_OUT; t++) {
        int n = mq_arch_tap_linears(a, 0, taps[t], linears);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %d:", t ? " | " : "",
                                 mq_tap_name(taps[t]), (int)mq_arch_tap_width(a, 0, taps[t]));
        for (int l = 0; l < n; l++) {
            int64_t n_out = 0, n_in = 0;
            mq_arch_linear_shape(a, 0, linears[l], &n_out, &n_in);
            used += (size_t)snprintf(text + used, sizeof text - used, " %s %dx%d",
                                     mq_linear_name(linears[l]), (int)n_out, (int)n_in);
        }
    }
    assert_string_equal(text, expected);
}

static void test_v3(void **state)
{
    (void)state;
    mq_arch a;
    accepts("deepseek_v3", "{" V3 "}", &a);
    check_attention(&a, "attn_in 7168: q_a 1536x7168 kv_a 576x7168 | q_lora 1536: q_b 24576x1536 | "
                        "kv_lora 512: kv_b 32768x512 | attn_out 16384: o 7168x16384");
    assert_true(a.head_dim == 192 && a.rope.dim == 64 && a.rope_interleaved);
    assert_true(a.rope.scaling == MQ_ROPE_YARN && a.rope.attention_factor == 1);
    double mscale = 0.1 * log(40) + 1;
    assert_true(fabs(a.attention_scale - mscale * mscale / sqrt(192)) < 1e-15);
    assert_string_equal(mq_arch_tap_norm(&a, MQ_TAP_KV_LORA),
                        "model.layers.{i}.self_attn.kv_a_layernorm.weight");
    assert_string_equal(mq_arch_tap_norm(&a, MQ_TAP_Q_LORA),
                        "model.layers.{i}.self_attn.q_a_layernorm.weight");
    assert_false(mq_arch_couples(&a, 0, MQ_TAP_ATTN_IN));
    assert_int_equal(mq_arch_normed_width(&a), 7168);
}

/* Kimi-K2 as it is published. */
static void test_kimi(void **state)
{
    (void)state;
    mq_arch a;
    accepts("deepseek_v3",
            "{\"architectures\": [\"DeepseekV3ForCausalLM\"], \"attention_bias\": false, "
            "\"attention_dropout\": 0.0, \"aux_loss_alpha\": 0.001, \"bos_token_id\": 163584, "
            "\"eos_token_id\": 163585, \"first_k_dense_replace\": 1, \"hidden_act\": \"silu\", "
            "\"hidden_size\": 7168, \"initializer_range\": 0.02, \"intermediate_size\": 18432, "
            "\"kv_lora_rank\": 512, \"max_position_embeddings\": 131072, \"model_type\": "
            "\"kimi_k2\", \"moe_intermediate_size\": 2048, \"moe_layer_freq\": 1, \"n_group\": 1, "
            "\"n_routed_experts\": 384, \"n_shared_experts\": 1, \"norm_topk_prob\": true, "
            "\"num_attention_heads\": 64, \"num_experts_per_tok\": 8, \"num_hidden_layers\": 61, "
            "\"num_key_value_heads\": 64, \"num_nextn_predict_layers\": 0, \"pretraining_tp\": 1, "
            "\"q_lora_rank\": 1536, \"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, "
            "\"quantization_config\": {\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", "
            "\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}, \"rms_norm_eps\": "
            "1e-06, \"rope_scaling\": {\"beta_fast\": 1.0, \"beta_slow\": 1.0, \"factor\": 32.0, "
            "\"mscale\": 1.0, \"mscale_all_dim\": 1.0, \"original_max_position_embeddings\": 4096, "
            "\"type\": \"yarn\"}, \"rope_theta\": 50000.0, \"routed_scaling_factor\": 2.827, "
            "\"scoring_func\": \"sigmoid\", \"seq_aux\": true, \"tie_word_embeddings\": false, "
            "\"topk_group\": 1, \"topk_method\": \"noaux_tc\", \"torch_dtype\": \"bfloat16\", "
            "\"use_cache\": true, \"v_head_dim\": 128, \"vocab_size\": 163840}",
            &a);
    check_attention(&a, "attn_in 7168: q_a 1536x7168 kv_a 576x7168 | q_lora 1536: q_b 12288x1536 | "
                        "kv_lora 512: kv_b 16384x512 | attn_out 8192: o 7168x8192");
    assert_true(a.moe.routing.n_experts == 384 && a.moe.routing.n_groups == 1);
    assert_true(!a.block[0].routed && a.block[1].routed && a.n_copied == 0);
    assert_true(a.packed == MQ_PACKED_FP8 && a.fp8_block[0] == 128);
}

/* Greedy choice knows no groups, whatever their number. */
static void test_groups(void **state)
{
    (void)state;
    mq_arch a;
    accepts("deepseek_v2", "{" LITE ", \"n_group\": 8, \"topk_group\": 3}", &a);
    assert_true(a.moe.routing.n_groups == 1 && a.moe.routing.top_groups == 1);
    accepts("deepseek_v2",
            "{" LITE ", \"n_group\": 8, \"topk_group\": 3, \"topk_method\": "
            "\"group_limited_greedy\"}",
            &a);
    assert_true(a.moe.routing.n_groups == 8 && a.moe.routing.top_groups == 3);
    refuses("deepseek_v2", "{" LITE ", \"topk_method\": \"noaux_tc\"}", "noaux_tc");
    refuses("deepseek_v3", "{" V3 ", \"moe_layer_freq\": 2}", "moe_layer_freq");
}

/* The block after the last one predicts further tokens. */
static void test_copied(void **state)
{
    (void)state;
    mq_arch a;
    accepts("deepseek_v3", "{" V3 "}", &a);
    assert_true(mq_arch_is_copied(&a, "model.layers.61.eh_proj.weight"));
    assert_false(mq_arch_is_copied(&a, "model.layers.60.eh_proj.weight"));
    assert_false(mq_arch_is_copied(&a, "model.layers.6.input_layernorm.weight"));
    assert_false(mq_arch_is_copied(&a, "model.layers.62.eh_proj.weight"));
    accepts("deepseek_v2", "{" LITE "}", &a);
    assert_false(mq_arch_is_copied(&a, "model.layers.2.eh_proj.weight"));
}

static void test_without_q_lora(void **state)
{
    (void)state;
    mq_arch a;
    accepts("deepseek_v2", "{" LITE "}", &a);
    check_attention(&a, "attn_in 64: q 48x64 kv_a 36x64 | kv_lora 32: kv_b 96x32 | "
                        "attn_out 64: o 64x64");
    assert_true(a.head_dim == 12 && a.attention_scale == 1 / sqrt(12));
    assert_null(mq_arch_tap_norm(&a, MQ_TAP_Q_LORA));
    for (int l = 0; l < MQ_N_LINEARS; l++) assert_false(a.has_bias[l]);
    accepts("deepseek_v2", "{" LITE ", \"attention_bias\": true}", &a);
    assert_true(a.has_bias[MQ_KV_A] && a.has_bias[MQ_O] && !a.has_bias[MQ_KV_B] &&
                !a.has_bias[MQ_Q]);
}

static void test_bad_sizes(void **state)
{
    (void)state;
    refuses("deepseek_v2", "{" LITE ", \"num_key_value_heads\": 2}", "as many key/value heads");
#define WITHOUT_V                                                                       \
    "\"model_type\": \"deepseek_v2\", \"hidden_size\": 64, \"intermediate_size\": 96, " \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"vocab_size\": 100, "       \
    "\"num_experts_per_tok\": 1, "
    refuses("deepseek_v2", "{" WITHOUT_V "\"v_head_dim\": 0}", "latent attention of ranks");
    refuses("deepseek_v2", "{" WITHOUT_V "\"kv_lora_rank\": 0}", "latent attention of ranks");
    refuses("deepseek_v2", "{" WITHOUT_V "\"qk_rope_head_dim\": 3}", "latent attention of ranks");
    refuses("deepseek_v2", "{" WITHOUT_V "\"v_head_dim\": 1000000000}",
            "latent attention of ranks");
    refuses("deepseek_v2", "{" WITHOUT_V "\"unheard_of\": 1}", "unheard_of");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v3),
        cmocka_unit_test(test_kimi),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_copied),
        cmocka_unit_test(test_without_q_lora),
        cmocka_unit_test(test_bad_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
