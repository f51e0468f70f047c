#include "pipeline/figures.h"

#include "base/checked.h"
#include "base/ratio.h"

#include <math.h>

static const mq_estimate unknown = {NAN, NAN, NAN};

/* The mean per token of one of the sums, with its interval. */
static mq_estimate mean_of(const double *sums, int sum, int64_t n, int64_t stride)
{
    mq_ratio r = mq_ratio_of(sums + sum, sums + MQ_SUM_TOKENS, n, stride);
    return (mq_estimate){r.value, r.value - r.half_width, r.value + r.half_width};
}

static mq_estimate exponential(mq_estimate e)
{
    return (mq_estimate){exp(e.value), exp(e.low), exp(e.high)};
}

/* Cuts an interval where the quantity ends; a NaN stays one. */
static mq_estimate within(mq_estimate e, double lowest, double highest)
{
    if (e.low < lowest) e.low = lowest;
    if (e.high > highest) e.high = highest;
    return e;
}

mq_figures mq_figures_of(const double *sums, int64_t n, int64_t stride, bool has_reference)
{
    mq_ratio nll = mq_ratio_of(sums + MQ_SUM_NLL, sums + MQ_SUM_TOKENS, n, stride);
    mq_figures f = {.tokens = (int64_t)nll.tokens,
                    .documents = nll.documents,
                    .perplexity = exponential(mean_of(sums, MQ_SUM_NLL, n, stride)),
                    .reference_perplexity = unknown,
                    .log_perplexity_difference = unknown,
                    .kl = unknown,
                    .top1 = unknown};
    if (!has_reference) return f;
    f.reference_perplexity = exponential(mean_of(sums, MQ_SUM_REFERENCE_NLL, n, stride));
    f.log_perplexity_difference = mean_of(sums, MQ_SUM_DIFFERENCE, n, stride);
    f.kl = within(mean_of(sums, MQ_SUM_KL, n, stride), 0, INFINITY);
    f.top1 = within(mean_of(sums, MQ_SUM_AGREE, n, stride), 0, 1);
    return f;
}

/* Shares of P = longest - 1 predicted positions: t belongs to bin floor(t n_bins / P), so that bin
 * b begins at ceil(b P / n_bins). */
int64_t mq_position_bin(int64_t t, int64_t n_bins, int64_t longest)
{
    return t * n_bins / (longest - 1);
}

void mq_position_range(int64_t b, int64_t n_bins, int64_t longest, int64_t *begin, int64_t *end)
{
    *begin = 1 + mq_ceil_div(b * (longest - 1), n_bins);
    *end = 1 + mq_ceil_div((b + 1) * (longest - 1), n_bins);
}
