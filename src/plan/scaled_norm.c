#include "plan/scaled_norm.h"

/* A layer that stays as it is would read what was scaled for the others. */
static bool all_quantised(const mq_scheme *scheme, int64_t block, mq_tap_id tap)
{
    mq_linear_id linears[MQ_N_LINEARS];
    int n = mq_arch_tap_linears(scheme->arch, block, tap, linears);
    for (int l = 0; l < n; l++) {
        if (!mq_scheme_layer(scheme, block, linears[l])->quantise) return false;
    }
    return true;
}

const mq_tensor *mq_scaled_norm(const mq_folder *source, const mq_scheme *scheme, int64_t block,
                                mq_tap_id tap)
{
    char name[2 * MQ_ARCH_NAME];
    const char *pattern = mq_arch_tap_norm(scheme->arch, tap);
    if (!scheme->scale_columns || !pattern || tap == MQ_TAP_HEAD_IN) return NULL;
    /* A router reads the norm too. */
    if (tap == MQ_TAP_MLP_IN && scheme->arch->block[block].routed) return NULL;
    /* So does what makes the rates of linear attention. */
    if (tap == MQ_TAP_ATTN_IN && scheme->arch->block[block].linear) return NULL;
    /* 1 + w times a power of two, less 1, has more digits than w's type. */
    if (scheme->arch->norm_plus_one) return NULL;
    /* A bias would have to take the power too. */
    if (scheme->arch->norm_bias) return NULL;
    if (!all_quantised(scheme, block, tap)) return NULL;
    mq_arch_name(pattern, block, name, sizeof name);
    const mq_tensor *norm = mq_folder_find(source, name);
    bool exact = norm && (norm->dtype == MQ_F16 || norm->dtype == MQ_BF16 || norm->dtype == MQ_F32);
    return exact ? norm : NULL;
}
