#include "model/gguf.h"

#include "model/block.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whether name is pattern, with any block number of the model for {i}, and suffix. */
static bool is_name(const mq_arch *arch, const char *pattern, const char *suffix, const char *name,
                    int64_t *block)
{
    const char *mark = strstr(pattern, "{i}");
    char whole[MQ_ARCH_NAME + 64];
    *block = 0;
    if (mark) {
        size_t before = (size_t)(mark - pattern);
        if (strncmp(name, pattern, before) != 0) return false;
        *block = strtoll(name + before, NULL, 10);
        if (*block < 0 || *block >= arch->n_blocks) return false;
    }
    mq_arch_name(pattern, *block, whole, sizeof whole);
    size_t length = strlen(whole);
    return strncmp(name, whole, length) == 0 && strcmp(name + length, suffix) == 0;
}

/* ---- names ----------------------------------------------------------------------------------- */

static bool find_outer(const mq_arch *arch, const char *name, mq_gguf_place *out)
{
    const char *found = NULL;
    if (strcmp(name, arch->embed) == 0) found = "token_embd.weight";
    if (strcmp(name, arch->final_norm) == 0) found = "output_norm.weight";
    if (strcmp(name, arch->head) == 0 && !arch->tied) found = "output.weight";
    if (!found) return false;
    out->vector = strcmp(name, arch->final_norm) == 0;
    snprintf(out->name, sizeof out->name, "%s", found);
    return true;
}

static bool find_norm(const mq_arch *arch, const char *name, mq_gguf_place *out)
{
    const struct {
        const char *pattern, *name;
    } norms[] = {{arch->attn_norm, "attn_norm"},
                 {arch->mlp_norm, "ffn_norm"},
                 {arch->q_norm, "attn_q_norm"},
                 {arch->k_norm, "attn_k_norm"}};
    int64_t block = 0;
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) {
        if (!norms[i].pattern[0] || !is_name(arch, norms[i].pattern, "", name, &block)) continue;
        snprintf(out->name, sizeof out->name, "blk.%" PRId64 ".%s.weight", block, norms[i].name);
        out->vector = true;
        return true;
    }
    return false;
}

static bool find_linear(const mq_arch *arch, const char *name, mq_gguf_place *out)
{
    static const char *const names[MQ_N_LINEARS] = {
        [MQ_Q] = "attn_q",      [MQ_K] = "attn_k",  [MQ_V] = "attn_v",     [MQ_O] = "attn_output",
        [MQ_GATE] = "ffn_gate", [MQ_UP] = "ffn_up", [MQ_DOWN] = "ffn_down"};
    int64_t block = 0;
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        bool weight = is_name(arch, arch->linear[l], ".weight", name, &block);
        if (!weight && !is_name(arch, arch->linear[l], ".bias", name, &block)) continue;
        snprintf(out->name, sizeof out->name, "blk.%" PRId64 ".%s.%s", block, names[l],
                 weight ? "weight" : "bias");
        out->vector = !weight;
        out->head_rows = mq_gguf_head_rows(arch, (mq_linear_id)l);
        return true;
    }
    return false;
}

bool mq_gguf_find_place(const mq_arch *arch, const char *name, mq_gguf_place *out)
{
    *out = (mq_gguf_place){.head_rows = 0};
    return find_outer(arch, name, out) || find_norm(arch, name, out) ||
           find_linear(arch, name, out);
}

int64_t mq_gguf_head_rows(const mq_arch *arch, mq_linear_id linear)
{
    return arch->gguf.rope_pairs && (linear == MQ_Q || linear == MQ_K) ? arch->head_dim : 0;
}

/* ---- what has no form ------------------------------------------------------------------------ */

static mq_status refuse(const mq_arch *arch, const char *what)
{
    return mq_fail(MQ_E_USAGE,
                   "--format gguf: %s: llama.cpp has no %s; --format gptq has a form for it",
                   arch->where, what);
}

static mq_status check_biases(const mq_arch *arch)
{
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        char what[64];
        if (!arch->has_bias[l] || arch->gguf.bias[l]) continue;
        snprintf(what, sizeof what, "%s models with a bias of %s", arch->family,
                 mq_linear_name((mq_linear_id)l));
        return refuse(arch, what);
    }
    return MQ_OK;
}

mq_status mq_gguf_check(const mq_arch *arch)
{
    char what[96];
    bool normed = arch->qk_norm != MQ_QK_NONE;
    const mq_gguf_family *gguf = &arch->gguf;
    if (!gguf->architecture[0]) {
        return mq_fail(MQ_E_USAGE,
                       "--format gguf: %s: nothing is known here of %s models in llama.cpp (no "
                       "\"gguf\" in configs/arch/%s.json); --format gptq has a form for them",
                       arch->where, arch->family, arch->family);
    }
    if (arch->activation.kind != MQ_SILU)
        return refuse(arch, "such models with another MLP than SiLU");
    if (arch->rope.scaling == MQ_ROPE_LLAMA3 && !gguf->rope_factors) {
        snprintf(what, sizeof what, "%s models with rope scaled as Llama 3's", arch->family);
        return refuse(arch, what);
    }
    if (arch->rope.scaling == MQ_ROPE_YARN || arch->rope.scaling == MQ_ROPE_LONG ||
        arch->rope.scaling == MQ_ROPE_NTK || arch->rope.scaling == MQ_ROPE_DOUBLING) {
        return refuse(arch, "rope scaled like this model's that is written here");
    }
    if (!arch->tied && gguf->tied_only) {
        snprintf(what, sizeof what, "%s models with a head of their own", arch->family);
        return refuse(arch, what);
    }
    if (gguf->qk_norm_blocks > 0 && normed != (arch->n_blocks >= gguf->qk_norm_blocks)) {
        snprintf(what, sizeof what, "%s models with%s norms of q and k and %" PRId64 " blocks",
                 arch->family, normed ? "" : "out", arch->n_blocks);
        return refuse(arch, what);
    }
    return check_biases(arch);
}

float mq_gguf_rope_factor(const mq_arch *arch, int64_t i)
{
    mq_rope_kind plain = arch->rope;
    plain.scaling = MQ_ROPE_PLAIN;
    return mq_rope_frequency(&plain, i) / mq_rope_frequency(&arch->rope, i);
}
