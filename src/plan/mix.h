#ifndef MQ_PLAN_MIX_H
#define MQ_PLAN_MIX_H

#include "plan/scheme.h"

/* Mixed bits: a scheme whose layers' widths follow from what each would do to the model, under a
 * budget of bits. Layers that readers fuse get one width; bits of overrides stay, and count. */

/** 2, 3, 4, 8: what a budget mixes when nothing else is asked for. */
extern const int mq_all_widths[MQ_MAX_WIDTHS];

/** Takes the budget and the widths over into the scheme. Without a budget that is nothing. Errors:
 *  MQ_E_USAGE: widths that are not possible or do not ascend, a budget below or above them. */
mq_status mq_mix_widths(const mq_quantize_options *options, mq_scheme *scheme);

/** Refuses (MQ_E_USAGE) a budget that the narrowest width of all layers but the overrides' exceeds,
 *  and one without a layer to choose for. Nothing without a budget. */
mq_status mq_mix_check(const mq_scheme *scheme);

/** Sets the bits of all layers that no override fixes: the least sum of harm within the budget.
 *  harm (n_blocks, mq_arch_n_linears, MQ_MAX_WIDTHS): of each such layer at each width of the
 * scheme; of fused layers, the sum counts. Not collective. Errors: those of mq_budget_choose. */
mq_status mq_mix_choose(mq_scheme *scheme, const double *harm);

/** Bits a weight over all packed layers: codes only, without scales and zero points. */
double mq_mix_average(const mq_scheme *scheme);

/** Logs the average reached and which share of the weights has which width, in one line. */
void mq_mix_log(const mq_scheme *scheme);

/** True when mq_mix_choose sets the bits of the layer. */
bool mq_mix_is_free(const mq_scheme *scheme, int64_t block, mq_linear_id linear);

#endif
