#include "model/latent.h"

#include "base/checked.h"
#include "ops/gemm.h"

/* Heads that are made and attended to at a time: all 128 of a large model would take ten times the
 * memory of its residual stream. */
enum { HEADS_AT_ONCE = 16 };

/* out (n_tokens, n_rows) = rows [row, row + n_rows) of a linear. */
static mq_status some_rows(const mq_block_weights *w, mq_linear_id linear, int64_t row,
                           int64_t n_rows, int64_t n_tokens, const void *in, void *out)
{
    int64_t n_out = 0, n_in = 0;
    const float *bias = w->bias[linear];
    mq_arch_linear_shape(w->arch, w->block, linear, &n_out, &n_in);
    const char *from = (const char *)w->w[linear] + (size_t)(row * n_in) * mq_dtype_size(w->dtype);
    return mq_linear(in, n_tokens, n_in, from, n_rows, bias ? bias + row : NULL, out, n_rows,
                     w->dtype);
}

/* The norm of a latent, in place. */
static mq_status norm(const mq_block_weights *w, const float *weight, int64_t n_tokens,
                      int64_t rank, void *x)
{
    const mq_arch *a = w->arch;
    return mq_norm(a->norm, x, n_tokens, rank, weight, NULL, a->latent.norm_eps, x, w->dtype);
}

mq_status mq_latent_q(const mq_block_weights *weights, int64_t n_tokens, const void *attn_in,
                      void *out)
{
    int64_t rank = weights->arch->latent.q_rank;
    MQ_TRY(some_rows(weights, MQ_Q_A, 0, rank, n_tokens, attn_in, out));
    return norm(weights, weights->q_lora_norm, n_tokens, rank, out);
}

mq_status mq_latent_kv(const mq_block_weights *weights, int64_t n_tokens, const void *attn_in,
                       void *out)
{
    int64_t rank = weights->arch->latent.kv_rank;
    MQ_TRY(some_rows(weights, MQ_KV_A, 0, rank, n_tokens, attn_in, out));
    return norm(weights, weights->kv_lora_norm, n_tokens, rank, out);
}

static int64_t heads_at_once(const mq_arch *arch)
{
    return mq_min_i64(arch->n_heads, HEADS_AT_ONCE);
}

int64_t mq_latent_work_width(const mq_arch *arch)
{
    const mq_latent *l = &arch->latent;
    if (l->kv_rank == 0) return 0;
    return heads_at_once(arch) * (2 * arch->head_dim + l->nope_dim + l->v_dim) + l->rope_dim;
}

/* Operands of the attention of some heads; all in the work of a unit. */
typedef struct operands {
    char *q, *k;  /* (n_tokens, heads * head_dim) */
    char *kv;     /* (n_tokens, heads * (nope_dim + v_dim)) */
    char *shared; /* (n_tokens, rope_dim) */
} operands;

static operands lay_out(const mq_block_weights *w, int64_t n_tokens, void *work)
{
    const mq_arch *a = w->arch;
    size_t values = (size_t)(n_tokens * heads_at_once(a)) * mq_dtype_size(w->dtype);
    operands o = {.q = work};
    o.k = o.q + values * (size_t)a->head_dim;
    o.kv = o.k + values * (size_t)a->head_dim;
    o.shared = o.kv + values * (size_t)(a->latent.nope_dim + a->latent.v_dim);
    return o;
}

/* Queries of heads [first, first + n), turned. */
static mq_status make_queries(const mq_block_weights *w, const mq_rope_tables *rope,
                              const mq_unit *unit, const void *const from[MQ_N_TAPS], int64_t first,
                              int64_t n, const operands *o)
{
    const mq_arch *a = w->arch;
    bool split = a->latent.q_rank > 0;
    const void *in = split ? from[MQ_TAP_Q_LORA] : from[MQ_TAP_ATTN_IN];
    int64_t ld = n * a->head_dim;
    MQ_TRY(some_rows(w, split ? MQ_Q_B : MQ_Q, first * a->head_dim, ld, unit->n_tokens, in, o->q));
    char *turning = o->q + (size_t)a->latent.nope_dim * mq_dtype_size(w->dtype);
    return mq_block_turn(w, rope, unit, turning, ld, n);
}

static mq_status attend(const mq_block_weights *w, const mq_unit *unit, int64_t first, int64_t n,
                        const void *kv_lora, const operands *o, void *out)
{
    const mq_arch *a = w->arch;
    const mq_latent *l = &a->latent;
    int64_t both = l->nope_dim + l->v_dim;
    MQ_TRY(some_rows(w, MQ_KV_B, first * both, n * both, unit->n_tokens, kv_lora, o->kv));
    MQ_TRY(mq_split_keys(o->kv, unit->n_tokens, n, l->nope_dim, l->v_dim, o->shared, l->rope_dim,
                         o->k, w->dtype));
    const mq_attention_shape shape = {.n_heads = n,
                                      .n_kv_heads = n,
                                      .head_dim = a->head_dim,
                                      .value_dim = l->v_dim,
                                      .ld_q = n * a->head_dim,
                                      .ld_k = n * a->head_dim,
                                      .ld_v = n * both,
                                      .ld_out = a->n_heads * l->v_dim,
                                      .scale = a->attention_scale,
                                      .cap = a->attention_cap,
                                      .window = mq_arch_window(a, w->block)};
    char *to = (char *)out + (size_t)(first * l->v_dim) * mq_dtype_size(w->dtype);
    return mq_attention(&shape, o->q, o->k, o->kv, unit->offset, unit->n_samples, to, w->dtype);
}

mq_status mq_latent_attention(const mq_block_weights *weights, const mq_rope_tables *rope,
                              const mq_unit *unit, const void *const from[MQ_N_TAPS], void *work,
                              void *out)
{
    const mq_arch *a = weights->arch;
    const mq_latent *l = &a->latent;
    operands o = lay_out(weights, unit->n_tokens, work);
    MQ_TRY(some_rows(weights, MQ_KV_A, l->kv_rank, l->rope_dim, unit->n_tokens,
                     from[MQ_TAP_ATTN_IN], o.shared));
    MQ_TRY(mq_block_turn(weights, rope, unit, o.shared, l->rope_dim, 1));
    for (int64_t h = 0; h < a->n_heads; h += HEADS_AT_ONCE) {
        int64_t n = mq_min_i64(HEADS_AT_ONCE, a->n_heads - h);
        MQ_TRY(make_queries(weights, rope, unit, from, h, n, &o));
        MQ_TRY(attend(weights, unit, h, n, from[MQ_TAP_KV_LORA], &o, out));
    }
    return MQ_OK;
}
