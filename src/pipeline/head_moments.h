#ifndef MQ_PIPELINE_HEAD_MOMENTS_H
#define MQ_PIPELINE_HEAD_MOMENTS_H

#include "pipeline/tap_system.h"

/* What the rows of q and k meet in the scores: the mean q q^T and k k^T of every head over the
 * calibration tokens, as attention gets them (with bias and norm) but before they are rotated. They
 * follow from the Hessian of attn_in: W H W^T. */

typedef struct mq_head_moments {
    double *query; /* (n_heads, head_dim, head_dim) */
    double *key;   /* (n_kv_heads, head_dim, head_dim), in the same storage */
} mq_head_moments;

/** Of the block whose original weights of q and k are in the quantised stream; s is the system of
 * its attn_in. A norm of q or k counts by its weights and by the mean square over all tokens, not
 * token by token. Also makes run->rope_mean for the block's window. Collective; the same result for
 * any number of ranks: bitwise. Free it after a failure too. Errors: MQ_E_MEMORY, those of mq_gemm.
 * Cost: 2 n^2 flops a row of q and k, shared out by heads. */
mq_status mq_head_moments_create(mq_run *run, int64_t block, mq_tap_system *s,
                                 mq_head_moments *out);
void mq_head_moments_free(mq_head_moments *moments);

/** a (head_dim, head_dim): how errors of what `linear` (q or k) computes for this head add up in
 * the scores, up to a factor. Not collective. Errors: MQ_E_MEMORY. */
mq_status mq_head_metric(const mq_run *run, const mq_head_moments *moments, mq_linear_id linear,
                         int64_t head, double *a);

#endif
