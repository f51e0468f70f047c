#include "model/block.h"

#include "base/checked.h"
#include "model/delta.h"
#include "model/latent.h"
#include "model/tensors.h"
#include "ops/gemm.h"

#include <math.h>
#include <string.h>

/* out = norm(x), or x where there is none: `which` is the norm's of mq_vector_id. out may be x. */
static mq_status norm(const mq_block_weights *w, const float *weight, int which, int64_t n_tokens,
                      const void *x, void *out)
{
    const mq_arch *a = w->arch;
    if (weight) {
        return mq_norm(a->norm, x, n_tokens, a->hidden, weight, w->norm_bias[which], a->norm_eps,
                       out, w->dtype);
    }
    if (out != x) memcpy(out, x, (size_t)(n_tokens * a->hidden) * mq_dtype_size(w->dtype));
    return MQ_OK;
}

mq_status mq_block_branch(const mq_block_weights *w, mq_linear_id linear, int64_t n_tokens,
                          const void *in, void *out)
{
    int64_t n_out = 0, n_in = 0;
    mq_arch_linear_shape(w->arch, w->block, linear, &n_out, &n_in);
    MQ_TRY(
        mq_linear(in, n_tokens, n_in, w->w[linear], n_out, w->bias[linear], out, n_out, w->dtype));
    if (linear == MQ_O) return norm(w, w->o_norm, MQ_VECTOR_O_NORM, n_tokens, out, out);
    return norm(w, w->down_norm, MQ_VECTOR_DOWN_NORM, n_tokens, out, out);
}

/* x += residual_scale * branch(in) */
static mq_status add_branch(const mq_block_weights *w, mq_linear_id linear, const mq_unit *unit,
                            const void *in, void *work, void *x)
{
    const mq_arch *a = w->arch;
    int64_t n_out = 0, n_in = 0;
    mq_arch_linear_shape(a, w->block, linear, &n_out, &n_in);
    if (a->residual_scale == 1 && !mq_arch_norms_branch(a, linear)) {
        return mq_linear_add(in, unit->n_tokens, n_in, w->w[linear], n_out, w->bias[linear], x,
                             w->dtype);
    }
    MQ_TRY(mq_block_branch(w, linear, unit->n_tokens, in, work));
    return mq_add_multiple(work, a->residual_scale, unit->n_tokens * n_out, x, w->dtype);
}

/* The linears first..last of one input, those that there are, side by side in rows of `ld`. */
static mq_status side_by_side(const mq_block_weights *w, mq_linear_id first, mq_linear_id last,
                              const mq_unit *unit, const void *in, void *work, int64_t ld)
{
    char *at = work;
    for (int i = (int)first; i <= (int)last; i++) {
        mq_linear_id l = (mq_linear_id)i;
        int64_t n_out = 0, n_in = 0;
        if (!w->w[l]) continue;
        mq_arch_linear_shape(w->arch, w->block, l, &n_out, &n_in);
        MQ_TRY(mq_linear(in, unit->n_tokens, n_in, w->w[l], n_out, w->bias[l], at, ld, w->dtype));
        at += (size_t)n_out * mq_dtype_size(w->dtype);
    }
    return MQ_OK;
}

/* The heads of q or k: n_heads of them in rows of ld. */
typedef struct heads {
    void *x;
    int64_t ld, n_heads;
    const float *norm; /* NULL: ones */
} heads;

static mq_status norm_heads(const mq_block_weights *w, const mq_unit *unit, const heads *h)
{
    const mq_arch *a = w->arch;
    bool as_one = a->qk_norm == MQ_QK_ALL_HEADS, per_head = a->qk_norm == MQ_QK_PER_HEAD;
    int64_t n = as_one ? 1 : h->n_heads, d = as_one ? h->n_heads * a->head_dim : a->head_dim;
    if (!mq_arch_norms_heads(a, w->block)) return MQ_OK;
    return mq_norm_heads(a->qk_norm_kind, h->x, unit->n_tokens, h->ld, n, d, h->norm, per_head,
                         a->norm_eps, w->dtype);
}

/* Rows [begin, end) of a unit. */
static mq_status turn_rows(const mq_block_weights *w, const mq_rope_kind *kind, const float *table,
                           const mq_unit *unit, const heads *h, int64_t begin, int64_t end)
{
    char *x = (char *)h->x + (size_t)(begin * h->ld) * mq_dtype_size(w->dtype);
    bool given = unit->rope_position != NULL;
    int n_axes = given ? unit->n_axes : 1;
    const int32_t *position = given ? unit->rope_position : unit->position;
    return mq_rope_axes(x, end - begin, h->ld, h->n_heads, w->arch->head_dim, kind->dim, table,
                        position + begin * n_axes, n_axes, n_axes > 1 ? kind->axis : NULL,
                        w->arch->rope_interleaved, w->dtype);
}

/* A sample's length may decide by which table it turns. */
static mq_status turn_heads(const mq_block_weights *w, const mq_rope_tables *rope,
                            const mq_unit *unit, const heads *h)
{
    const mq_rope_kind *kind = mq_arch_rope(w->arch, w->block);
    if (!kind) return MQ_OK;
    const float *table = kind == &w->arch->rope ? rope->rope[0] : rope->sliding_rope;
    if (!rope->rope[1]) return turn_rows(w, kind, table, unit, h, 0, unit->n_tokens);
    for (int64_t s = 0; s < unit->n_samples; s++) {
        int64_t begin = unit->offset[s], end = unit->offset[s + 1];
        table = rope->rope[mq_rope_stage(kind, end - begin)];
        MQ_TRY(turn_rows(w, kind, table, unit, h, begin, end));
    }
    return MQ_OK;
}

mq_status mq_block_turn(const mq_block_weights *weights, const mq_rope_tables *rope,
                        const mq_unit *unit, void *x, int64_t ld, int64_t n_heads)
{
    const heads h = {.x = x, .ld = ld, .n_heads = n_heads};
    return turn_heads(weights, rope, unit, &h);
}

/* Norm and rotation of q or k, where the family and the block have them. */
static mq_status prepare_heads(const mq_block_weights *w, const mq_rope_tables *rope,
                               const mq_unit *unit, const heads *h)
{
    bool late = w->arch->qk_norm_after_rope;
    if (!late) MQ_TRY(norm_heads(w, unit, h));
    MQ_TRY(turn_heads(w, rope, unit, h));
    return late ? norm_heads(w, unit, h) : MQ_OK;
}

/* q, k and v of all tokens in rows of mq_arch_qkv_width, the gates between q and k. */
static mq_status project(const mq_block_weights *w, const mq_unit *unit, const void *in, void *work)
{
    const mq_arch *a = w->arch;
    int64_t ld = mq_arch_qkv_width(a);
    MQ_TRY(side_by_side(w, MQ_Q, MQ_V, unit, in, work, ld));
    if (!a->attention_gate) return MQ_OK;
    return mq_split_gates(work, unit->n_tokens, ld, a->n_heads, a->head_dim, w->dtype);
}

/* Attention's outputs by sigmoid(gates), where the family has them. */
static mq_status gate_outputs(const mq_block_weights *w, const mq_unit *unit, const void *work,
                              void *out)
{
    const mq_arch *a = w->arch;
    const mq_activation sigmoid = {.kind = MQ_SIGMOID};
    int64_t ld = mq_arch_qkv_width(a), width = a->n_heads * a->head_dim;
    const char *gates = (const char *)work + (size_t)width * mq_dtype_size(w->dtype);
    if (!a->attention_gate) return MQ_OK;
    return mq_gated(sigmoid, gates, ld, out, width, unit->n_tokens, width, out, w->dtype);
}

static mq_status attention(const mq_block_weights *w, const mq_rope_tables *rope,
                           const mq_unit *unit, const void *in, void *work, void *out)
{
    const mq_arch *a = w->arch;
    int64_t ld = mq_arch_qkv_width(a);
    size_t elem = mq_dtype_size(w->dtype), kv = (size_t)(a->n_kv_heads * a->head_dim) * elem;
    char *qkv[3] = {work, NULL, (char *)work + (size_t)ld * elem - kv};
    qkv[1] = qkv[2] - kv;
    MQ_TRY(project(w, unit, in, work));
    const heads q = {qkv[0], ld, a->n_heads, w->q_norm}, k = {qkv[1], ld, a->n_kv_heads, w->k_norm};
    MQ_TRY(prepare_heads(w, rope, unit, &q));
    MQ_TRY(prepare_heads(w, rope, unit, &k));
    mq_attention_shape shape = {.n_heads = a->n_heads,
                                .n_kv_heads = a->n_kv_heads,
                                .head_dim = a->head_dim,
                                .ld_q = ld,
                                .ld_k = ld,
                                .ld_v = ld,
                                .ld_out = a->n_heads * a->head_dim,
                                .scale = a->attention_scale,
                                .cap = a->attention_cap,
                                .window = mq_arch_window(a, w->block),
                                .chunk = mq_arch_chunk(a, w->block),
                                .sink = w->sinks};
    if (mq_arch_scales_queries(a, w->block)) shape.query_factor = rope->query_factor;
    MQ_TRY(
        mq_attention(&shape, qkv[0], qkv[1], qkv[2], unit->offset, unit->n_samples, out, w->dtype));
    return gate_outputs(w, unit, work, out);
}

/* What down makes of it is weighed by weighing its inputs, so that its Hessian knows of it. */
static mq_status weigh_shared(const mq_block_weights *w, const mq_unit *unit, const void *in,
                              float *weight, void *mid)
{
    int64_t n = unit->n_tokens;
    MQ_TRY(mq_router_logits(in, w->dtype, n, w->arch->hidden, w->shared_weight, NULL, 1, weight));
    for (int64_t t = 0; t < n; t++) weight[t] = 1 / (1 + expf(-weight[t]));
    return mq_scale_rows(mid, mq_arch_tap_width(w->arch, w->block, MQ_TAP_MLP_MID), w->dtype,
                         weight, n);
}

static mq_status mlp(const mq_block_weights *w, const mq_unit *unit, const void *in, void *work,
                     void *out)
{
    const mq_arch *a = w->arch;
    int64_t width = mq_arch_tap_width(a, w->block, MQ_TAP_MLP_MID);
    int64_t ld = a->gated ? 2 * width : width;
    const char *up = (char *)work + (size_t)width * mq_dtype_size(w->dtype);
    MQ_TRY(side_by_side(w, MQ_GATE, MQ_UP, unit, in, work, ld));
    MQ_TRY(mq_gated(a->activation, work, ld, a->gated ? up : NULL, ld, unit->n_tokens, width, out,
                    w->dtype));
    return w->shared_weight ? weigh_shared(w, unit, in, work, out) : MQ_OK;
}

mq_status mq_block_produce(const mq_block_weights *weights, const mq_rope_tables *rope,
                           mq_tap_id tap, const mq_unit *unit, void *x,
                           const void *const from[MQ_N_TAPS], void *work, void *out)
{
    const mq_arch *a = weights->arch;
    switch (tap) {
    case MQ_TAP_ATTN_IN:
        return norm(weights, weights->attn_norm, MQ_VECTOR_ATTN_NORM, unit->n_tokens, x, out);
    case MQ_TAP_Q_LORA:
        return mq_latent_q(weights, unit->n_tokens, from[MQ_TAP_ATTN_IN], out);
    case MQ_TAP_KV_LORA:
        return mq_latent_kv(weights, unit->n_tokens, from[MQ_TAP_ATTN_IN], out);
    case MQ_TAP_ATTN_OUT:
        if (a->latent.kv_rank > 0) {
            return mq_latent_attention(weights, rope, unit, from, work, out);
        }
        if (a->block[weights->block].linear) {
            return mq_delta_attention(weights, unit, from[MQ_TAP_ATTN_IN], work, out);
        }
        return attention(weights, rope, unit, from[MQ_TAP_ATTN_IN], work, out);
    case MQ_TAP_MLP_IN:
        MQ_TRY(add_branch(weights, MQ_O, unit, from[MQ_TAP_ATTN_OUT], work, x));
        return norm(weights, weights->mlp_norm, MQ_VECTOR_MLP_NORM, unit->n_tokens, x, out);
    case MQ_TAP_MLP_MID:
        if (!a->parallel_block) return mlp(weights, unit, from[MQ_TAP_MLP_IN], work, out);
        MQ_TRY(add_branch(weights, MQ_O, unit, from[MQ_TAP_ATTN_OUT], work, x));
        return mlp(weights, unit, from[MQ_TAP_ATTN_IN], work, out);
    case MQ_TAP_HEAD_IN:
    case MQ_TAP_EXPERTS:
        break;
    }
    return mq_fail(MQ_E_INTERNAL, "a block has no tap %d", (int)tap);
}

mq_status mq_block_finish(const mq_block_weights *weights, const mq_unit *unit, void *x,
                          const void *mlp_mid, void *work)
{
    if (!weights->w[MQ_DOWN]) return MQ_OK;
    return add_branch(weights, MQ_DOWN, unit, mlp_mid, work, x);
}

mq_status mq_block_work_bytes(const mq_arch *arch, mq_dtype dtype, int64_t n_tokens, size_t *bytes)
{
    int64_t qkv = mq_arch_qkv_width(arch), count = 0;
    if (arch->latent.kv_rank > 0) {
        qkv = mq_max_i64(mq_latent_work_width(arch), arch->n_heads * arch->latent.v_dim);
    }
    qkv = mq_max_i64(qkv, mq_delta_work_width(arch));
    int64_t widest = mq_max_i64(qkv, mq_max_i64(arch->hidden, arch->moe.intermediate));
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        widest = mq_max_i64(widest, 2 * mq_arch_tap_width(arch, b, MQ_TAP_MLP_MID));
    }
    MQ_TRY(mq_mul_i64(n_tokens, widest, &count));
    return mq_mul_size((size_t)count, mq_dtype_size(dtype), bytes);
}

static float rounded(float x, mq_dtype dtype)
{
    return dtype == MQ_BF16 ? mq_bf16_to_f32(mq_f32_to_bf16(x)) : x;
}

mq_status mq_block_embed(const mq_outer_weights *outer, const mq_arch *arch, const mq_unit *unit,
                         const int32_t *token, void *x)
{
    double scale = arch->embed_scale;
    if (arch->embed_sqrt) scale = (double)rounded((float)sqrt((double)arch->hidden), outer->dtype);
    return mq_embed(outer->embed, outer->dtype, arch->vocab, arch->hidden, token, unit->n_tokens,
                    scale, x, outer->dtype);
}

mq_status mq_block_rows(const mq_arch *arch, mq_dtype dtype, int64_t n_tokens, const void *rows,
                        void *x)
{
    int64_t n = n_tokens * arch->hidden;
    if (arch->embed_scale != 1 || arch->embed_sqrt) {
        return mq_fail(MQ_E_INPUT,
                       "%s: a %s model multiplies its embeddings; rows in their place are not "
                       "supported",
                       arch->where, arch->family);
    }
    if (dtype == MQ_F32) return mq_to_f32(rows, MQ_BF16, n, x);
    memcpy(x, rows, (size_t)n * mq_dtype_size(MQ_BF16));
    return MQ_OK;
}

mq_status mq_block_add_rows(const mq_arch *arch, mq_dtype dtype, int64_t n_tokens, const void *rows,
                            void *x)
{
    const uint16_t *row = rows;
    float *sum = x;
    int64_t n = n_tokens * arch->hidden;
    if (dtype == MQ_BF16) return mq_add_multiple(rows, 1, n, x, dtype);
    for (int64_t i = 0; i < n; i++) sum[i] += mq_bf16_to_f32(row[i]);
    return MQ_OK;
}
