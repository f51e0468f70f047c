#ifndef MQ_MODEL_ROPE_MEAN_H
#define MQ_MODEL_ROPE_MEAN_H

#include "model/arch.h"

/* What rotary embedding does on average to a second moment of queries or keys. A score is
 * q_t^T R(j - t) k_j, R the rotation by a distance: beside a query stands the key turned back by
 * how far away it is, beside a key the query turned forth. So over all pairs of a query with keys
 * before it the moment M = mean x x^T counts as the mean of R(d) M R(d)^T over their distances. */

typedef struct mq_rope_mean mq_rope_mean;

/** rope: of the block (mq_arch_rope), NULL when nothing turns; share[d] (n_distances) >= 0: how
 * often a query meets a key d tokens before it, d = 0 its own; any scale, not all 0. Not
 * collective. Cost: head_dim^2 / 4 * n_distances complex products. Errors: MQ_E_MEMORY. Destroy
 * takes NULL. */
mq_status mq_rope_mean_create(const mq_arch *arch, const mq_rope_kind *rope, const double *share,
                              int64_t n_distances, mq_rope_mean **out);
void mq_rope_mean_destroy(mq_rope_mean **mean);

/** out (head_dim, head_dim) = mean of R(s d) M R(s d)^T over the distances d, s = 1 when forward,
 *  else -1; m (head_dim, head_dim) symmetric, coordinates as the projection gives them (paired as
 *  arch->rope_interleaved says). out and m must differ. Not collective. */
void mq_rope_mean_turn(const mq_rope_mean *mean, bool forward, const double *m, double *out);

#endif
