#ifndef MQ_MODEL_BLOCK_H
#define MQ_MODEL_BLOCK_H

#include "base/unit.h"
#include "model/weights.h"

/* The forward of one decoder block for one unit, cut at its taps, so that the staged run can put
 * quantised weights in place between them. Residual stream and taps are BF16 or F32 (weights'
 * dtype). A block is: produce(tap 0); [quantise its linears]; produce(tap 1); ...; finish.
 *   sequential: attn_in = norm(x); attn_out = attention(attn_in); x += o(attn_out),
 *               mlp_in = norm(x); mlp_mid = act(gate(mlp_in)) * up(mlp_in); x += down(mlp_mid)
 *   parallel:   attn_in = norm(x); attn_out = attention(attn_in); x += o(attn_out),
 *               mlp_mid = act(gate(attn_in)) * up(attn_in); x += down(mlp_mid)
 * What is added to x is multiplied by residual_scale first. */

/** cos/sin table shared by all blocks: (n_positions, head_dim) f32 as in ops/kernels.h, with the
 *  arch's rope scaling; free with mq_free. Frequencies and angles are f32, each rounded where
 *  transformers rounds it (within one unit in the last place of its own power function); sine and
 *  cosine are the correctly rounded ones of that angle. Not collective.
 *  Source: transformers, modeling_rope_utils (default, linear, llama3). */
mq_status mq_rope_table(const mq_arch *arch, int64_t n_positions, float **out);

/** Radians by which pair i < head_dim / 2 turns from one position to the next, as in that table. */
float mq_rope_frequency(const mq_arch *arch, int64_t i);

/** Computes tap `tap` of one unit into `out` (n_tokens, width of the tap), and does the residual
 *  additions that lie between the tap before it and this one.
 *  x (n_tokens, hidden) in/out; in: the activations of the tap that this one is computed from
 *  (attn_in for attn_out, and for mlp_mid in a parallel block; attn_out for mlp_in; mlp_in for
 *  mlp_mid); attn_out must also be given for mlp_mid in a parallel block, through `in2`.
 *  in and in2 are NULL where there is none; the buffers must not overlap. Uses threads and thread
 *  scratch; work is a buffer of mq_block_work_bytes for at least the unit's tokens; the rope table
 *  must reach the unit's longest sample. Not collective. */
mq_status mq_block_produce(const mq_block_weights *weights, const float *rope, mq_tap_id tap,
                           const mq_unit *unit, void *x, const void *in, const void *in2,
                           void *work, void *out);

/** x += down(mlp_mid): ends the block for one unit. work as above. */
mq_status mq_block_finish(const mq_block_weights *weights, const mq_unit *unit, void *x,
                          const void *mlp_mid, void *work);

/** out (n_tokens, hidden) = what o or down makes of its inputs, before residual_scale; out must not
 *  overlap in. Not collective. */
mq_status mq_block_branch(const mq_block_weights *weights, mq_linear_id linear, int64_t n_tokens,
                          const void *in, void *out);

/** Bytes of `work` for units of up to n_tokens. */
mq_status mq_block_work_bytes(const mq_arch *arch, mq_dtype dtype, int64_t n_tokens, size_t *bytes);

/** x (n_tokens, hidden) = embedding of the unit's tokens. */
mq_status mq_block_embed(const mq_outer_weights *outer, const mq_arch *arch, const mq_unit *unit,
                         const int32_t *token, void *x);

/** Logits of rows [t0, t1) of the final residual stream: norm, head, logit_scale; out
 *  (t1 - t0, vocab) f32; h is scratch (t1 - t0, hidden) of the weights' dtype. Threads over tiles
 *  of the vocabulary. The bits depend on t1 - t0: callers that compare runs fix it. */
mq_status mq_block_logits(const mq_outer_weights *outer, const mq_arch *arch, const void *x,
                          int64_t t0, int64_t t1, void *h, float *out);

#endif
