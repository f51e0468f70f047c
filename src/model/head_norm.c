#include "model/head_norm.h"

/* m = C m C, C = 1 - (1 / n) ones: no mean is left in any row or column. */
static void take_out_mean(int64_t n, double *m)
{
    for (int64_t i = 0; i < n; i++) {
        double mean = 0;
        for (int64_t j = 0; j < n; j++) mean += m[i * n + j] / (double)n;
        for (int64_t j = 0; j < n; j++) m[i * n + j] -= mean;
    }
    for (int64_t j = 0; j < n; j++) {
        double mean = 0;
        for (int64_t i = 0; i < n; i++) mean += m[i * n + j] / (double)n;
        for (int64_t i = 0; i < n; i++) m[i * n + j] -= mean;
    }
}

static void weigh(int64_t n, const float *weight, double factor, double *m)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j++) {
            m[i * n + j] *= factor * (double)weight[i] * (double)weight[j];
        }
    }
}

bool mq_head_norm_is_known(const mq_arch *arch)
{
    if (arch->qk_norm == MQ_QK_NONE) return true;
    if (arch->qk_norm == MQ_QK_HEAD_UNIT) return false;
    bool mean_of_all = arch->qk_norm == MQ_QK_ALL_HEADS && arch->qk_norm_kind == MQ_NORM_LAYER;
    return !arch->qk_norm_after_rope && !mean_of_all;
}

void mq_head_norm_moment(const mq_arch *arch, const float *weight, double *m)
{
    int64_t n = arch->head_dim;
    double square = arch->norm_eps;
    if (arch->qk_norm_kind == MQ_NORM_LAYER) take_out_mean(n, m);
    for (int64_t i = 0; i < n; i++) square += m[i * n + i] / (double)n;
    if (arch->qk_norm == MQ_QK_ALL_HEADS) square = 1;
    weigh(n, weight, square > 0 ? 1 / square : 0, m);
}

void mq_head_norm_metric(const mq_arch *arch, const float *weight, double *a)
{
    weigh(arch->head_dim, weight, 1, a);
    if (arch->qk_norm_kind == MQ_NORM_LAYER) take_out_mean(arch->head_dim, a);
}
