#ifndef MQ_PIPELINE_FIGURES_H
#define MQ_PIPELINE_FIGURES_H

#include "mpiquant/mpiquant.h"

/* From sums over the tokens of documents to the figures of an evaluation. Nothing here is
 * collective. */

/* What is summed over tokens. DIFFERENCE: nll - reference_nll. */
enum {
    MQ_SUM_TOKENS,
    MQ_SUM_NLL,
    MQ_SUM_REFERENCE_NLL,
    MQ_SUM_DIFFERENCE,
    MQ_SUM_KL,
    MQ_SUM_AGREE,
    MQ_N_SUMS
};

/** Figures of n documents; `sums` is the first one's MQ_N_SUMS sums, the next one's are `stride`
 *  doubles on. What needs a reference is NaN without one. The interval of perplexity is that of
 *  its logarithm; the interval of top1 ends at 0 and 1, that of KL at 0. */
mq_figures mq_figures_of(const double *sums, int64_t n, int64_t stride, bool has_reference);

/** The bin, 0 .. n_bins - 1, of the token that follows position t = 0 .. longest - 2 in a sample;
 *  `longest` is the longest sample of the file. */
int64_t mq_position_bin(int64_t t, int64_t n_bins, int64_t longest);

/** The positions 1 .. longest - 1 of predicted tokens that bin b holds: *begin .. *end - 1; none
 *  (*begin == *end) is possible when there are more bins than positions. */
void mq_position_range(int64_t b, int64_t n_bins, int64_t longest, int64_t *begin, int64_t *end);

#endif
