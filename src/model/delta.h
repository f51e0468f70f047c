#ifndef MQ_MODEL_DELTA_H
#define MQ_MODEL_DELTA_H

#include "model/block.h"

/* Linear attention (mq_linear_attention) between its taps: what makes its operands of the block's
 * input, and mq_delta. Not collective. Source: transformers, modeling_qwen3_next, modeling_qwen3_5.
 */

/** out (n_tokens, n_v_heads * v_dim) of attn_in (n_tokens, hidden); work:
 *  (n_tokens, mq_delta_work_width). */
mq_status mq_delta_attention(const mq_block_weights *weights, const mq_unit *unit,
                             const void *attn_in, void *work, void *out);

/** Values a token that mq_delta_attention needs; 0 in families without. */
int64_t mq_delta_work_width(const mq_arch *arch);

#endif
