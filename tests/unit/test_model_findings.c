#include "base/file.h"
#include "base/memory.h"
#include "model/arch_parse.h"
#include "model/likeness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char sizes[] =
    "\"hidden_size\": 64, \"intermediate_size\": 96, \"num_hidden_layers\": 3, "
    "\"vocab_size\": 100, \"num_attention_heads\": 4";

static char *read_data(const char *name)
{
    char path[4096], *text = NULL;
    snprintf(path, sizeof path, "%s/configs/arch/%s.json", MQ_SOURCE_DIR, name);
    assert_int_equal(mq_read_text(path, 1 << 20, &text, NULL), MQ_OK);
    return text;
}

/* What is found in a Llama with sizes and `more`, behind what was found before. */
static void examine_on(const char *base, const char *more, mq_findings *out)
{
    char config[2048];
    mq_arch arch;
    char *descriptor = read_data("llama"), *common = read_data("common");
    snprintf(config, sizeof config, "{\"model_type\": \"llama\", %s%s}", base, more);
    assert_int_equal(mq_arch_examine(config, "c", descriptor, common, out, &arch), MQ_OK);
    mq_free(&descriptor);
    mq_free(&common);
}

static void examine(const char *base, const char *more, mq_findings *out)
{
    *out = (mq_findings){.item = NULL};
    examine_on(base, more, out);
}

static void check(const mq_findings *f, int64_t i, mq_finding_kind kind, const char *name,
                  const char *words)
{
    assert_true(i < f->n);
    assert_int_equal(f->item[i].kind, kind);
    assert_string_equal(f->item[i].name, name);
    if (!strstr(f->item[i].message, words)) {
        fail_msg("\"%s\" lacks \"%s\"", f->item[i].message, words);
    }
}

static void test_nothing(void **state)
{
    (void)state;
    mq_findings f;
    examine(sizes, "", &f);
    assert_true(f.n == 0 && f.tensors_known);
    mq_findings_free(&f);
}

static void test_all_of_it(void **state)
{
    (void)state;
    mq_findings f;
    examine(sizes,
            ", \"clip_qkv\": 8, \"pretraining_tp\": 2, \"other\": \"x\", \"rope_scaling\": "
            "{\"type\": \"linear\", \"factor\": 2, \"beta\": 1, \"gamma\": 1}",
            &f);
    assert_int_equal(f.n, 5);
    check(&f, 0, MQ_FOUND_CONFIG, "", "\"beta\"");
    check(&f, 1, MQ_FOUND_CONFIG, "", "\"gamma\"");
    check(&f, 2, MQ_FOUND_KEY, "clip_qkv", "ignored_keys");
    check(&f, 3, MQ_FOUND_CONFIG, "pretraining_tp", "is 2");
    check(&f, 4, MQ_FOUND_KEY, "other", "\"other\"");
    assert_true(f.tensors_known); /* which tensors there are does not depend on rope */
    mq_findings_free(&f);
    examine(sizes, ", \"quantization_config\": {\"quant_method\": \"awq\"}, \"other\": 1", &f);
    assert_int_equal(f.n, 2);
    assert_false(f.tensors_known); /* but on how they are stored */
    mq_findings_free(&f);
}

/* What depends on sizes that are missing, or that make no sense, is not looked at. */
static void test_sizes(void **state)
{
    (void)state;
    mq_findings f;
    examine("\"hidden_size\": 64, \"num_attention_heads\": 4, \"vocab_size\": \"x\"",
            ", \"other\": 1, \"rope_scaling\": 3", &f);
    assert_int_equal(f.n, 4);
    check(&f, 0, MQ_FOUND_CONFIG, "", "num_hidden_layers");
    check(&f, 1, MQ_FOUND_CONFIG, "", "intermediate_size");
    check(&f, 2, MQ_FOUND_CONFIG, "", "vocab_size");
    check(&f, 3, MQ_FOUND_KEY, "other", "other");
    assert_false(f.tensors_known);
    mq_findings_free(&f);
    examine(sizes, ", \"num_key_value_heads\": 3, \"other\": 1", &f);
    assert_int_equal(f.n, 2);
    check(&f, 0, MQ_FOUND_CONFIG, "", "evenly");
    mq_findings_free(&f);
}

/* Findings of others do not keep a config.json from being read. */
static void test_found_before(void **state)
{
    (void)state;
    mq_findings f = {.item = NULL};
    mq_status failed = mq_fail(MQ_E_INPUT, "no weights");
    assert_int_equal(mq_findings_add(&f, failed, MQ_FOUND_WRONG, ""), MQ_OK);
    examine_on(sizes, ", \"rope_scaling\": {\"type\": \"spiral\"}, \"other\": 1", &f);
    assert_int_equal(f.n, 3);
    check(&f, 1, MQ_FOUND_CONFIG, "", "spiral");
    check(&f, 2, MQ_FOUND_KEY, "other", "other");
    assert_true(f.tensors_known);
    mq_findings_free(&f);
}

/* A family whose language model is a part of it, and a file without that part. */
static void test_no_language_model(void **state)
{
    (void)state;
    mq_findings f = {.item = NULL};
    mq_arch arch;
    char *descriptor = read_data("qwen3_vl"), *common = read_data("common");
    const char *config = "{\"model_type\": \"qwen3_vl\", \"hidden_size\": 64}";
    assert_int_equal(mq_arch_examine(config, "c", descriptor, common, &f, &arch), MQ_OK);
    assert_int_equal(f.n, 1);
    check(&f, 0, MQ_FOUND_CONFIG, "", "text_config");
    assert_false(f.tensors_known);
    mq_findings_free(&f);
    mq_free(&descriptor);
    mq_free(&common);
}

static void test_room(void **state)
{
    (void)state;
    mq_findings f = {.item = NULL};
    const int64_t dims[2] = {3, 4};
    for (int i = 0; i < 100; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%d", i);
        mq_status failed = mq_fail(MQ_E_INPUT, "no %s", name);
        assert_int_equal(mq_findings_add_tensor(&f, failed, MQ_FOUND_MISSING, name, 2, dims),
                         MQ_OK);
    }
    assert_int_equal(f.n, 100);
    check(&f, 99, MQ_FOUND_MISSING, "t99", "no t99");
    assert_true(f.item[40].n_dims == 2 && f.item[40].dim[1] == 4);
    /* Other failures are not findings. */
    assert_int_equal(mq_findings_add(&f, MQ_OK, MQ_FOUND_KEY, ""), MQ_OK);
    assert_int_equal(mq_findings_add(&f, mq_fail(MQ_E_IO, "gone"), MQ_FOUND_KEY, ""), MQ_E_IO);
    assert_int_equal(mq_findings_add(NULL, mq_fail(MQ_E_INPUT, "bad"), MQ_FOUND_KEY, ""),
                     MQ_E_INPUT);
    assert_int_equal(f.n, 100);
    mq_findings_free(&f);
    assert_true(f.n == 0 && !f.item);
}

static void test_patterns(void **state)
{
    (void)state;
    static const char *const names[][2] = {
        {"model.layers.12.self_attn.q_proj.weight", "model.layers.*.self_attn.q_proj"},
        {"model.layers.{i}.self_attn.q_proj", "model.layers.*.self_attn.q_proj"},
        {"model.layers.{i}.mlp.experts.{e}.up_proj", "model.layers.*.mlp.experts.*.up_proj"},
        {"model.layers.3.mlp.experts.17.up_proj.qweight", "model.layers.*.mlp.experts.*.up_proj"},
        {"transformer.h.0.ln_1.bias", "transformer.h.*.ln_1"},
        {"lm_head.weight", "lm_head"},
        {"weight", "weight"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char pattern[64];
        mq_name_pattern(names[i][0], pattern, sizeof pattern);
        assert_string_equal(pattern, names[i][1]);
    }
    char small[8];
    mq_name_pattern("model.layers.1", small, sizeof small);
    assert_string_equal(small, "model.l");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_all_of_it),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_found_before),
        cmocka_unit_test(test_no_language_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
