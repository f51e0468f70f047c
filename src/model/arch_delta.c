#include "model/arch_parse.h"

#include <inttypes.h>
#include <stddef.h>

/* Linear attention: the section "delta" of a descriptor, its tensors, and the blocks that have it.
 */

static const cJSON *member(const mq_arch_texts *texts, const char *section, const char *field)
{
    const cJSON *in = cJSON_GetObjectItemCaseSensitive(texts->descriptor, section);
    return cJSON_GetObjectItemCaseSensitive(in, field);
}

static mq_status read_sizes(const mq_arch_texts *texts, mq_arch *arch)
{
    mq_linear_attention *l = &arch->delta;
    MQ_TRY(mq_spec_int(texts, "delta", "n_k_heads", arch, &l->n_k_heads));
    MQ_TRY(mq_spec_int(texts, "delta", "n_v_heads", arch, &l->n_v_heads));
    MQ_TRY(mq_spec_int(texts, "delta", "k_dim", arch, &l->k_dim));
    MQ_TRY(mq_spec_int(texts, "delta", "v_dim", arch, &l->v_dim));
    return mq_spec_int(texts, "delta", "kernel", arch, &l->kernel);
}

static mq_status check_sizes(const mq_arch_texts *texts, const mq_arch *arch)
{
    const mq_linear_attention *l = &arch->delta;
    const int64_t sizes[] = {l->n_k_heads, l->n_v_heads, l->k_dim, l->v_dim, l->kernel};
    bool sane = true;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        sane = sane && sizes[i] >= 1 && sizes[i] <= INT32_MAX;
    }
    /* Four times each product is a sum of widths. */
    sane = sane && l->n_v_heads % l->n_k_heads == 0;
    sane = sane && l->k_dim <= INT32_MAX / 4 / l->n_k_heads;
    sane = sane && l->v_dim <= INT32_MAX / 4 / l->n_v_heads;
    if (sane) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: linear attention of %" PRId64 " value heads of %" PRId64 " over %" PRId64
                   " key heads of %" PRId64 ", with a convolution over %" PRId64
                   ", is out of range",
                   texts->where, l->n_v_heads, l->v_dim, l->n_k_heads, l->k_dim, l->kernel);
}

/* What makes q, k, v and z is one layer or two; what makes b and a likewise. */
static mq_status read_names(const mq_arch_texts *texts, mq_arch *arch)
{
    mq_linear_attention *l = &arch->delta;
    const struct {
        const char *key;
        char *to;
    } one[] = {{"in_qkvz", arch->linear[MQ_IN_QKV]}, {"in_ba", l->b}, {NULL, NULL}},
      two[] = {{"in_qkv", arch->linear[MQ_IN_QKV]},
               {"in_z", arch->linear[MQ_IN_Z]},
               {"in_b", l->b},
               {"in_a", l->a},
               {NULL, NULL}},
      rest[] = {{"conv", l->conv},       {"a_log", l->a_log},   {"dt_bias", l->dt_bias},
                {"delta_norm", l->norm}, {"delta_out", l->out}, {NULL, NULL}};
    l->grouped = member(texts, "tensors", "in_qkvz") != NULL;
    for (int i = 0; l->grouped && one[i].key; i++) {
        MQ_TRY(mq_arch_tensor_name(texts, one[i].key, true, one[i].to));
    }
    for (int i = 0; !l->grouped && two[i].key; i++) {
        MQ_TRY(mq_arch_tensor_name(texts, two[i].key, true, two[i].to));
    }
    for (int i = 0; rest[i].key; i++) {
        MQ_TRY(mq_arch_tensor_name(texts, rest[i].key, true, rest[i].to));
    }
    return MQ_OK;
}

/* Those that a list names, or else all but each "every"-th. */
static mq_status mark_blocks(const mq_arch_texts *texts, mq_arch *arch)
{
    mq_spec_value types = {.json = NULL};
    int64_t every = 0;
    MQ_TRY(mq_spec_find(texts, "delta", "layer_types", &types));
    if (types.json) {
        return mq_arch_read_types(texts, &types, "linear_attention", true,
                                  offsetof(mq_block_kind, linear), arch);
    }
    MQ_TRY(mq_spec_int(texts, "delta", "every", arch, &every));
    if (every < 1) {
        return mq_fail(MQ_E_INPUT, "%s: full attention in each %" PRId64 "-th block", texts->where,
                       every);
    }
    for (int64_t b = 0; b < arch->n_blocks; b++) arch->block[b].linear = (b + 1) % every != 0;
    return MQ_OK;
}

mq_status mq_arch_parse_delta(const mq_arch_texts *texts, mq_arch *arch)
{
    if (!cJSON_GetObjectItemCaseSensitive(texts->descriptor, "delta")) return MQ_OK;
    MQ_TRY(read_sizes(texts, arch));
    MQ_TRY(check_sizes(texts, arch));
    MQ_TRY(read_names(texts, arch));
    MQ_TRY(mark_blocks(texts, arch));
    if (arch->activation.kind == MQ_SILU && arch->norm == MQ_NORM_RMS && !arch->parallel_block &&
        arch->latent.kv_rank == 0) {
        return MQ_OK;
    }
    return mq_fail(MQ_E_INPUT,
                   "%s: linear attention is computed with silu, RMS norms, in sequential blocks, "
                   "and not beside latent attention",
                   texts->where);
}
