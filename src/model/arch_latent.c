#include "model/arch_parse.h"

#include <inttypes.h>

/* Latent attention: the sizes that the section "latent" of a descriptor has, and its tensors. */

static mq_status check_sizes(const mq_arch_texts *texts, const mq_arch *arch)
{
    const mq_latent *l = &arch->latent;
    const int64_t least[][2] = {
        {l->q_rank, 0}, {l->kv_rank, 1}, {l->nope_dim, 1}, {l->rope_dim, 2}, {l->v_dim, 1}};
    bool sane = arch->n_heads >= 1 && l->rope_dim % 2 == 0;
    for (size_t i = 0; i < sizeof least / sizeof *least; i++) {
        sane = sane && least[i][0] >= least[i][1] && least[i][0] <= INT32_MAX;
    }
    sane = sane && l->nope_dim + l->rope_dim + l->v_dim <= INT32_MAX / arch->n_heads;
    if (!sane) {
        return mq_fail(MQ_E_INPUT,
                       "%s: latent attention of ranks %" PRId64 " and %" PRId64 ", %" PRId64
                       " heads of %" PRId64 " + %" PRId64 " and of %" PRId64 " is out of range",
                       texts->where, l->q_rank, l->kv_rank, arch->n_heads, l->nope_dim, l->rope_dim,
                       l->v_dim);
    }
    if (arch->n_kv_heads == arch->n_heads && !arch->parallel_block && arch->qk_norm == MQ_QK_NONE) {
        return MQ_OK;
    }
    return mq_fail(MQ_E_INPUT,
                   "%s: latent attention is computed with as many key/value heads as heads, in "
                   "sequential blocks, without norms of q and k",
                   texts->where);
}

mq_status mq_arch_parse_latent(const mq_arch_texts *texts, mq_arch *arch)
{
    mq_latent *l = &arch->latent;
    if (!cJSON_GetObjectItemCaseSensitive(texts->descriptor, "latent")) return MQ_OK;
    MQ_TRY(mq_spec_int(texts, "latent", "q_rank", arch, &l->q_rank));
    MQ_TRY(mq_spec_int(texts, "latent", "kv_rank", arch, &l->kv_rank));
    MQ_TRY(mq_spec_int(texts, "latent", "nope_dim", arch, &l->nope_dim));
    MQ_TRY(mq_spec_int(texts, "latent", "v_dim", arch, &l->v_dim));
    MQ_TRY(mq_spec_double(texts, "latent", "norm_eps", &l->norm_eps));
    l->rope_dim = arch->head_dim;
    MQ_TRY(check_sizes(texts, arch));
    arch->head_dim = l->nope_dim + l->rope_dim;
    return MQ_OK;
}

mq_status mq_arch_latent_names(const mq_arch_texts *texts, mq_arch *arch)
{
    static const mq_linear_id linears[] = {MQ_Q, MQ_Q_A, MQ_KV_A, MQ_Q_B, MQ_KV_B};
    bool split = arch->latent.q_rank > 0;
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
        mq_linear_id l = linears[i];
        bool kv = l == MQ_KV_A || l == MQ_KV_B;
        if (!kv && split != (l != MQ_Q)) continue;
        MQ_TRY(mq_arch_tensor_name(texts, mq_linear_name(l), true, arch->linear[l]));
        MQ_TRY(mq_spec_bool(texts, "bias", mq_linear_name(l), &arch->has_bias[l]));
    }
    MQ_TRY(mq_arch_tensor_name(texts, "kv_lora_norm", true, arch->latent.kv_norm));
    if (!split) return MQ_OK;
    return mq_arch_tensor_name(texts, "q_lora_norm", true, arch->latent.q_norm);
}
