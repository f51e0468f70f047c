#include "model/arch.h"

#include "base/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const char *mq_tap_name(mq_tap_id tap)
{
    static const char *const names[MQ_N_ALL_TAPS] = {"attn_in", "q_lora",  "kv_lora", "attn_out",
                                                     "mlp_in",  "mlp_mid", "head_in"};
    if (tap >= MQ_TAP_EXPERTS) return mq_tap_is_expert_mid(tap) ? "expert_mid" : "expert_in";
    return names[tap];
}

mq_place mq_tap_place(int64_t block, mq_tap_id tap)
{
    mq_place place = {"lm_head"};
    if (tap >= MQ_TAP_EXPERTS) {
        snprintf(place.text, sizeof place.text, "block %" PRId64 ", %s of expert %" PRId64, block,
                 mq_tap_name(tap), mq_tap_expert(tap));
    } else if (tap != MQ_TAP_HEAD_IN) {
        snprintf(place.text, sizeof place.text, "block %" PRId64 ", %s", block, mq_tap_name(tap));
    }
    return place;
}

const char *mq_linear_name(mq_linear_id linear)
{
    static const char *const names[MQ_N_LINEARS] = {
        "q", "k", "v", "q_a", "kv_a", "q_b", "kv_b", "in_qkv", "in_z", "o", "gate", "up", "down"};
    return names[mq_linear_role(linear)];
}

void mq_arch_destroy(mq_arch **arch)
{
    mq_free(arch);
}

static void put_number(const char *pattern, const char *mark, int64_t number, char *out,
                       size_t bytes)
{
    const char *at = strstr(pattern, mark);
    if (!at) {
        snprintf(out, bytes, "%s", pattern);
    } else {
        snprintf(out, bytes, "%.*s%" PRId64 "%s", (int)(at - pattern), pattern, number,
                 at + strlen(mark));
    }
}

void mq_arch_name(const char *pattern, int64_t block, char *out, size_t bytes)
{
    put_number(pattern, "{i}", block, out, bytes);
}

/* Length of a name without ".weight". */
static int stem(const char *name)
{
    static const char suffix[] = ".weight";
    size_t end = sizeof suffix - 1, n = strlen(name);
    if (n > end && strcmp(name + n - end, suffix) == 0) n -= end;
    return (int)n;
}

void mq_arch_norm_bias(const char *weight, char *out, size_t bytes)
{
    snprintf(out, bytes, "%.*s.bias", stem(weight), weight);
}

/* The same of its attention. */
static const char *attention_pattern(const mq_arch *arch, int64_t block, mq_linear_id linear)
{
    bool delta = linear == MQ_IN_QKV || linear == MQ_IN_Z;
    if (linear == MQ_O) return arch->block[block].linear ? arch->delta.out : arch->linear[MQ_O];
    return delta == arch->block[block].linear ? arch->linear[linear] : "";
}

/* A linear of a block as the descriptor names it; "" where the block has none. */
static const char *linear_pattern(const mq_arch *arch, int64_t block, mq_linear_id linear)
{
    mq_linear_id role = mq_linear_role(linear);
    if (linear <= MQ_O) return attention_pattern(arch, block, linear);
    bool routed = arch->block[block].routed;
    if (linear >= MQ_EXPERTS) return routed ? arch->moe.expert[role - MQ_GATE] : "";
    bool shared = routed && role >= MQ_GATE;
    return shared ? arch->moe.shared[role - MQ_GATE] : arch->linear[role];
}

void mq_arch_linear_name(const mq_arch *arch, mq_linear_id linear, int64_t block, char *out,
                         size_t bytes)
{
    char name[MQ_ARCH_NAME + 32];
    if (linear == MQ_HEAD) {
        snprintf(out, bytes, "%.*s", stem(arch->head), arch->head);
    } else {
        put_number(linear_pattern(arch, block, linear), "{e}", mq_linear_expert(linear), name,
                   sizeof name);
        mq_arch_name(name, block, out, bytes);
    }
}

int64_t mq_arch_value_dim(const mq_arch *arch)
{
    return arch->latent.kv_rank > 0 ? arch->latent.v_dim : arch->head_dim;
}

int64_t mq_arch_delta_width(const mq_arch *arch)
{
    return arch->delta.n_v_heads * arch->delta.v_dim;
}

int64_t mq_arch_delta_in_width(const mq_arch *arch)
{
    return 2 * (arch->delta.n_k_heads * arch->delta.k_dim + mq_arch_delta_width(arch));
}

int64_t mq_arch_window(const mq_arch *arch, int64_t block)
{
    return arch->block[block].sliding ? arch->window : 0;
}

int64_t mq_arch_chunk(const mq_arch *arch, int64_t block)
{
    return arch->block[block].chunked ? arch->chunk : 0;
}

const mq_rope_kind *mq_arch_rope(const mq_arch *arch, int64_t block)
{
    const mq_block_kind *kind = &arch->block[block];
    if (kind->no_rope) return NULL;
    return kind->sliding && arch->own_sliding_rope ? &arch->sliding_rope : &arch->rope;
}

bool mq_arch_norms_heads(const mq_arch *arch, int64_t block)
{
    bool left_out = arch->qk_norm_with_rope && arch->block[block].no_rope;
    return arch->qk_norm != MQ_QK_NONE && !left_out;
}

bool mq_arch_scales_queries(const mq_arch *arch, int64_t block)
{
    const mq_query_scale *scale = &arch->query_scale;
    return scale->kind != MQ_QUERY_PLAIN && (!scale->no_rope_only || arch->block[block].no_rope);
}

int64_t mq_arch_qkv_width(const mq_arch *arch)
{
    int64_t q = arch->attention_gate ? 2 * arch->n_heads : arch->n_heads;
    return (q + 2 * arch->n_kv_heads) * arch->head_dim;
}

int mq_arch_n_linears(const mq_arch *arch)
{
    return MQ_EXPERTS + MQ_EXPERT_LINEARS * (int)arch->moe.routing.n_experts;
}

bool mq_arch_has(const mq_arch *arch, int64_t block, mq_linear_id linear)
{
    return linear != MQ_HEAD && linear_pattern(arch, block, linear)[0] != '\0';
}

bool mq_arch_has_bias(const mq_arch *arch, int64_t block, mq_linear_id linear)
{
    const mq_stack_names *stack = &arch->moe.stack;
    if (!mq_arch_has(arch, block, linear)) return false;
    if (linear == MQ_O && arch->block[block].linear) return false;
    if (linear < MQ_EXPERTS) return arch->has_bias[linear];
    return (mq_linear_role(linear) == MQ_DOWN ? stack->down_bias : stack->gate_up_bias)[0] != '\0';
}

/* Width of what o reads. */
static int64_t attention_width(const mq_arch *arch, int64_t block)
{
    if (arch->block[block].linear) return mq_arch_delta_width(arch);
    return arch->n_heads * mq_arch_value_dim(arch);
}

/* Width between up and down. */
static int64_t mlp_width(const mq_arch *arch, int64_t block, bool expert)
{
    if (expert) return arch->moe.intermediate;
    return arch->block[block].routed ? arch->moe.shared_intermediate : arch->intermediate;
}

void mq_arch_linear_shape(const mq_arch *arch, int64_t block, mq_linear_id linear, int64_t *n_out,
                          int64_t *n_in)
{
    mq_linear_id role = mq_linear_role(linear);
    const mq_latent *latent = &arch->latent;
    int64_t q = arch->n_heads * arch->head_dim, kv = arch->n_kv_heads * arch->head_dim;
    int64_t out = attention_width(arch, block), delta = mq_arch_delta_in_width(arch);
    int64_t z = mq_arch_delta_width(arch);
    int64_t width = mlp_width(arch, block, linear >= MQ_EXPERTS);
    int64_t gate = arch->fused_gate_up && !arch->block[block].routed ? 2 * width : width;
    int64_t first = arch->attention_gate ? 2 * q : q; /* rows of MQ_Q that stand for query heads */
    const int64_t shapes[MQ_N_LINEARS + 1][2] = {
        [MQ_Q] = {arch->fused_qkv ? first + 2 * kv : first, arch->hidden},
        [MQ_K] = {kv, arch->hidden},
        [MQ_V] = {kv, arch->hidden},
        [MQ_Q_A] = {latent->q_rank, arch->hidden},
        [MQ_KV_A] = {latent->kv_rank + latent->rope_dim, arch->hidden},
        [MQ_Q_B] = {q, latent->q_rank},
        [MQ_KV_B] = {arch->n_heads * latent->nope_dim + out, latent->kv_rank},
        [MQ_IN_QKV] = {arch->delta.grouped ? delta : delta - z, arch->hidden},
        [MQ_IN_Z] = {z, arch->hidden},
        [MQ_O] = {arch->hidden, out},
        [MQ_GATE] = {gate, arch->hidden},
        [MQ_UP] = {width, arch->hidden},
        [MQ_DOWN] = {arch->hidden, width},
        [MQ_HEAD] = {arch->vocab, arch->hidden},
    };
    bool there = linear == MQ_HEAD || mq_arch_has(arch, block, linear);
    *n_out = there ? shapes[role][0] : 0;
    *n_in = there ? shapes[role][1] : 0;
}

int mq_arch_taps(const mq_arch *arch, int64_t block, mq_tap_id taps[MQ_N_TAPS])
{
    int n = 0;
    taps[n++] = MQ_TAP_ATTN_IN;
    if (arch->latent.q_rank > 0) taps[n++] = MQ_TAP_Q_LORA;
    if (arch->latent.kv_rank > 0) taps[n++] = MQ_TAP_KV_LORA;
    taps[n++] = MQ_TAP_ATTN_OUT;
    if (!arch->parallel_block) taps[n++] = MQ_TAP_MLP_IN;
    if (mq_arch_has(arch, block, MQ_DOWN)) taps[n++] = MQ_TAP_MLP_MID;
    return n;
}

/* The tap that a linear reads. */
mq_tap_id mq_arch_linear_tap(const mq_arch *arch, mq_linear_id linear)
{
    int64_t expert = mq_linear_expert(linear);
    if (expert >= 0) return mq_expert_tap(expert, mq_linear_role(linear) == MQ_DOWN);
    switch (linear) {
    case MQ_Q_B:
        return MQ_TAP_Q_LORA;
    case MQ_KV_B:
        return MQ_TAP_KV_LORA;
    case MQ_O:
        return MQ_TAP_ATTN_OUT;
    case MQ_GATE:
    case MQ_UP:
        return arch->parallel_block ? MQ_TAP_ATTN_IN : MQ_TAP_MLP_IN;
    case MQ_DOWN:
        return MQ_TAP_MLP_MID;
    case MQ_HEAD:
        return MQ_TAP_HEAD_IN;
    case MQ_Q:
    case MQ_K:
    case MQ_V:
    case MQ_Q_A:
    case MQ_KV_A:
    case MQ_IN_QKV:
    case MQ_IN_Z:
    case MQ_EXPERTS:
        break;
    }
    return MQ_TAP_ATTN_IN;
}

int mq_arch_tap_linears(const mq_arch *arch, int64_t block, mq_tap_id tap,
                        mq_linear_id linears[MQ_N_LINEARS])
{
    int n = 0;
    int64_t expert = mq_tap_expert(tap);
    if (tap == MQ_TAP_HEAD_IN) linears[n++] = MQ_HEAD;
    for (int i = 0; i < MQ_N_LINEARS && tap != MQ_TAP_HEAD_IN; i++) {
        mq_linear_id l = (mq_linear_id)i;
        if (expert >= 0 && l < MQ_GATE) continue;
        if (expert >= 0) l = mq_expert_linear(expert, l);
        if (mq_arch_has(arch, block, l) && mq_arch_linear_tap(arch, l) == tap) linears[n++] = l;
    }
    return n;
}

const char *mq_arch_tap_norm(const mq_arch *arch, mq_tap_id tap)
{
    const char *norm = "";
    if (tap == MQ_TAP_HEAD_IN) norm = arch->final_norm;
    if (tap == MQ_TAP_ATTN_IN) norm = arch->attn_norm;
    if (tap == MQ_TAP_MLP_IN) norm = arch->mlp_norm;
    if (tap == MQ_TAP_Q_LORA) norm = arch->latent.q_norm;
    if (tap == MQ_TAP_KV_LORA) norm = arch->latent.kv_norm;
    return norm[0] ? norm : NULL;
}

int64_t mq_arch_normed_width(const mq_arch *arch)
{
    int64_t latent =
        arch->latent.q_rank > arch->latent.kv_rank ? arch->latent.q_rank : arch->latent.kv_rank;
    return latent > arch->hidden ? latent : arch->hidden;
}

bool mq_arch_couples(const mq_arch *arch, int64_t block, mq_tap_id tap)
{
    return tap == MQ_TAP_ATTN_IN && arch->latent.kv_rank == 0 && !arch->block[block].linear;
}

bool mq_arch_norms_branch(const mq_arch *arch, mq_linear_id linear)
{
    return (linear == MQ_O ? arch->o_norm : arch->down_norm)[0] != '\0';
}

bool mq_arch_adds_alone(const mq_arch *arch, mq_linear_id linear)
{
    return linear < MQ_EXPERTS && !mq_arch_norms_branch(arch, linear);
}

bool mq_tap_writes_residual(mq_tap_id tap, mq_linear_id *linear)
{
    if (mq_tap_is_expert_mid(tap)) {
        *linear = mq_expert_linear(mq_tap_expert(tap), MQ_DOWN);
        return true;
    }
    if (tap != MQ_TAP_ATTN_OUT && tap != MQ_TAP_MLP_MID) return false;
    *linear = tap == MQ_TAP_ATTN_OUT ? MQ_O : MQ_DOWN;
    return true;
}

int64_t mq_arch_tap_width(const mq_arch *arch, int64_t block, mq_tap_id tap)
{
    if (tap == MQ_TAP_ATTN_OUT) return attention_width(arch, block);
    if (tap == MQ_TAP_Q_LORA) return arch->latent.q_rank;
    if (tap == MQ_TAP_KV_LORA) return arch->latent.kv_rank;
    bool mid = mq_tap_is_expert_mid(tap);
    return mid || tap == MQ_TAP_MLP_MID ? mlp_width(arch, block, mid) : arch->hidden;
}
