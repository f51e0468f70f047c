#include "model/weights.h"
#include "par/collectives.h"
#include "test_model_folder.h"

#include <math.h>

/* Reading blocks, dense and packed, on several ranks and on nodes of one rank each. */

#define HEAD                                                                       \
    "{\"model_type\": \"qwen2\", \"hidden_size\": 64, \"intermediate_size\": 96, " \
    "\"num_hidden_layers\": 2, \"vocab_size\": 33, \"num_attention_heads\": 4, "   \
    "\"num_key_value_heads\": 2, \"tie_word_embeddings\": "
static const char dense_config[] = HEAD "false}";
static const char tied_config[] = HEAD "true}";
static const char packed_config[] = HEAD "false, \"quantization_config\": "
                                         "{\"quant_method\": \"gptq\", \"bits\": 4}}";
static const char packed_v2_config[] =
    HEAD "false, \"quantization_config\": {\"quant_method\": \"gptq\", "
         "\"checkpoint_format\": \"gptq_v2\"}}";

static mq_comm *comm;

static const struct {
    const char *name;
    int64_t n_out, n_in;
    bool bias;
} linears[MQ_N_LINEARS] = {
    [MQ_Q] = {"self_attn.q_proj", 64, 64, true},  [MQ_K] = {"self_attn.k_proj", 32, 64, true},
    [MQ_V] = {"self_attn.v_proj", 32, 64, true},  [MQ_O] = {"self_attn.o_proj", 64, 64, false},
    [MQ_GATE] = {"mlp.gate_proj", 96, 64, false}, [MQ_UP] = {"mlp.up_proj", 96, 64, false},
    [MQ_DOWN] = {"mlp.down_proj", 64, 96, false},
};

/* Some number in (-1, 1), different for every tensor and place. */
static float value_at(const char *name, int64_t i)
{
    uint32_t h = 2166136261U;
    for (const char *c = name; *c; c++) h = (h ^ (uint32_t)(unsigned char)*c) * 16777619U;
    h = (h ^ (uint32_t)i) * 2654435761U;
    h ^= h >> 15;
    return (float)((double)h / 2147483648.0 - 1.0);
}

/* A dense tensor of value_at's numbers, rounded to its dtype. */
static file_tensor *add_dense(file_model *m, const char *name, mq_dtype dtype, int64_t d0,
                              int64_t d1)
{
    file_tensor *t = file_add(m, name, dtype, d0, d1);
    int64_t n = d0 * (d1 > 0 ? d1 : 1);
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; x && i < n; i++) x[i] = value_at(name, i);
    CHECK(x && mq_from_f32(x, n, dtype, t->data) == MQ_OK);
    free(x);
    return t;
}

static void add_frame(file_model *m, bool head)
{
    add_dense(m, "model.embed_tokens.weight", MQ_BF16, 33, 64);
    add_dense(m, "model.norm.weight", MQ_F32, 64, 0);
    if (head) add_dense(m, "lm_head.weight", MQ_F32, 33, 64);
    for (int b = 0; b < 2; b++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", b);
        add_dense(m, name, MQ_BF16, 64, 0);
        snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", b);
        add_dense(m, name, MQ_F16, 64, 0);
        for (int l = 0; l < MQ_N_LINEARS; l++) {
            if (!linears[l].name) continue;
            snprintf(name, sizeof name, "model.layers.%d.%s.bias", b, linears[l].name);
            if (linears[l].bias) add_dense(m, name, MQ_F16, linears[l].n_out, 0);
        }
    }
}

static void add_linear(file_model *m, int block, int l)
{
    static const mq_dtype types[] = {MQ_F32, MQ_F16, MQ_BF16};
    char name[96];
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", block, linears[l].name);
    add_dense(m, name, types[l % 3], linears[l].n_out, linears[l].n_in);
}

/* ---- packed layers, built independently of src/format ---------------------------------------- */

/* Bits [at, at + bits) of a stream of 32-bit words with `stride` words between two. */
static void put_bits(uint32_t *words, int64_t stride, int64_t at, int bits, uint32_t value)
{
    for (int b = 0; b < bits; b++) {
        words[(at + b) / 32 * stride] |= ((value >> b) & 1U) << ((at + b) % 32);
    }
}

static uint32_t code_at(const char *name, int64_t n, int64_t k, int bits)
{
    return (uint32_t)fabs((double)value_at(name, n * 1000 + k) * 1e4) % (1U << bits);
}

static uint32_t zero_at(const char *name, int64_t n, int64_t g, int bits)
{
    return 1 + code_at(name, n, 777 + g, bits) % ((1U << bits) - 1);
}

/* Groups of 32 columns, taken in turns when `shuffled`, as an activation order leaves them. */
static int64_t group_at(int64_t k, int64_t n_groups, bool shuffled)
{
    return shuffled ? k % n_groups : k / 32;
}

static const int packed_bits[MQ_N_LINEARS] = {
    [MQ_Q] = 4, [MQ_K] = 3, [MQ_V] = 8, [MQ_O] = 2, [MQ_GATE] = 4, [MQ_DOWN] = 4}; /* 0: dense */

static void add_packed(file_model *m, int block, int l, uint32_t zero_offset)
{
    int bits = packed_bits[l];
    int64_t n_out = linears[l].n_out, n_in = linears[l].n_in, groups = n_in / 32;
    char module[64], name[96];
    snprintf(module, sizeof module, "model.layers.%d.%s", block, linears[l].name);
    snprintf(name, sizeof name, "%s.qweight", module);
    uint32_t *q = file_add(m, name, MQ_I32, n_in * bits / 32, n_out)->data;
    snprintf(name, sizeof name, "%s.qzeros", module);
    int64_t words = (n_out * bits + 31) / 32;
    uint32_t *z = file_add(m, name, MQ_I32, groups, words)->data;
    snprintf(name, sizeof name, "%s.scales", module);
    uint16_t *s = add_dense(m, name, MQ_F16, groups, n_out)->data;
    snprintf(name, sizeof name, "%s.g_idx", module);
    int32_t *g_idx = file_add(m, name, MQ_I32, n_in, 0)->data;
    CHECK(q && z && s && g_idx);
    for (int64_t k = 0; k < n_in; k++) {
        g_idx[k] = (int32_t)group_at(k, groups, l == MQ_GATE);
        for (int64_t n = 0; n < n_out; n++) {
            put_bits(q + n, n_out, k * bits, bits, code_at(module, n, k, bits));
        }
    }
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t n = 0; n < n_out; n++) {
            put_bits(z + g * words, 1, n * bits, bits, zero_at(module, n, g, bits) - zero_offset);
        }
    }
}

/* What entry (n, k) of a linear should read as. */
static float expected_at(int block, int l, bool packed, int64_t n, int64_t k)
{
    static const mq_dtype types[] = {MQ_F32, MQ_F16, MQ_BF16};
    char module[64], name[96];
    float x = 0;
    uint16_t half = 0;
    snprintf(module, sizeof module, "model.layers.%d.%s", block, linears[l].name);
    if (!packed || packed_bits[l] == 0) {
        snprintf(name, sizeof name, "%s.weight", module);
        x = value_at(name, n * linears[l].n_in + k);
        if (types[l % 3] == MQ_F16) return mq_f16_to_f32(mq_f32_to_f16(x));
        return types[l % 3] == MQ_BF16 ? mq_bf16_to_f32(mq_f32_to_bf16(x)) : x;
    }
    int bits = packed_bits[l];
    int64_t groups = linears[l].n_in / 32, g = group_at(k, groups, l == MQ_GATE);
    snprintf(name, sizeof name, "%s.scales", module);
    half = mq_f32_to_f16(value_at(name, g * linears[l].n_out + n));
    double steps = (double)code_at(module, n, k, bits) - (double)zero_at(module, n, g, bits);
    return (float)((double)mq_f16_to_f32(half) * steps);
}

static void build(file_model *m, bool packed, bool head, uint32_t zero_offset)
{
    add_frame(m, head);
    for (int b = 0; b < 2; b++) {
        for (int l = 0; l < MQ_N_LINEARS; l++) {
            if (!linears[l].name) continue;
            if (packed && packed_bits[l] > 0) {
                add_packed(m, b, l, zero_offset);
            } else {
                add_linear(m, b, l);
            }
        }
    }
}

/* ---- checks -----------------------------------------------------------------------------------
 */

static void check_linear(const mq_block_weights *w, int l, bool packed)
{
    int64_t bad = 0;
    for (int64_t n = 0; n < linears[l].n_out; n++) {
        for (int64_t k = 0; k < linears[l].n_in; k++) {
            int64_t at = n * linears[l].n_in + k;
            float x = expected_at((int)w->block, l, packed, n, k);
            if (w->dtype == MQ_F32) {
                bad += ((const float *)w->w[l])[at] != x;
            } else {
                bad += ((const uint16_t *)w->w[l])[at] != mq_f32_to_bf16(x);
            }
        }
    }
    CHECK_MSG(bad == 0, "block %d, %s: %ld entries differ", (int)w->block, linears[l].name,
              (long)bad);
    CHECK((char *)w->w[l] == (char *)w->share->base + w->w_offset[l]);
}

static void check_vector(const float *x, int block, const char *suffix, mq_dtype dtype, int64_t n)
{
    char name[96];
    snprintf(name, sizeof name, "model.layers.%d.%s", block, suffix);
    for (int64_t i = 0; i < n; i++) {
        float v = value_at(name, i);
        v = dtype == MQ_F16 ? mq_f16_to_f32(mq_f32_to_f16(v)) : mq_bf16_to_f32(mq_f32_to_bf16(v));
        if (!CHECK_MSG(x && x[i] == v, "%s", name)) return;
    }
}

static void check_blocks(const mq_arch *arch, mq_folder *folder, mq_dtype dtype, bool packed)
{
    mq_block_weights *w = NULL;
    if (!CHECK_ALL(mq_block_weights_create(comm, arch, dtype, &w) == MQ_OK)) return;
    for (int b = 1; b >= 0; b--) { /* any order: one room for all blocks */
        mq_status status = mq_block_weights_read(comm, folder, b, w);
        CHECK_MSG(status == MQ_OK, "%s", mq_message());
        if (status != MQ_OK) break;
        for (int l = 0; l < MQ_N_LINEARS; l++) {
            if (!linears[l].name) continue;
            char suffix[64];
            check_linear(w, l, packed);
            CHECK((w->bias[l] != NULL) == linears[l].bias);
            snprintf(suffix, sizeof suffix, "%s.bias", linears[l].name);
            if (linears[l].bias) check_vector(w->bias[l], b, suffix, MQ_F16, linears[l].n_out);
        }
        check_vector(w->attn_norm, b, "input_layernorm.weight", MQ_BF16, 64);
        check_vector(w->mlp_norm, b, "post_attention_layernorm.weight", MQ_F16, 64);
        CHECK(!w->q_norm && !w->k_norm);
        MPI_Barrier(MPI_COMM_WORLD);
    }
    mq_block_weights_destroy(&w);
    CHECK(w == NULL);
}

static void check_model(file_model *m, const char *config, bool packed)
{
    mq_arch *arch = NULL;
    mq_folder *folder = NULL;
    file_write(m, config);
    mq_status status = mq_arch_load(comm, m->path, &arch);
    if (status == MQ_OK) status = mq_folder_open(comm, m->path, &folder);
    if (status == MQ_OK) status = mq_model_check(folder, arch);
    CHECK_MSG(status == MQ_OK, "%s", mq_message());
    if (CHECK_ALL(status == MQ_OK)) {
        check_blocks(arch, folder, MQ_F32, packed);
        check_blocks(arch, folder, MQ_BF16, packed);
    }
    mq_folder_close(&folder);
    mq_arch_destroy(&arch);
}

static void test_dense(void)
{
    file_model m = {.n = 0};
    build(&m, false, true, 0);
    check_model(&m, dense_config, false);
    file_free(&m);
    file_remove(&m);
}

static void test_packed(void)
{
    for (int version = 1; version <= 2; version++) {
        file_model m = {.n = 0};
        build(&m, true, true, version == 1);
        check_model(&m, version == 1 ? packed_config : packed_v2_config, true);
        file_free(&m);
        file_remove(&m);
    }
}

/* ---- embeddings and head ----------------------------------------------------------------------
 */

static void check_table(const void *table, mq_dtype dtype, const char *name, bool bf16)
{
    int64_t bad = 0;
    for (int64_t i = 0; i < (int64_t)33 * 64; i++) {
        float v = value_at(name, i);
        if (bf16) v = mq_bf16_to_f32(mq_f32_to_bf16(v));
        bad += dtype == MQ_F32 ? ((const float *)table)[i] != v
                               : ((const uint16_t *)table)[i] != mq_f32_to_bf16(v);
    }
    CHECK_MSG(bad == 0, "%s: %ld differ", name, (long)bad);
}

static void check_outer(file_model *m, const char *config, mq_dtype dtype, int want)
{
    mq_arch *arch = NULL;
    mq_folder *folder = NULL;
    mq_outer_weights *w = NULL;
    bool want_embed = want & MQ_OUTER_EMBED, want_head = want & MQ_OUTER_HEAD;
    bool want_norm = want & MQ_OUTER_NORM, has_head = file_find(m, "lm_head.weight");
    file_write(m, config);
    mq_status status = mq_arch_load(comm, m->path, &arch);
    if (status == MQ_OK) status = mq_folder_open(comm, m->path, &folder);
    if (status == MQ_OK) status = mq_model_check(folder, arch);
    if (status == MQ_OK) {
        status = mq_outer_weights_read(comm, folder, arch, dtype, want, &w);
    }
    CHECK_MSG(status == MQ_OK, "%s", mq_message());
    if (CHECK_ALL(status == MQ_OK)) {
        CHECK((w->embed != NULL) == want_embed && (w->head != NULL) == want_head);
        CHECK((w->final_norm != NULL) == want_norm);
        CHECK((want & 3) != 3 || (w->embed == w->head) == !has_head);
        if (want_embed) check_table(w->embed, dtype, "model.embed_tokens.weight", true);
        if (want_head && has_head) check_table(w->head, dtype, "lm_head.weight", false);
        if (want_head && !has_head) check_table(w->head, dtype, "model.embed_tokens.weight", true);
        for (int64_t i = 0; want_norm && i < 64; i++) {
            CHECK(w->final_norm[i] == value_at("model.norm.weight", i));
        }
    }
    mq_outer_weights_destroy(&w);
    mq_folder_close(&folder);
    mq_arch_destroy(&arch);
}

static void test_outer(void)
{
    for (int head = 0; head < 2; head++) {
        file_model m = {.n = 0};
        build(&m, false, head, 0);
        for (int want = 0; want < 8; want++) {
            check_outer(&m, head ? dense_config : tied_config, MQ_F32, want);
            check_outer(&m, head ? dense_config : tied_config, MQ_BF16, want);
        }
        /* a head beside a tied embedding is used */
        if (head) check_outer(&m, tied_config, MQ_F32, 3);
        file_free(&m);
        file_remove(&m);
    }
}

/* ---- bad folders ------------------------------------------------------------------------------
 */

static void refuse(file_model *m, const char *config, const char *text)
{
    mq_arch *arch = NULL;
    mq_folder *folder = NULL;
    file_write(m, config);
    mq_status status = mq_arch_load(comm, m->path, &arch);
    if (status == MQ_OK) status = mq_folder_open(comm, m->path, &folder);
    if (CHECK_ALL(status == MQ_OK)) {
        CHECK(mq_model_check(folder, arch) == MQ_E_INPUT);
        CHECK_MSG(strstr(mq_message(), text) != NULL, "\"%s\" lacks \"%s\"", mq_message(), text);
    }
    mq_folder_close(&folder);
    mq_arch_destroy(&arch);
}

static void rename_tensor(file_model *m, const char *from, const char *to)
{
    file_tensor *t = file_find(m, from);
    if (CHECK(t != NULL)) snprintf(t->name, sizeof t->name, "%s", to);
}

static void test_bad_folders(void)
{
    static const char v_proj[] = "model.layers.1.self_attn.v_proj.weight";
    file_model m = {.n = 0};
    build(&m, false, true, 0);
    rename_tensor(&m, v_proj, "elsewhere");
    refuse(&m, dense_config, "model.layers.1.self_attn.v_proj.weight is missing; expected");
    refuse(&m, dense_config, "[32, 64]");
    rename_tensor(&m, "elsewhere", v_proj);
    file_find(&m, v_proj)->dim[0] = 64;
    file_find(&m, v_proj)->dim[1] = 32;
    refuse(&m, dense_config, "BF16 [64, 32]");
    file_find(&m, v_proj)->dim[0] = 32;
    file_find(&m, v_proj)->dim[1] = 64;
    file_find(&m, v_proj)->dtype = MQ_I16;
    refuse(&m, dense_config, "I16 [32, 64]");
    file_find(&m, v_proj)->dtype = MQ_BF16;
    add_dense(&m, "model.layers.0.mlp.up_proj.bias", MQ_BF16, 96, 0);
    refuse(&m, dense_config, "model.layers.0.mlp.up_proj.bias");
    rename_tensor(&m, "model.layers.0.mlp.up_proj.bias", "model.layers.2.mlp.up_proj.weight");
    refuse(&m, dense_config, "model.layers.2.mlp.up_proj.weight");
    file_free(&m);
    build(&m, false, false, 0);
    refuse(&m, dense_config, "lm_head.weight is missing");
    file_free(&m);
    file_remove(&m);
}

static void test_bad_packed(void)
{
    file_model m = {.n = 0};
    build(&m, true, true, 1);
    refuse(&m, dense_config, "no quantization_config");
    rename_tensor(&m, "model.layers.0.self_attn.k_proj.g_idx", "elsewhere");
    refuse(&m, packed_config, "k_proj.g_idx is missing");
    rename_tensor(&m, "elsewhere", "model.layers.0.self_attn.k_proj.g_idx");
    file_find(&m, "model.layers.0.mlp.down_proj.scales")->dtype = MQ_BF16;
    refuse(&m, packed_config, "down_proj.scales is BF16 [3, 64]; expected F16");
    file_find(&m, "model.layers.0.mlp.down_proj.scales")->dtype = MQ_F16;
    file_find(&m, "model.layers.0.mlp.down_proj.qweight")->dim[0] = 6;
    file_find(&m, "model.layers.0.mlp.down_proj.qweight")->dim[1] = 128;
    refuse(&m, packed_config, "down_proj.qweight is I32 [6, 128]");
    file_free(&m);
    file_remove(&m);
}

/* A value that is not finite stops every rank, and names the place. */
static void test_not_finite(void)
{
    static const char *const places[] = {"model.layers.0.self_attn.q_proj.weight",
                                         "model.layers.0.input_layernorm.weight"};
    for (int i = 0; i < 2; i++) {
        file_model m = {.n = 0};
        mq_arch *arch = NULL;
        mq_folder *folder = NULL;
        mq_block_weights *w = NULL;
        const uint32_t inf32 = 0x7F800000U;
        const uint16_t nan16 = 0x7FC0U;
        build(&m, false, true, 0);
        char *data = file_find(&m, places[i])->data;
        memcpy(data + (i == 0 ? (63 * 64 + 5) * 4 : 10 * 2), i == 0 ? (const void *)&inf32 : &nan16,
               i == 0 ? 4 : 2);
        file_write(&m, dense_config);
        mq_status status = mq_arch_load(comm, m.path, &arch);
        if (status == MQ_OK) status = mq_folder_open(comm, m.path, &folder);
        if (status == MQ_OK) status = mq_block_weights_create(comm, arch, MQ_BF16, &w);
        if (CHECK_ALL(status == MQ_OK)) {
            CHECK(mq_block_weights_read(comm, folder, 0, w) == MQ_E_NUMERIC);
            CHECK_MSG(strstr(mq_message(), places[i]) != NULL, "%s", mq_message());
            CHECK_MSG(strstr(mq_message(), i == 0 ? "63" : "10") != NULL, "%s", mq_message());
            CHECK(mq_block_weights_read(comm, folder, 1, w) == MQ_OK);
            CHECK(mq_block_weights_read(comm, folder, 2, w) == MQ_E_INPUT);
        }
        mq_block_weights_destroy(&w);
        mq_folder_close(&folder);
        mq_arch_destroy(&arch);
        file_free(&m);
        file_remove(&m);
    }
}

static void run_all(const char *ranks_per_node)
{
    setenv("MQ_RANKS_PER_NODE", ranks_per_node, 1);
    if (mq_comm_create(MPI_COMM_WORLD, &comm) != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    RUN(test_dense);
    RUN(test_packed);
    RUN(test_outer);
    RUN(test_bad_folders);
    RUN(test_bad_packed);
    RUN(test_not_finite);
    mq_comm_destroy(&comm);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    run_all("64");
    run_all("1");
    return harness_finish();
}
