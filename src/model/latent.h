#ifndef MQ_MODEL_LATENT_H
#define MQ_MODEL_LATENT_H

#include "model/block.h"

/* Latent attention (mq_latent), cut at its taps: what of a block's forward differs from that of
 * heads made from the residual stream. Not collective.
 * Source: transformers, modeling_deepseek_v3; DeepSeek-V2, arXiv 2405.04434, 2.1. */

/** out (n_tokens, q_rank) = norm(q_a(attn_in)). */
mq_status mq_latent_q(const mq_block_weights *weights, int64_t n_tokens, const void *attn_in,
                      void *out);

/** out (n_tokens, kv_rank) = norm of the latent that the first rows of kv_a make of attn_in. */
mq_status mq_latent_kv(const mq_block_weights *weights, int64_t n_tokens, const void *attn_in,
                       void *out);

/** out (n_tokens, n_heads * v_dim) = attention. from: by tap, attn_in, of which the last rows of
 *  kv_a make the shared part of keys, kv_lora, and q_lora where q is made from it. A few heads at a
 *  time; work: (n_tokens, mq_latent_work_width). */
mq_status mq_latent_attention(const mq_block_weights *weights, const mq_rope_tables *rope,
                              const mq_unit *unit, const void *const from[MQ_N_TAPS], void *work,
                              void *out);

/** Values a token that mq_latent_attention needs; 0 in families without. */
int64_t mq_latent_work_width(const mq_arch *arch);

#endif
