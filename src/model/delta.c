#include "model/delta.h"

#include "ops/gemm.h"

/* b and a are F32, two values of BF16 each. */
int64_t mq_delta_work_width(const mq_arch *arch)
{
    return mq_arch_delta_in_width(arch) + 2 * 2 * arch->delta.n_v_heads;
}

/* Queries, keys, values and z, side by side in rows of mq_arch_delta_in_width. */
static mq_status make_operands(const mq_block_weights *w, int64_t n_tokens, const void *in,
                               char *out)
{
    const mq_linear_id linears[] = {MQ_IN_QKV, MQ_IN_Z};
    int64_t ld = mq_arch_delta_in_width(w->arch);
    for (int i = 0; i < 2; i++) {
        int64_t n_out = 0, n_in = 0;
        if (!w->w[linears[i]]) continue;
        mq_arch_linear_shape(w->arch, w->block, linears[i], &n_out, &n_in);
        MQ_TRY(mq_linear(in, n_tokens, n_in, w->w[linears[i]], n_out, NULL, out, ld, w->dtype));
        out += (size_t)n_out * mq_dtype_size(w->dtype);
    }
    return MQ_OK;
}

/* Where b and a of a unit are. */
typedef struct rates {
    float *b, *a;
    int64_t ld;
} rates;

/* Two arrays of them, or, where one layer makes both, one. */
static rates lay_out(const mq_linear_attention *l, int64_t n_tokens, float *work)
{
    int64_t heads = l->n_v_heads;
    if (l->grouped) return (rates){work, work + heads / l->n_k_heads, 2 * heads};
    return (rates){work, work + n_tokens * heads, heads};
}

static mq_status make_rates(const mq_block_weights *w, int64_t n_tokens, const void *in,
                            const rates *r)
{
    int64_t hidden = w->arch->hidden;
    MQ_TRY(mq_router_logits(in, w->dtype, n_tokens, hidden, w->delta_b, NULL, r->ld, r->b));
    if (!w->delta_a) return MQ_OK;
    return mq_router_logits(in, w->dtype, n_tokens, hidden, w->delta_a, NULL, r->ld, r->a);
}

mq_status mq_delta_attention(const mq_block_weights *weights, const mq_unit *unit,
                             const void *attn_in, void *work, void *out)
{
    const mq_arch *a = weights->arch;
    const mq_linear_attention *l = &a->delta;
    rates r = lay_out(l, unit->n_tokens, work);
    char *x = (char *)work + (size_t)(unit->n_tokens * 2 * l->n_v_heads) * sizeof(float);
    MQ_TRY(make_rates(weights, unit->n_tokens, attn_in, &r));
    MQ_TRY(make_operands(weights, unit->n_tokens, attn_in, x));
    const mq_delta_shape shape = {.n_k_heads = l->n_k_heads,
                                  .n_v_heads = l->n_v_heads,
                                  .k_dim = l->k_dim,
                                  .v_dim = l->v_dim,
                                  .kernel = l->kernel,
                                  .grouped = l->grouped,
                                  .ld_x = mq_arch_delta_in_width(a),
                                  .ld_rates = r.ld,
                                  .conv = weights->delta_conv,
                                  .a_log = weights->delta_a_log,
                                  .dt_bias = weights->delta_dt_bias,
                                  .norm = weights->delta_norm,
                                  .norm_eps = a->norm_eps};
    return mq_delta(&shape, x, r.b, r.a, unit->offset, unit->n_samples, out, weights->dtype);
}
