#ifndef MQ_PIPELINE_EXPERT_TASKS_H
#define MQ_PIPELINE_EXPERT_TASKS_H

#include "pipeline/experts.h"

/* Experts dealt to ranks: their Hessians are many and narrow. All ranks sum those of a few experts,
 * one after the other; each rank then factors one and rounds all rows of its layers alone, and all
 * take over what it found. An expert's result does not depend on which rank solves it, nor on the
 * experts before it. */

/** Room for a rank's own results. Collective. Nothing in families without experts. */
mq_status mq_expert_tasks_create(mq_run *run);
void mq_expert_tasks_destroy(mq_run *run);

/** Whether the Hessians of a block's experts are factored by all ranks together instead. */
bool mq_experts_are_wide(const mq_run *run, int64_t block);

/** Quantises a tap of the experts of a batch, at most one for each rank: a mq_batch_visit without a
 *  context. Collective.
 *  Memory: the Hessians and cross sums of two experts, codes and scales of one. */
mq_status mq_quantise_experts(mq_run *run, int64_t block, int64_t first, int64_t n, bool mid,
                              void *none);

#endif
