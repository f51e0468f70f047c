#include "base/file.h"
#include "base/memory.h"
#include "model/arch_parse.h"
#include "model/head_norm.h"
#include "model/tensors.h"

#include <math.h>
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The sizes of a small model, as the head of a config.json. */
#define SIZES                                                                       \
    "\"hidden_size\": 64, \"intermediate_size\": 96, \"num_hidden_layers\": 3, "    \
    "\"vocab_size\": 100, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, " \
    "\"max_position_embeddings\": 512"

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

/* A config with SIZES and `more` is refused with a message that holds `text`. */
static void refuses(const char *family, const char *more, const char *text)
{
    mq_arch arch;
    char config[2048];
    snprintf(config, sizeof config, "{\"model_type\": \"%s\", " SIZES "%s%s}", family,
             more[0] ? ", " : "", more);
    assert_int_equal(parse(family, config, &arch), MQ_E_INPUT);
    if (!strstr(mq_message(), text)) fail_msg("\"%s\" lacks \"%s\"", mq_message(), text);
}

static void accepts(const char *family, const char *more, mq_arch *arch)
{
    char config[2048];
    snprintf(config, sizeof config, "{\"model_type\": \"%s\", " SIZES "%s%s}", family,
             more[0] ? ", " : "", more);
    if (parse(family, config, arch) != MQ_OK) fail_msg("%s", mq_message());
}

static void test_llama_defaults(void **state)
{
    (void)state;
    mq_arch a;
    assert_int_equal(parse("llama",
                           "{\"model_type\": \"llama\", \"hidden_size\": 64, "
                           "\"intermediate_size\": 96, \"num_hidden_layers\": 3, "
                           "\"vocab_size\": 100, \"num_attention_heads\": 4}",
                           &a),
                     MQ_OK);
    assert_string_equal(a.family, "llama");
    assert_string_equal(a.model_type, "llama");
    assert_int_equal(a.n_kv_heads, 4);
    assert_int_equal(a.head_dim, 16);
    assert_int_equal(a.max_position, 0);
    assert_true(a.norm == MQ_NORM_RMS && a.norm_eps == 1e-6);
    assert_true(a.rope.theta == 10000 && a.rope.scaling == MQ_ROPE_PLAIN);
    assert_true(a.activation.kind == MQ_SILU && !a.rope_interleaved);
    assert_true(!a.tied && !a.parallel_block && a.qk_norm == MQ_QK_NONE);
    assert_true(a.logit_scale == 1 && a.embed_scale == 1 && a.attention_scale == 0.25);
    assert_true(a.window == 0 && a.packed == MQ_PACKED_NONE);
    for (int l = 0; l < MQ_N_LINEARS; l++) assert_false(a.has_bias[l]);
}

static void test_llama_switches(void **state)
{
    (void)state;
    mq_arch a;
    accepts("llama",
            "\"tie_word_embeddings\": true, \"attention_bias\": true, \"mlp_bias\": true, "
            "\"head_dim\": 32, \"rms_norm_eps\": 1e-5, \"hidden_act\": \"gelu_pytorch_tanh\", "
            "\"pretraining_tp\": 1, \"use_cache\": true, \"eos_token_id\": [1, 2]",
            &a);
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        assert_int_equal(a.has_bias[l], mq_arch_has(&a, 0, (mq_linear_id)l));
    }
    assert_true(a.tied && a.head_dim == 32 && a.norm_eps == 1e-5);
    assert_int_equal(a.activation.kind, MQ_GELU_TANH);
    assert_int_equal(a.max_position, 512);
}

static void test_null_is_absent(void **state)
{
    (void)state;
    mq_arch a;
    accepts("llama", "\"head_dim\": null, \"rope_scaling\": null, \"unheard_of\": null", &a);
    assert_int_equal(a.head_dim, 16);
}

static void test_mistral_window(void **state)
{
    (void)state;
    mq_arch a;
    accepts("mistral", "", &a); /* transformers' default */
    assert_int_equal(mq_arch_window(&a, 0), 4096);
    accepts("mistral", "\"sliding_window\": null", &a); /* said to have none */
    assert_int_equal(mq_arch_window(&a, 2), 0);
    accepts("mistral", "\"sliding_window\": 48", &a);
    assert_int_equal(mq_arch_window(&a, 0), 48);
    refuses("mistral", "\"sliding_window\": -1", "sliding window of -1");
}

static void test_mistral_heads(void **state)
{
    (void)state;
    mq_arch a;
    const char *config = "{\"model_type\": \"mistral\", \"hidden_size\": 64, "
                         "\"intermediate_size\": 96, \"num_hidden_layers\": 3, "
                         "\"vocab_size\": 100, \"num_attention_heads\": 16%s}";
    char text[512];
    snprintf(text, sizeof text, config, "");
    assert_int_equal(parse("mistral", text, &a), MQ_OK);
    assert_int_equal(a.n_kv_heads, 8);
    snprintf(text, sizeof text, config, ", \"num_key_value_heads\": null");
    assert_int_equal(parse("mistral", text, &a), MQ_OK);
    assert_int_equal(a.n_kv_heads, 16);
}

static void test_qwen2_window(void **state)
{
    (void)state;
    mq_arch a;
    accepts("qwen2", "\"sliding_window\": 48, \"max_window_layers\": 1", &a);
    assert_int_equal(mq_arch_window(&a, 2), 0); /* use_sliding_window is false by default */
    accepts("qwen2",
            "\"sliding_window\": 48, \"max_window_layers\": 1, \"use_sliding_window\": true", &a);
    assert_int_equal(mq_arch_window(&a, 0), 0);
    assert_int_equal(mq_arch_window(&a, 1), 48);
    assert_int_equal(mq_arch_window(&a, 2), 48);
}

static void test_layer_types(void **state)
{
    (void)state;
    mq_arch a;
#define WINDOW "\"sliding_window\": 48, \"use_sliding_window\": true, \"layer_types\": "
    accepts("qwen3", WINDOW "[\"full_attention\", \"full_attention\", \"sliding_attention\"]", &a);
    assert_int_equal(mq_arch_window(&a, 1), 0);
    assert_int_equal(mq_arch_window(&a, 2), 48);
    accepts("qwen3", WINDOW "[\"full_attention\", \"full_attention\", \"full_attention\"]", &a);
    assert_int_equal(mq_arch_window(&a, 2), 0);
    accepts("qwen3", WINDOW "[\"sliding_attention\", \"full_attention\", \"full_attention\"]", &a);
    assert_true(mq_arch_window(&a, 0) == 48 && mq_arch_window(&a, 1) == 0);
    refuses("qwen3", WINDOW "[\"full_attention\", \"linear_attention\", \"full_attention\"]",
            "linear_attention");
    refuses("qwen3", WINDOW "[\"full_attention\"]", "each of 3 blocks");
    refuses("qwen3", WINDOW "\"full_attention\"", "each of 3 blocks");
    refuses("qwen3",
            "\"sliding_window\": null, \"layer_types\": [\"full_attention\", \"full_attention\", "
            "\"sliding_attention\"]",
            "where its size is set");
}

static void test_qwen_features(void **state)
{
    (void)state;
    mq_arch a;
    accepts("qwen2", "\"attention_bias\": false", &a); /* not a key of this family */
    assert_true(a.has_bias[MQ_Q] && a.has_bias[MQ_K] && a.has_bias[MQ_V]);
    assert_true(!a.has_bias[MQ_O] && !a.has_bias[MQ_GATE] && !a.has_bias[MQ_DOWN]);
    assert_int_equal(a.head_dim, 16);
    accepts("qwen3", "", &a);
    assert_int_equal(a.head_dim, 128);
    assert_true(a.qk_norm == MQ_QK_HEAD_SHARED && a.qk_norm_kind == MQ_NORM_RMS);
    assert_string_equal(a.q_norm, "model.layers.{i}.self_attn.q_norm.weight");
}

static void test_cohere(void **state)
{
    (void)state;
    mq_arch a;
    accepts("cohere", "\"rope_theta\": 8000000.0, \"model_max_length\": 131072", &a);
    assert_true(a.parallel_block && a.rope_interleaved && a.tied);
    assert_true(a.norm == MQ_NORM_LAYER && a.norm_eps == 1e-5 && a.logit_scale == 0.0625);
    assert_true(a.qk_norm == MQ_QK_NONE && a.q_norm[0] == '\0' && a.mlp_norm[0] == '\0');
    accepts("cohere",
            "\"rope_theta\": 75000000.0, \"use_qk_norm\": true, \"logit_scale\": 0.8333, "
            "\"tie_word_embeddings\": false",
            &a);
    assert_true(a.qk_norm == MQ_QK_PER_HEAD && a.qk_norm_kind == MQ_NORM_LAYER && !a.tied);
    assert_true(a.logit_scale == 0.8333 && a.rope.theta == 75e6);
    refuses("cohere", "", "rope_theta"); /* versions of transformers differ in the default */
    refuses("cohere", "\"rope_theta\": 1e4, \"use_qk_norm\": 1", "use_qk_norm");
}

static void test_granite_swa(void **state)
{
    (void)state;
    mq_arch a;
    mq_vector list[MQ_N_VECTORS];
    int n = 0, sinks = 0;
    accepts("granite_swa", "\"layer_rope_theta\": [0, 500, 500], \"sliding_window\": 48", &a);
    assert_true(mq_arch_rope(&a, 0) == NULL && mq_arch_rope(&a, 1)->theta == 500);
    assert_true(mq_arch_window(&a, 0) == 0 && mq_arch_window(&a, 2) == 48);
    n = mq_arch_vectors(&a, 2, list);
    for (int i = 0; i < n; i++) {
        if (list[i].id != MQ_VECTOR_SINKS) continue;
        assert_string_equal(list[i].name, "model.layers.2.self_attn.sinks");
        assert_true(list[i].n_dims == 1 && list[i].dim[0] == 4);
        sinks++;
    }
    assert_int_equal(sinks, 1);
    accepts("granite_swa", "\"rope_theta\": 7", &a);
    assert_true(mq_arch_rope(&a, 0)->theta == 7 && a.window == 128);
    refuses("granite_swa", "\"layer_rope_theta\": [0, 500, 600]", "600 for block 2");
    refuses("granite_swa", "\"layer_rope_theta\": [0, -1, 500]", "block 1");
    refuses("granite_swa", "\"layer_rope_theta\": [0, 500]", "each of 3 blocks");
}

static void test_llama4_text(void **state)
{
    (void)state;
    mq_arch a;
#define DENSE "\"intermediate_size_mlp\": 80, \"moe_layers\": []"
    accepts("llama4_text", DENSE ", \"no_rope_layer_interval\": 2", &a);
    assert_true(a.intermediate == 80 && a.head_dim == 128 && a.rope_interleaved);
    assert_true(mq_arch_chunk(&a, 0) == 8192 && mq_arch_chunk(&a, 1) == 0);
    assert_true(mq_arch_rope(&a, 0) && !mq_arch_rope(&a, 1));
    assert_true(a.qk_norm == MQ_QK_HEAD_UNIT && a.q_norm[0] == '\0');
    assert_true(mq_arch_norms_heads(&a, 0) && !mq_arch_norms_heads(&a, 1));
    assert_true(!mq_head_norm_is_known(&a));
    assert_true(!mq_arch_scales_queries(&a, 0) && mq_arch_scales_queries(&a, 1));
    assert_true(a.query_scale.kind == MQ_QUERY_STEPS && a.query_scale.positions == 8192);
    assert_true(a.query_scale.weight == 0.1);
    accepts("llama4_text",
            DENSE ", \"no_rope_layers\": [], \"attn_temperature_tuning\": 4, \"use_qk_norm\": "
                  "false, \"layer_types\": [\"full_attention\", \"chunked_attention\", "
                  "\"full_attention\"], \"attention_chunk_size\": 7",
            &a);
    assert_true(a.query_scale.kind == MQ_QUERY_STEPS && a.qk_norm == MQ_QK_NONE);
    assert_true(mq_arch_chunk(&a, 0) == 0 && mq_arch_chunk(&a, 1) == 7);
    accepts("llama4_text", DENSE ", \"attn_temperature_tuning\": false", &a);
    assert_true(a.query_scale.kind == MQ_QUERY_PLAIN && !mq_arch_scales_queries(&a, 0));
    accepts("llama4_text", DENSE ", \"attention_chunk_size\": null", &a);
    assert_true(mq_arch_chunk(&a, 0) == 0);
    accepts("llama4_text", "\"intermediate_size_mlp\": 80, \"moe_layers\": [1]", &a);
    assert_true(!a.block[0].routed && a.block[1].routed && !a.block[2].routed);
    accepts("llama4_text", "\"intermediate_size_mlp\": 80, \"interleave_moe_layer_step\": 3", &a);
    assert_true(!a.block[0].routed && !a.block[1].routed && a.block[2].routed);
    refuses("llama4_text", "\"intermediate_size_mlp\": 80, \"moe_layers\": [3]", "moe_layers");
    refuses("llama4_text", DENSE ", \"attention_chunk_size\": -1", "chunks of attention of -1");
    refuses("llama4_text", DENSE ", \"floor_scale\": 0", "0 positions");
    refuses("llama4_text", DENSE ", \"attn_scale\": -0.1", "weight of -0.1");
    refuses("llama4_text",
            DENSE ", \"attention_chunk_size\": null, \"layer_types\": [\"full_attention\", "
                  "\"chunked_attention\", \"full_attention\"]",
            "chunked_attention where its size is set");
    refuses("llama4_text",
            DENSE ", \"layer_types\": [\"full_attention\", \"sliding_attention\", "
                  "\"full_attention\"]",
            "sliding_attention");
}

#define QWEN1                                                                     \
    "{\"model_type\": \"qwen\", \"hidden_size\": 64, \"intermediate_size\": 96, " \
    "\"num_hidden_layers\": 2, \"vocab_size\": 100, \"num_attention_heads\": 4, \"bf16\": true"

static void test_qwen1(void **state)
{
    (void)state;
    mq_arch a;
    assert_int_equal(parse("qwen", QWEN1 ", \"seq_length\": 2048}", &a), MQ_OK);
    assert_true(a.intermediate == 48 && a.n_kv_heads == 4 && a.head_dim == 128);
    assert_true(a.fused_qkv && a.has_bias[MQ_Q] && !a.has_bias[MQ_O] && !a.has_bias[MQ_UP]);
    assert_true(a.rope.scaling == MQ_ROPE_DOUBLING && a.rope.original_positions == 2048);
    assert_true(a.query_scale.kind == MQ_QUERY_LOG && a.query_scale.positions == 2048);
    assert_true(mq_arch_scales_queries(&a, 0) && a.norm_eps == 1e-6);
    assert_int_equal(parse("qwen",
                           QWEN1 ", \"seq_length\": 8192, \"use_dynamic_ntk\": false, \"no_bias\": "
                                 "false, \"use_logn_attn\": false, \"kv_channels\": 32, "
                                 "\"rotary_pct\": 0.25}",
                           &a),
                     MQ_OK);
    assert_true(a.rope.scaling == MQ_ROPE_PLAIN && a.rope.dim == 8);
    assert_true(a.query_scale.kind == MQ_QUERY_PLAIN && a.has_bias[MQ_O] && a.has_bias[MQ_DOWN]);
    static const struct {
        const char *more, *message;
    } bad[] = {{"}", "seq_length"},
               {", \"seq_length\": 0, \"use_logn_attn\": false}", "grows from 0 positions"},
               {", \"seq_length\": 1}", "1 positions"},
               {", \"seq_length\": 8, \"kv_channels\": 2}", "of 2 coordinates"},
               {", \"seq_length\": 8, \"no_bias\": 1}", "no_bias"},
               {", \"seq_length\": 8, \"scale_attn_weights\": false}", "scale_attn_weights"},
               {", \"seq_length\": 8, \"rope_scaling\": {\"type\": \"linear\"}}", "rope_scaling"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char config[1024];
        snprintf(config, sizeof config, QWEN1 "%s", bad[i].more);
        assert_int_equal(parse("qwen", config, &a), MQ_E_INPUT);
        if (!strstr(mq_message(), bad[i].message)) {
            fail_msg("\"%s\" lacks \"%s\"", mq_message(), bad[i].message);
        }
    }
    assert_int_equal(parse("qwen",
                           "{\"model_type\": \"qwen\", \"hidden_size\": 64, "
                           "\"intermediate_size\": 97, \"num_hidden_layers\": 2}",
                           &a),
                     MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "which 2 does not divide"));
}

/* A descriptor with a member of Llama's put in place of another. */
static mq_status parse_edited(const char *from, const char *to, mq_arch *a)
{
    char edited[8192], *text = read_data("llama"), *common = read_data("common");
    const char *at = strstr(text, from);
    assert_non_null(at);
    snprintf(edited, sizeof edited, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    mq_status status =
        mq_arch_parse("{\"model_type\": \"llama\", " SIZES "}", "c", edited, common, a);
    mq_free(&text);
    mq_free(&common);
    return status;
}

static void test_clipped_swiglu(void **state)
{
    (void)state;
    mq_arch a;
    static const char activation[] =
        "\"activation\": {\"key\": \"hidden_act\", \"default\": \"silu\"}";
#define CLIPPED "\"activation\": \"clipped_swiglu\", \"activation_limit\": 7.0"
    assert_int_equal(parse_edited(activation, CLIPPED ", \"activation_slope\": 1.702", &a), MQ_OK);
    assert_true(a.activation.kind == MQ_CLIPPED_SWIGLU);
    assert_true(a.activation.limit == 7 && a.activation.slope == 1.702);
    assert_int_equal(parse_edited(activation, CLIPPED, &a), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "activation_slope 0"));
}

/* Of a block of full attention: q has a gate for each of its outputs. */
static void test_qwen3_5(void **state)
{
    (void)state;
    mq_arch a;
    int64_t n_out = 0, n_in = 0;
    accepts("qwen3_5",
            "\"head_dim\": 24, \"attn_output_gate\": true, \"full_attention_interval\": 1", &a);
    mq_arch_linear_shape(&a, 0, MQ_Q, &n_out, &n_in);
    assert_true(a.attention_gate && n_out == 2 * 4 * 24 && n_in == 64);
    mq_arch_linear_shape(&a, 0, MQ_O, &n_out, &n_in);
    assert_true(n_out == 64 && n_in == 4 * 24);
    assert_int_equal(mq_arch_qkv_width(&a), (2 * 4 + 2 * 2) * 24);
    assert_true(a.rope.dim == 6 && a.norm_plus_one);
    refuses("qwen3_5", "\"attn_output_gate\": false", "attn_output_gate");
}

static void test_granite(void **state)
{
    (void)state;
    mq_arch a;
    accepts("llama", "\"head_dim\": 16", &a);
    assert_true(a.attention_scale == 0.25 && a.embed_scale == 1 && a.residual_scale == 1);
    accepts("granite",
            "\"attention_multiplier\": 0.015625, \"embedding_multiplier\": 12.0, "
            "\"residual_multiplier\": 0.22, \"logits_scaling\": 16.0",
            &a);
    assert_true(a.attention_scale == 0.015625 && a.embed_scale == 12);
    assert_true(a.residual_scale == 0.22 && a.logit_scale == 1.0 / 16);
    refuses("granite", "\"attention_multiplier\": 0.0", "attention_scale = 0");
    refuses("granite", "\"residual_multiplier\": -1.0", "residual_scale = -1");
    refuses("granite", "\"logits_scaling\": 0.0", "logit_divisor = 0");
    refuses("llama", "\"residual_multiplier\": 0.22", "residual_multiplier");
}

/* Which blocks slide and which turn, as "s" or "f" and "r" or "n" each. */
static void check_blocks(const mq_arch *a, const char *expected)
{
    char found[64] = "";
    for (int64_t b = 0; b < a->n_blocks; b++) {
        snprintf(found + 3 * b, sizeof found - (size_t)(3 * b), "%c%c ",
                 mq_arch_window(a, b) ? 's' : 'f', mq_arch_rope(a, b) ? 'r' : 'n');
    }
    assert_string_equal(found, expected);
}

static void test_block_patterns(void **state)
{
    (void)state;
    mq_arch a;
    accepts("smollm3", "", &a);
    check_blocks(&a, "fr fr fr ");
    accepts("smollm3", "\"no_rope_layer_interval\": 2, \"pretraining_tp\": 2", &a);
    check_blocks(&a, "fr fn fr ");
    accepts("smollm3",
            "\"no_rope_layers\": [0, 1, 0, 1], \"use_sliding_window\": true, "
            "\"sliding_window\": 9",
            &a);
    check_blocks(&a, "sn fr sn ");
    accepts("smollm3",
            "\"no_rope_layers\": [0, 1, 1], \"use_sliding_window\": true, "
            "\"sliding_window\": 9, \"layer_types\": [\"full_attention\", "
            "\"sliding_attention\", \"full_attention\"]",
            &a);
    check_blocks(&a, "fn sr fr ");
    refuses("smollm3", "\"no_rope_layers\": [0, 1]", "each of 3 blocks");
    refuses("smollm3", "\"no_rope_layers\": [0, 1, 2]", "block 2");
    refuses("smollm3", "\"no_rope_layer_interval\": 0", "makes no sense");
    accepts("cohere2", "\"rope_theta\": 1e4, \"sliding_window_pattern\": 2", &a);
    check_blocks(&a, "sr fn sr ");
    accepts("cohere2", "\"rope_theta\": 1e4, \"sliding_window\": null", &a);
    check_blocks(&a, "fn fn fn ");
    refuses("cohere2", "\"rope_theta\": 1e4, \"use_parallel_block\": false", "use_parallel_block");
    accepts("ministral", "\"head_dim\": 16, \"sliding_window\": 9", &a);
    check_blocks(&a, "sr sr sr ");
    accepts("ministral", "\"head_dim\": 16, \"sliding_window\": null", &a);
    check_blocks(&a, "fr fr fr ");
}

static void test_qk_norms(void **state)
{
    (void)state;
    mq_arch a;
    accepts("qwen3", "", &a);
    assert_true(!a.qk_norm_after_rope && mq_head_norm_is_known(&a));
    accepts("hunyuan", "\"use_qk_norm\": true, \"num_experts\": 1", &a);
    assert_true(a.qk_norm == MQ_QK_HEAD_SHARED && a.qk_norm_after_rope);
    assert_false(mq_head_norm_is_known(&a));
    refuses("hunyuan", "\"use_qk_norm\": false", "use_qk_norm");
}

static void test_norms_of_branches(void **state)
{
    (void)state;
    mq_arch a;
    accepts("llama", "", &a);
    assert_false(mq_arch_norms_branch(&a, MQ_O) || a.norm_plus_one);
    accepts("olmo2", "", &a);
    assert_true(a.qk_norm == MQ_QK_ALL_HEADS && mq_head_norm_is_known(&a));
    assert_null(mq_arch_tap_norm(&a, MQ_TAP_ATTN_IN));
    assert_null(mq_arch_tap_norm(&a, MQ_TAP_MLP_IN));
    assert_true(mq_arch_norms_branch(&a, MQ_O) && mq_arch_norms_branch(&a, MQ_DOWN));
    accepts("gemma2", "", &a);
    assert_string_equal(mq_arch_tap_norm(&a, MQ_TAP_MLP_IN),
                        "model.layers.{i}.pre_feedforward_layernorm.weight");
    assert_true(mq_arch_norms_branch(&a, MQ_O) && mq_arch_norms_branch(&a, MQ_DOWN));
    assert_true(a.norm_plus_one && a.embed_sqrt);
}

static void test_gemma(void **state)
{
    (void)state;
    mq_arch a;
    accepts("gemma", "\"hidden_act\": \"gelu\"", &a);
    assert_true(a.activation.kind == MQ_GELU_TANH && a.attention_cap == 0);
    accepts("gemma2", "\"query_pre_attn_scalar\": 64, \"head_dim\": 16", &a);
    assert_true(a.attention_scale == 0.125 && a.attention_cap == 50 && a.logit_cap == 30);
    check_blocks(&a, "sr fr sr ");
    accepts("gemma2", "\"attn_logit_softcapping\": null", &a);
    assert_true(a.attention_cap == 0 && a.logit_cap == 30);
    refuses("gemma2", "\"attn_logit_softcapping\": -1", "cap of -1");
    refuses("gemma2", "\"query_pre_attn_scalar\": -4", "attention_scalar = -4");
    refuses("gemma2", "\"use_bidirectional_attention\": true", "use_bidirectional_attention");
    accepts("gemma3", "\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 8}", &a);
    check_blocks(&a, "sr sr sr ");
    assert_true(mq_arch_rope(&a, 0)->theta == 1e4 && mq_arch_rope(&a, 0)->factor == 1);
    assert_true(a.rope.theta == 1e6 && a.rope.factor == 8);
    accepts("gemma3",
            "\"sliding_window_pattern\": 2, \"rope_parameters\": {\"full_attention\": "
            "{\"rope_theta\": 7.0}, \"sliding_attention\": {\"rope_theta\": 5.0}}",
            &a);
    assert_true(mq_arch_rope(&a, 0)->theta == 5 && mq_arch_rope(&a, 1)->theta == 7);
    refuses("gemma3",
            "\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 7.0}, "
            "\"chunked_attention\": {\"rope_theta\": 5.0}}",
            "chunked_attention");
}

static void test_rope_types(void **state)
{
    (void)state;
    mq_arch a;
    accepts("qwen3",
            "\"max_position_embeddings\": 256, \"rope_scaling\": {\"type\": \"yarn\", "
            "\"factor\": 4, \"original_max_position_embeddings\": 64}",
            &a);
    assert_true(a.rope.scaling == MQ_ROPE_YARN && a.rope.original_positions == 64);
    assert_true(a.rope.beta_fast == 32 && a.rope.beta_slow == 1 && a.rope.truncate);
    assert_true(fabs(a.rope.attention_factor - (0.1 * log(4) + 1)) < 1e-15);
    accepts("llama",
            "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"mscale\": 0.5, "
            "\"mscale_all_dim\": 1, \"original_max_position_embeddings\": 64}",
            &a);
    assert_true(fabs(a.rope.attention_factor - (0.05 * log(4) + 1) / (0.1 * log(4) + 1)) < 1e-15);
    accepts("llama",
            "\"max_position_embeddings\": 256, \"rope_scaling\": {\"type\": \"dynamic\", "
            "\"factor\": 4}",
            &a);
    assert_true(a.rope.scaling == MQ_ROPE_NTK && a.rope.theta == 1e4);
    accepts("hunyuan",
            "\"head_dim\": 16, \"rope_scaling\": {\"type\": \"dynamic\", \"alpha\": 1000.0, "
            "\"factor\": 1.0, \"mscale\": 1.0}",
            &a);
    assert_true(a.rope.scaling == MQ_ROPE_PLAIN);
    assert_true(fabs(a.rope.theta / (1e4 * pow(1000, 16.0 / 14)) - 1) < 1e-12);
}

static void test_biases(void **state)
{
    (void)state;
    mq_arch a;
    accepts("seed_oss", "\"mlp_bias\": true", &a);
    assert_true(a.has_bias[MQ_Q] && !a.has_bias[MQ_O] && a.has_bias[MQ_UP]);
    accepts("internlm3", "\"rope_theta\": 5e7, \"qkv_bias\": true, \"bias\": true", &a);
    assert_true(a.has_bias[MQ_Q] && a.has_bias[MQ_O] && a.has_bias[MQ_UP]);
    accepts("internlm3", "\"rope_theta\": 5e7, \"attention_bias\": false, \"mlp_bias\": false", &a);
    assert_false(a.has_bias[MQ_Q] || a.has_bias[MQ_O] || a.has_bias[MQ_UP]);
    accepts("ernie4_5", "\"rope_theta\": 5e5, \"use_bias\": true", &a);
    assert_true(a.has_bias[MQ_Q] && a.has_bias[MQ_O] && a.has_bias[MQ_DOWN] && a.tied);
}

/* The keys of Falcon-3's config.json: a Llama. */
static void test_falcon3(void **state)
{
    (void)state;
    mq_arch a;
    accepts("llama",
            "\"architectures\": [\"LlamaForCausalLM\"], \"activation\": \"swiglu\", "
            "\"attention_bias\": false, \"attention_dropout\": 0.0, \"eos_token_id\": 11, "
            "\"head_dim\": 256, \"hidden_act\": \"silu\", \"initializer_range\": 0.02, "
            "\"max_position_embeddings\": 32768, \"mlp_bias\": false, "
            "\"num_key_value_heads\": 1, \"pretraining_tp\": 1, \"rms_norm_eps\": 1e-06, "
            "\"rope_scaling\": null, \"rope_theta\": 1000042, "
            "\"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\", "
            "\"transformers_version\": \"4.46.1\", \"use_cache\": true",
            &a);
    assert_true(a.head_dim == 256 && a.rope.theta == 1000042);
    refuses("llama", "\"activation\": \"geglu\"", "activation");
}

/* The styles of transformers 4 and 5 give the same arch. */
static void test_rope_styles(void **state)
{
    (void)state;
    mq_arch old, new;
#define LLAMA3                                                               \
    "\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, " \
    "\"original_max_position_embeddings\": 64"
    accepts("llama",
            "\"rope_theta\": 5000.0, \"torch_dtype\": \"bfloat16\", "
            "\"rope_scaling\": {\"rope_type\": \"llama3\", " LLAMA3 "}",
            &old);
    accepts("llama",
            "\"dtype\": \"bfloat16\", \"rope_parameters\": {\"rope_type\": \"llama3\", "
            "\"rope_theta\": 5000.0, " LLAMA3 "}",
            &new);
    assert_memory_equal(&old, &new, sizeof old);
    assert_true(old.rope.scaling == MQ_ROPE_LLAMA3 && old.rope.theta == 5000);
    assert_true(old.rope.factor == 8 && old.rope.low_freq == 1 && old.rope.high_freq == 4);
    assert_int_equal(old.rope.original_positions, 64);
    accepts("llama", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}", &old);
    accepts("llama", "\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 4.0}", &new);
    assert_memory_equal(&old, &new, sizeof old);
    assert_true(old.rope.scaling == MQ_ROPE_LINEAR && old.rope.factor == 4);
    assert_true(old.rope.theta == 10000);
    accepts("llama",
            "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, "
            "\"low_freq_factor\": 1, \"high_freq_factor\": 4}",
            &old);
    assert_int_equal(old.rope.original_positions, 512); /* max_position_embeddings */
}

static void test_bad_rope(void **state)
{
    (void)state;
    refuses("llama", "\"rope_scaling\": {\"type\": \"proportional\"}", "\"proportional\"");
    refuses("llama", "\"rope_scaling\": {\"type\": \"yarn\"}", "factor");
    refuses("llama", "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"beta_fast\": 0.5}",
            "fast >= slow");
    refuses("llama", "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 4, \"alpha\": 3}",
            "alpha");
    refuses("llama", "\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1, 2]}",
            "short_factor");
    refuses("hunyuan", "\"rope_scaling\": {\"type\": \"dynamic\", \"alpha\": -3}", "alpha -3");
    refuses("gemma3",
            "\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"yarn\", \"factor\": 4, "
            "\"truncate\": false}}",
            "truncate");
    refuses("llama", "\"rope_scaling\": {\"type\": \"linear\"}", "factor");
    refuses("llama", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": -1}", "factor -1");
    refuses("llama", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4, \"beta\": 3}",
            "\"beta\"");
    refuses("llama", "\"rope_scaling\": {\"type\": \"default\", \"factor\": 4}", "\"factor\"");
    refuses("llama",
            "\"rope_scaling\": {\"type\": \"linear\", \"rope_type\": \"llama3\", \"factor\": 4}",
            "rope_type");
    refuses("llama", "\"rope_scaling\": \"linear\"", "must be an object");
    refuses("llama",
            "\"rope_scaling\": {\"type\": \"default\"}, "
            "\"rope_parameters\": {\"rope_type\": \"default\"}",
            "both");
    refuses("llama", "\"rope_theta\": 1e4, \"rope_parameters\": {\"rope_theta\": 1e5}",
            "rope_theta");
    refuses("llama", "\"rope_theta\": 0", "positive");
    refuses("llama", "\"rope_theta\": \"big\"", "must be a finite number");
    refuses("llama", "\"partial_rotary_factor\": 0.5", "partial_rotary_factor");
    refuses("llama",
            "\"rope_parameters\": {\"rope_type\": \"default\", \"partial_rotary_factor\": 0.5}",
            "partial_rotary_factor");
    refuses("llama",
            "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
            "\"high_freq_factor\": 4}",
            "low < high");
    refuses("llama", "\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"default\"}}",
            "full_attention");
}

static void test_unknown_keys(void **state)
{
    (void)state;
    mq_arch a;
    refuses("llama", "\"clip_qkv\": 8.0", "\"clip_qkv\"");
    refuses("llama", "\"clip_qkv\": 8.0", "ignored_keys");
    refuses("llama", "\"attn_kind\": \"linear\"", "\"attn_kind\"");
    refuses("llama", "\"experts\": {\"n\": 8}", "\"experts\"");
    refuses("llama", "\"pretraining_tp\": 2", "\"pretraining_tp\" is 2");
    refuses("llama", "\"is_encoder_decoder\": true", "is_encoder_decoder");
    /* switched off */
    accepts("llama",
            "\"clip_qkv\": 0, \"a\": false, \"b\": null, \"c\": \"\", \"d\": [], \"e\": {}", &a);
    /* A key of another family is unknown to this one. */
    refuses("llama", "\"use_qk_norm\": true", "use_qk_norm");
    refuses("mistral", "\"attention_bias\": true", "attention_bias");
    refuses("llama", "\"sliding_window\": 128", "sliding_window");
}

static void test_bad_sizes(void **state)
{
    (void)state;
    mq_arch a;
    refuses("llama", "\"head_dim\": 0", "head_dim = 0");
    refuses("llama", "\"head_dim\": 15", "odd");
    refuses("llama", "\"head_dim\": 16.5", "must be an integer");
    refuses("llama", "\"head_dim\": 4294967296", "out of range");
    refuses("llama", "\"head_dim\": \"hidden\"", "must be an integer");
    refuses("llama", "\"hidden_act\": \"relu\"", "\"relu\"; this version knows silu");
    refuses("llama", "\"hidden_act\": 3", "hidden_act");
    refuses("llama", "\"tie_word_embeddings\": \"no\"", "must be true or false");
    refuses("llama", "\"rms_norm_eps\": -1e-6", "epsilon");
    assert_int_equal(parse("llama",
                           "{\"model_type\": \"llama\", \"hidden_size\": 64, "
                           "\"intermediate_size\": 96, \"num_hidden_layers\": 3, "
                           "\"vocab_size\": 100, \"num_attention_heads\": 6}",
                           &a),
                     MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "64 / 6"));
    assert_int_equal(parse("llama",
                           "{\"model_type\": \"llama\", \"hidden_size\": 64, "
                           "\"intermediate_size\": 96, \"num_hidden_layers\": 3, "
                           "\"vocab_size\": 100, \"num_attention_heads\": 4, "
                           "\"num_key_value_heads\": 3}",
                           &a),
                     MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "evenly"));
    assert_int_equal(parse("llama", "{\"model_type\": \"llama\", \"hidden_size\": 64}", &a),
                     MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "num_hidden_layers"));
}

static void test_bad_texts(void **state)
{
    (void)state;
    mq_arch a;
    assert_int_equal(parse("llama", "{\"model_type\": ", &a), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "M/config.json: not valid JSON"));
    assert_int_equal(parse("llama", "[1]", &a), MQ_E_INPUT);
    assert_int_equal(parse("llama", "{}", &a), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "model_type"));
}

static void test_quantised(void **state)
{
    (void)state;
    mq_arch a;
    accepts("llama", "\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4}", &a);
    assert_true(a.packed == MQ_PACKED_GPTQ && a.gptq_zero_offset == 1);
    accepts("llama",
            "\"quantization_config\": {\"quant_method\": \"gptq\", "
            "\"checkpoint_format\": \"gptq_v2\"}",
            &a);
    assert_true(a.packed == MQ_PACKED_GPTQ && a.gptq_zero_offset == 0);
    refuses("llama", "\"quantization_config\": {\"quant_method\": \"awq\"}", "\"awq\"");
    refuses("llama", "\"quantization_config\": {\"bits\": 4}", "quant_method");
    refuses("llama",
            "\"quantization_config\": {\"quant_method\": \"gptq\", "
            "\"checkpoint_format\": \"marlin\"}",
            "marlin");
}

/* Descriptors that say too little or something unknown: edits of Llama's. */
static void test_bad_descriptors(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *message;
    } edits[] = {
        {"\"logit_scale\": 1.0", "\"lgoit_scale\": 1.0", "lgoit_scale"},
        {"\"logit_scale\": 1.0,", "", "logit_scale"},
        {"\"norm\": \"rms\"", "\"norm\": \"batch\"", "batch"},
        {"\"gate\": {\"key\"", "\"gatte\": {\"key\"", "\"gate\""},
        {"model.layers.{i}.mlp.up_proj", "model.layers.mlp.up_proj", "\"up\""},
        {"model.norm.weight", "model.{i}.norm.weight", "final_norm"},
        {"hidden / n_heads", "hidden / fingers", "quotient"},
        {"\"family\"", "\"tribe\"", "family"},
        {"\"rope_pairs\"", "\"rope_pears\"", "unknown member"},
        {"[\"q\", \"k\"", "[\"queue\", \"k\"", "not a linear"},
        {"\"architecture\": \"llama\",", "", "architecture"},
        {"\"scaling\": {", "\"partail\": 1, \"scaling\": {", "partail"},
        {"\"ignored_tensors\"", "\"windwo\": {}, \"ignored_tensors\"", "windwo"},
        {"\"embed\":", "\"o_nrom\": \"none\", \"embed\":", "o_nrom"},
        {"\"source\":", "\"sauce\":", "source"},
        {"\"bits8\"", "\"bits9\"", "bits9"},
        {"\"bits8\": [", "\"bits8\": [\"a\", \"b\", \"c\", \"d\", ", "up to 4"},
        {"\"bits8\": [", "\"bits8\": [\"\", ", "1 to 127"},
        {"\"embed\":", "\"sinks\": \"model.sinks\", \"embed\":", "\"sinks\""},
        {"\"qk_norm\": \"none\"", "\"qk_norm\": \"head_shared\"", "q_norm"},
        {"\"q\": \"model.layers.{i}.self_attn.q_proj\"",
         "\"qkv\": \"model.layers.self_attn.qkv\", \"q\": \"x\"", "\"qkv\""},
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        mq_arch a;
        assert_int_equal(parse_edited(edits[i].from, edits[i].to, &a), MQ_E_INPUT);
        if (!strstr(mq_message(), edits[i].message)) {
            fail_msg("edit %zu: \"%s\" lacks \"%s\"", i, mq_message(), edits[i].message);
        }
    }
}

/* Patterns have the number of the last block put in, and every one of them matches a layer. */
static void test_sensitive(void **state)
{
    (void)state;
    static const char *const families[] = {"llama", "mistral", "gemma"};
    mq_arch a;
    accepts("llama", "", &a);
    assert_int_equal(a.sensitive.n_bits8, 1);
    assert_string_equal(a.sensitive.bits8[0], "\\.(0|1|2|3|2)\\.mlp\\.down_proj$");
    accepts("qwen3", "", &a);
    assert_int_equal(a.sensitive.n_skip + a.sensitive.n_bits8, 0);
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        char name[128];
        accepts(families[f], strcmp(families[f], "gemma") == 0 ? "\"head_dim\": 16" : "", &a);
        assert_true(a.sensitive.n_skip + a.sensitive.n_bits8 > 0);
        mq_arch_linear_name(&a, MQ_DOWN, a.n_blocks - 1, name, sizeof name);
        for (int i = 0; i < a.sensitive.n_bits8; i++) {
            regex_t regex;
            assert_int_equal(regcomp(&regex, a.sensitive.bits8[i], REG_EXTENDED | REG_NOSUB), 0);
            assert_int_equal(regexec(&regex, name, 0, NULL, 0), 0);
            regfree(&regex);
        }
    }
}

static void test_names_and_shapes(void **state)
{
    (void)state;
    mq_arch a;
    char name[64];
    int64_t n_out = 0, n_in = 0;
    accepts("llama", "\"head_dim\": 24", &a);
    mq_arch_linear_name(&a, MQ_DOWN, 12, name, sizeof name);
    assert_string_equal(name, "model.layers.12.mlp.down_proj");
    mq_arch_name("a.{i}", 3, name, sizeof name);
    assert_string_equal(name, "a.3");
    mq_arch_name("lm_head.weight", 3, name, sizeof name);
    assert_string_equal(name, "lm_head.weight");
    mq_arch_name("model.layers.{i}.x", 1234567, name, 16); /* cut, with its end marked */
    assert_string_equal(name, "model.layers.12");
    static const int64_t expected[MQ_N_LINEARS][2] = {
        [MQ_Q] = {96, 64},    [MQ_K] = {48, 64},  [MQ_V] = {48, 64},   [MQ_O] = {64, 96},
        [MQ_GATE] = {96, 64}, [MQ_UP] = {96, 64}, [MQ_DOWN] = {64, 96}};
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        mq_arch_linear_shape(&a, 0, (mq_linear_id)l, &n_out, &n_in);
        assert_int_equal(n_out, expected[l][0]);
        assert_int_equal(n_in, expected[l][1]);
    }
}

/* Every linear hangs on exactly one tap, whose width is the linear's n_in. */
static void check_taps(const mq_arch *a, const char *expected)
{
    mq_tap_id taps[MQ_N_TAPS];
    mq_linear_id linears[MQ_N_LINEARS];
    char text[256] = "";
    int seen = 0, n_taps = mq_arch_taps(a, 0, taps);
    for (int t = 0; t < n_taps; t++) {
        int n = mq_arch_tap_linears(a, 0, taps[t], linears);
        strcat(text, mq_tap_name(taps[t]));
        for (int i = 0; i < n; i++) {
            int64_t n_out = 0, n_in = 0;
            mq_arch_linear_shape(a, 0, linears[i], &n_out, &n_in);
            assert_int_equal(n_in, mq_arch_tap_width(a, 0, taps[t]));
            strcat(strcat(text, i ? "," : ":"), mq_linear_name(linears[i]));
            seen++;
        }
        strcat(text, " ");
    }
    for (int l = 0; l < MQ_N_LINEARS; l++) seen -= mq_arch_has(a, 0, (mq_linear_id)l);
    assert_int_equal(seen, 0);
    assert_string_equal(text, expected);
}

/* The head: a layer after all blocks, with a tap of its own. */
static void test_head(void **state)
{
    (void)state;
    mq_arch a;
    mq_linear_id linears[MQ_N_LINEARS];
    int64_t n_out = 0, n_in = 0;
    char name[64];
    accepts("qwen3", "", &a);
    mq_arch_linear_name(&a, MQ_HEAD, 5, name, sizeof name);
    assert_string_equal(name, "lm_head");
    mq_arch_linear_shape(&a, 0, MQ_HEAD, &n_out, &n_in);
    assert_int_equal(n_out, a.vocab);
    assert_int_equal(n_in, a.hidden);
    assert_int_equal(mq_arch_tap_linears(&a, 0, MQ_TAP_HEAD_IN, linears), 1);
    assert_int_equal(linears[0], MQ_HEAD);
    assert_int_equal(mq_arch_tap_width(&a, 0, MQ_TAP_HEAD_IN), a.hidden);
    assert_string_equal(mq_tap_place(5, MQ_TAP_HEAD_IN).text, "lm_head");
    assert_string_equal(mq_tap_place(5, MQ_TAP_MLP_MID).text, "block 5, mlp_mid");
}

static void test_taps(void **state)
{
    (void)state;
    mq_arch a;
    accepts("qwen3", "", &a);
    check_taps(&a, "attn_in:q,k,v attn_out:o mlp_in:gate,up mlp_mid:down ");
    accepts("cohere", "\"rope_theta\": 1e6", &a);
    check_taps(&a, "attn_in:q,k,v,gate,up attn_out:o mlp_mid:down ");
}

static void test_layers_of_several(void **state)
{
    (void)state;
    mq_arch a;
    int64_t n_out = 0, n_in = 0;
    accepts("phi3", "\"original_max_position_embeddings\": 64", &a);
    check_taps(&a, "attn_in:q attn_out:o mlp_in:gate mlp_mid:down ");
    mq_arch_linear_shape(&a, 0, MQ_Q, &n_out, &n_in);
    assert_int_equal(n_out, (a.n_heads + 2 * a.n_kv_heads) * a.head_dim);
    mq_arch_linear_shape(&a, 0, MQ_GATE, &n_out, &n_in);
    assert_int_equal(n_out, 2 * a.intermediate);
    mq_arch_linear_shape(&a, 0, MQ_UP, &n_out, &n_in);
    assert_int_equal(n_out, 0);
    assert_false(mq_arch_has(&a, 0, MQ_K) || mq_arch_has(&a, 0, MQ_UP));
    assert_true(mq_arch_has(&a, 0, MQ_Q) && !mq_arch_has(&a, 0, MQ_HEAD));
    accepts("glm4", "\"head_dim\": 16", &a);
    check_taps(&a, "attn_in:q,k,v attn_out:o mlp_in:gate mlp_mid:down ");
    assert_true(a.rope.dim == 8 && a.rope_interleaved && a.has_bias[MQ_V] && !a.has_bias[MQ_O]);
    refuses("glm4", "\"head_dim\": 16, \"partial_rotary_factor\": 0.1", "even number");
    refuses("glm4",
            "\"partial_rotary_factor\": 0.5, \"rope_parameters\": {\"rope_theta\": 1e4, "
            "\"partial_rotary_factor\": 0.25}",
            "is 0.25");
    accepts("starcoder2", "", &a);
    check_taps(&a, "attn_in:q,k,v attn_out:o mlp_in:up mlp_mid:down ");
    assert_true(a.norm == MQ_NORM_LAYER && a.norm_bias && !a.gated && a.has_bias[MQ_UP]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_defaults),
        cmocka_unit_test(test_llama_switches),
        cmocka_unit_test(test_null_is_absent),
        cmocka_unit_test(test_mistral_window),
        cmocka_unit_test(test_mistral_heads),
        cmocka_unit_test(test_qwen2_window),
        cmocka_unit_test(test_layer_types),
        cmocka_unit_test(test_qwen_features),
        cmocka_unit_test(test_cohere),
        cmocka_unit_test(test_granite),
        cmocka_unit_test(test_granite_swa),
        cmocka_unit_test(test_llama4_text),
        cmocka_unit_test(test_qwen3_5),
        cmocka_unit_test(test_qwen1),
        cmocka_unit_test(test_clipped_swiglu),
        cmocka_unit_test(test_block_patterns),
        cmocka_unit_test(test_qk_norms),
        cmocka_unit_test(test_norms_of_branches),
        cmocka_unit_test(test_gemma),
        cmocka_unit_test(test_rope_styles),
        cmocka_unit_test(test_rope_types),
        cmocka_unit_test(test_biases),
        cmocka_unit_test(test_falcon3),
        cmocka_unit_test(test_bad_rope),
        cmocka_unit_test(test_unknown_keys),
        cmocka_unit_test(test_bad_sizes),
        cmocka_unit_test(test_bad_texts),
        cmocka_unit_test(test_quantised),
        cmocka_unit_test(test_bad_descriptors),
        cmocka_unit_test(test_names_and_shapes),
        cmocka_unit_test(test_sensitive),
        cmocka_unit_test(test_taps),
        cmocka_unit_test(test_layers_of_several),
        cmocka_unit_test(test_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
