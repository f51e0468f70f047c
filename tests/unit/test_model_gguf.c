#include "base/file.h"
#include "base/memory.h"
#include "model/arch_parse.h"
#include "model/block.h"
#include "model/gguf.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* llama.cpp's names for the families that are known to it, and what of them it does not compute. */

static char *read_data(const char *name)
{
    char path[4096], *text = NULL;
    snprintf(path, sizeof path, "%s/configs/arch/%s.json", MQ_SOURCE_DIR, name);
    assert_int_equal(mq_read_text(path, 1 << 20, &text, NULL), MQ_OK);
    return text;
}

static mq_arch load(const char *family, int blocks, const char *more)
{
    mq_arch arch;
    char config[1024];
    snprintf(config, sizeof config,
             "{\"model_type\": \"%s\", \"hidden_size\": 64, \"intermediate_size\": 96, "
             "\"num_hidden_layers\": %d, \"vocab_size\": 100, \"num_attention_heads\": 4, "
             "\"head_dim\": 16, \"num_key_value_heads\": 2, \"max_position_embeddings\": 512%s%s}",
             family, blocks, more[0] ? ", " : "", more);
    char *descriptor = read_data(family), *common = read_data("common");
    if (mq_arch_parse(config, "M/config.json", descriptor, common, &arch) != MQ_OK) {
        fail_msg("%s", mq_message());
    }
    mq_free(&descriptor);
    mq_free(&common);
    return arch;
}

static void check_place(const mq_arch *arch, const char *name, const char *expected, bool vector,
                        int64_t head_rows)
{
    mq_gguf_place place;
    if (!mq_gguf_find_place(arch, name, &place)) fail_msg("no place for %s", name);
    assert_string_equal(place.name, expected);
    assert_int_equal(place.vector, vector);
    assert_int_equal(place.head_rows, head_rows);
}

static void check_no_place(const mq_arch *arch, const char *name)
{
    mq_gguf_place place;
    if (mq_gguf_find_place(arch, name, &place)) fail_msg("%s became %s", name, place.name);
}

static void test_llama(void **state)
{
    (void)state;
    mq_arch a = load("llama", 12, "\"attention_bias\": true");
    assert_int_equal(mq_gguf_check(&a), MQ_OK);
    assert_string_equal(a.gguf.architecture, "llama");
    check_place(&a, "model.embed_tokens.weight", "token_embd.weight", false, 0);
    check_place(&a, "model.norm.weight", "output_norm.weight", true, 0);
    check_place(&a, "lm_head.weight", "output.weight", false, 0);
    check_place(&a, "model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", true, 0);
    check_place(&a, "model.layers.11.post_attention_layernorm.weight", "blk.11.ffn_norm.weight",
                true, 0);
    check_place(&a, "model.layers.3.self_attn.q_proj.weight", "blk.3.attn_q.weight", false, 16);
    check_place(&a, "model.layers.3.self_attn.k_proj.weight", "blk.3.attn_k.weight", false, 16);
    check_place(&a, "model.layers.3.self_attn.k_proj.bias", "blk.3.attn_k.bias", true, 16);
    check_place(&a, "model.layers.3.self_attn.v_proj.weight", "blk.3.attn_v.weight", false, 0);
    check_place(&a, "model.layers.3.self_attn.o_proj.bias", "blk.3.attn_output.bias", true, 0);
    check_place(&a, "model.layers.10.mlp.gate_proj.weight", "blk.10.ffn_gate.weight", false, 0);
    check_place(&a, "model.layers.10.mlp.up_proj.weight", "blk.10.ffn_up.weight", false, 0);
    check_place(&a, "model.layers.10.mlp.down_proj.weight", "blk.10.ffn_down.weight", false, 0);
    check_no_place(&a, "model.layers.3.self_attn.rotary_emb.inv_freq");
    check_no_place(&a, "model.layers.12.mlp.up_proj.weight");
    check_no_place(&a, "model.layers.03.mlp.up_proj.weight");
    check_no_place(&a, "model.layers.-1.mlp.up_proj.weight");
    check_no_place(&a, "model.layers.3.mlp.up_proj.weights");
    a = load("llama", 12, "\"tie_word_embeddings\": true");
    check_no_place(&a, "lm_head.weight");
}

static void test_other_families(void **state)
{
    (void)state;
    mq_arch a = load("mistral", 2, "");
    assert_int_equal(mq_gguf_check(&a), MQ_OK);
    assert_string_equal(a.gguf.architecture, "llama");
    check_place(&a, "model.layers.1.self_attn.q_proj.weight", "blk.1.attn_q.weight", false, 16);
    a = load("qwen2", 2, "");
    assert_int_equal(mq_gguf_check(&a), MQ_OK);
    check_place(&a, "model.layers.1.self_attn.q_proj.bias", "blk.1.attn_q.bias", true, 0);
    a = load("qwen3", 2, "");
    assert_int_equal(mq_gguf_check(&a), MQ_OK);
    check_place(&a, "model.layers.1.self_attn.q_proj.weight", "blk.1.attn_q.weight", false, 0);
    check_place(&a, "model.layers.1.self_attn.q_norm.weight", "blk.1.attn_q_norm.weight", true, 0);
    check_place(&a, "model.layers.1.self_attn.k_norm.weight", "blk.1.attn_k_norm.weight", true, 0);
    a = load("cohere", 2, "\"rope_theta\": 8e6");
    assert_int_equal(mq_gguf_check(&a), MQ_OK);
    assert_string_equal(a.gguf.architecture, "command-r");
    check_place(&a, "model.layers.1.self_attn.k_proj.weight", "blk.1.attn_k.weight", false, 0);
    check_no_place(&a, "model.layers.1.post_attention_layernorm.weight");
}

static void check_refused(const mq_arch *arch, const char *text)
{
    assert_int_equal(mq_gguf_check(arch), MQ_E_USAGE);
    if (!strstr(mq_message(), text)) fail_msg("\"%s\" lacks \"%s\"", mq_message(), text);
}

static void test_what_has_no_form(void **state)
{
    (void)state;
    static const char llama3[] =
        "\"rope_theta\": 5e5, \"rope_scaling\": {\"rope_type\": \"llama3\", "
        "\"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
        "\"original_max_position_embeddings\": 64}";
    mq_arch a = load("qwen3", 2, "\"attention_bias\": true");
    check_refused(&a, "qwen3 models with a bias of q; --format gptq");
    a = load("llama", 2, "\"hidden_act\": \"gelu\"");
    check_refused(&a, "another MLP than SiLU");
    a = load("qwen2", 2, llama3);
    check_refused(&a, "rope scaled as Llama 3's");
    a = load("qwen3", 2,
             "\"max_position_embeddings\": 256, \"rope_scaling\": {\"rope_type\": \"yarn\", "
             "\"factor\": 4, \"original_max_position_embeddings\": 64}");
    check_refused(&a, "rope scaled like this model's");
    a = load("llama", 2, llama3);
    assert_int_equal(mq_gguf_check(&a), MQ_OK);
    a = load("cohere", 2, "\"rope_theta\": 8e6, \"tie_word_embeddings\": false");
    check_refused(&a, "a head of their own");
    a = load("cohere", 2, "\"rope_theta\": 8e6, \"use_qk_norm\": true");
    check_refused(&a, "with norms of q and k and 2 blocks");
    a = load("cohere", 64, "\"rope_theta\": 8e6");
    check_refused(&a, "without norms of q and k and 64 blocks");
    a = load("cohere", 64, "\"rope_theta\": 8e6, \"use_qk_norm\": true");
    assert_int_equal(mq_gguf_check(&a), MQ_OK);
    a.gguf.architecture[0] = '\0';
    check_refused(&a, "nothing is known here of cohere models in llama.cpp");
}

/* Frequencies divided by the factors are those of the model. */
static void test_rope_factors(void **state)
{
    (void)state;
    mq_arch a = load("llama", 2,
                     "\"rope_theta\": 1e4, \"rope_scaling\": {\"rope_type\": \"llama3\", "
                     "\"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
                     "\"original_max_position_embeddings\": 512}");
    bool kept = false, divided = false, between = false;
    for (int64_t i = 0; i < 8; i++) {
        float factor = mq_gguf_rope_factor(&a, i);
        double plain = pow(1e4, -(double)i / 8);
        assert_true(fabs(plain / (double)factor / (double)mq_rope_frequency(&a.rope, i) - 1) <
                    1e-6);
        kept = kept || factor == 1;
        divided = divided || factor == 8;
        between = between || (factor > 1 && factor < 8);
    }
    assert_true(kept && divided && between);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_other_families),
        cmocka_unit_test(test_what_has_no_form),
        cmocka_unit_test(test_rope_factors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
