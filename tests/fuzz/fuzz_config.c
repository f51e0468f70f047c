/* config.json under a descriptor of configs/arch, or (first byte 0x80 and above) a descriptor under
 * a config.json of its family. Reading that goes on after what is wrong finds something exactly
 * where reading that stops does. */
#include "fuzz.h"
#include "model/arch_parse.h"

#include <string.h>

enum { N_FAMILIES = 13 };

static const char *const families[N_FAMILIES] = {
    "llama",   "mistral", "qwen2", "qwen3",      "cohere",     "smollm3", "cohere2",
    "hunyuan", "gemma3",  "phi3",  "starcoder2", "qwen2_5_vl", "qwen3_vl"};
static char *descriptors[N_FAMILIES], *common;

static const char good[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 64, \"intermediate_size\": 128, "
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"vocab_size\": 96, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, "
    "\"layer_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\"}";

static char *read_file(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/configs/arch/%s.json", MQ_SOURCE_DIR, name);
    char *text = calloc(1, 1 << 16);
    FILE *f = fopen(path, "rb");
    FUZZ_CHECK(text && f && fread(text, 1, (1 << 16) - 1, f) > 0);
    fclose(f);
    return text;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    for (int i = 0; i < N_FAMILIES; i++) descriptors[i] = read_file(families[i]);
    common = read_file("common");
    return 0;
}

static void check_arch(const mq_arch *a)
{
    FUZZ_CHECK(a->hidden > 0 && a->n_blocks > 0 && a->n_heads > 0 && a->n_kv_heads > 0);
    FUZZ_CHECK(a->n_heads % a->n_kv_heads == 0 && a->head_dim > 0 && a->vocab > 0);
    for (int l = 0; l < mq_arch_n_linears(a); l++) {
        int64_t n_out = 0, n_in = 0, count = 0;
        if (!mq_arch_has(a, 0, (mq_linear_id)l)) continue;
        mq_arch_linear_shape(a, 0, (mq_linear_id)l, &n_out, &n_in);
        FUZZ_CHECK(n_out > 0 && n_in > 0 && !__builtin_mul_overflow(n_out, n_in, &count));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};
    uint64_t kind = fuzz_take(&in, 1);
    char *text = fuzz_text(&in);
    mq_arch *arch = calloc(1, sizeof *arch);
    FUZZ_CHECK(arch);
    const char *config = kind < 0x80 ? text : good;
    const char *descriptor = kind < 0x80 ? descriptors[kind % N_FAMILIES] : text;
    mq_findings findings = {.item = NULL};
    mq_status all = mq_arch_examine(config, "fuzz", descriptor, common, &findings, arch);
    mq_status status = mq_arch_parse(config, "fuzz", descriptor, common, arch);
    FUZZ_CHECK((status == MQ_OK) == (all == MQ_OK && findings.n == 0));
    FUZZ_CHECK(status == MQ_OK || all != MQ_OK ||
               strcmp(findings.item[0].message, mq_message()) == 0);
    if (status == MQ_OK) check_arch(arch);
    mq_findings_free(&findings);
    free(arch);
    free(text);
    return 0;
}
