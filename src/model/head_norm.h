#ifndef MQ_MODEL_HEAD_NORM_H
#define MQ_MODEL_HEAD_NORM_H

#include "model/arch.h"

/* What the norm of q or k makes of second moments of a head's coordinates, to first order: it takes
 * out the mean (LayerNorm), divides by the root of the mean square over all tokens, and multiplies
 * by weights. That the division follows each token is left out. Where all heads are normed as one
 * row the divisor is one for all of them and is left out too, for metrics hold up to a factor.
 * A norm after rope is another matter: its weights meet coordinates that have been turned. */

/** Whether the rows of q and k have a metric by these rules. */
bool mq_head_norm_is_known(const mq_arch *arch);

/** m (head_dim, head_dim) symmetric, mean x x^T of what goes into the norm, becomes that of what
 * comes out. weight (head_dim). */
void mq_head_norm_moment(const mq_arch *arch, const float *weight, double *m);

/** a (head_dim, head_dim) symmetric, how errors of what comes out add up, becomes how those of what
 *  goes in do, up to a factor: x a x^T of what x becomes. */
void mq_head_norm_metric(const mq_arch *arch, const float *weight, double *a);

#endif
