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
 * attention's outputs may be multiplied by sigmoid(gates), which q makes beside the queries.
 * Latent attention (model/latent.h) has two taps between attn_in and attn_out, each made from
 * attn_in: q_lora, of which it makes the queries, and kv_lora, of which it makes keys and values.
 * Linear attention (model/delta.h) has the taps of any other.
 * An MLP without a gate has mlp_mid = act(up(mlp_in)). Either norm may be missing: then the tap is
 * x. What is added to x may go through a norm of its own first (o_norm, down_norm), and is
 * multiplied by residual_scale. Where a block has routed experts, they are added to x between
 * mlp_in and mlp_mid (model/mixture.h), and the MLP is the expert that all tokens share, or there
 * is none. */

enum { MQ_ROPE_STAGES = 26 }; /* from 1 position to 2^24 by doubling, and one to spare */

/** The stage in which samples of `length` tokens turn: 0 up to original_positions; beyond, longrope
 *  has one more, and doubling stage s up to original_positions 2^s. Other ropes stay at 0. */
int mq_rope_stage(const mq_rope_kind *rope, int64_t length);

/** Radians by which pair i < dim / 2 turns from one position to the next. */
float mq_rope_frequency(const mq_rope_kind *rope, int64_t i);

/** cos/sin table of a rope: (n_positions, rope->dim) f32 as in ops/kernels.h, with its scaling;
 * free with mq_free. Frequencies and angles are f32, each rounded where transformers rounds it
 * (within one unit in the last place of its own power function); sine and cosine are the correctly
 *  rounded ones of that angle. Not collective.
 *  Source: transformers, modeling_rope_utils (default, linear, llama3, yarn, longrope); doubling:
 *  Qwen's modeling_qwen.py, theta (2^(stage + 1) - 1)^(dim / (dim - 2)). */
mq_status mq_rope_table(const mq_rope_kind *rope, int64_t n_positions, float **out);

/** What the scores of the query at each position are multiplied by: (n_positions) f32, free with
 *  mq_free. Not collective. */
mq_status mq_query_factors(const mq_query_scale *scale, int64_t n_positions, float **out);

/** The tables of all blocks, by position. */
typedef struct mq_rope_tables {
    float *query_factor;         /* NULL where no block scales its queries */
    float *rope[MQ_ROPE_STAGES]; /* as in mq_arch; NULL beyond the last stage that a sample has */
    float *sliding_rope;         /* likewise; NULL where no block has it */
} mq_rope_tables;

/** n_positions: of the longest sample. Not collective. Errors: MQ_E_INPUT when that is too long for
 *  the rope; MQ_E_MEMORY. */
mq_status mq_rope_tables_create(const mq_arch *arch, int64_t n_positions, mq_rope_tables *out);
void mq_rope_tables_free(mq_rope_tables *tables);

/** Turns n_heads heads of q or k by the positions of their tokens, in place: rows of ld values, a
 *  head each head_dim of them, of which the first ones turn. Not collective. */
mq_status mq_block_turn(const mq_block_weights *weights, const mq_rope_tables *rope,
                        const mq_unit *unit, void *x, int64_t ld, int64_t n_heads);

/** Computes tap `tap` of one unit into `out` (n_tokens, width of the tap), and does the residual
 *  additions that lie between the tap before it and this one.
 *  x (n_tokens, hidden) in/out; from: by tap, the activations of those that this one is computed
 *  from: attn_in for the latents; attn_in and the latents that there are for attn_out; attn_out for
 *  mlp_in; mlp_in for mlp_mid, or attn_in and attn_out in a parallel block. Others may be NULL. The
 *  buffers must not overlap. Uses threads and thread scratch; work is a buffer of
 *  mq_block_work_bytes for at least the unit's tokens; the rope tables must reach the unit's
 * longest sample. Not collective. */
mq_status mq_block_produce(const mq_block_weights *weights, const mq_rope_tables *rope,
                           mq_tap_id tap, const mq_unit *unit, void *x,
                           const void *const from[MQ_N_TAPS], void *work, void *out);

/** x += down(mlp_mid), if there is one: ends the block for one unit. work as above. */
mq_status mq_block_finish(const mq_block_weights *weights, const mq_unit *unit, void *x,
                          const void *mlp_mid, void *work);

/** out (n_tokens, hidden) = what o or down, and the norm after it, make of its inputs, before
 *  residual_scale; out must not overlap in. Not collective. */
mq_status mq_block_branch(const mq_block_weights *weights, mq_linear_id linear, int64_t n_tokens,
                          const void *in, void *out);

/** Bytes of `work` for units of up to n_tokens. */
mq_status mq_block_work_bytes(const mq_arch *arch, mq_dtype dtype, int64_t n_tokens, size_t *bytes);

/** x (n_tokens, hidden) = embedding of the unit's tokens. */
mq_status mq_block_embed(const mq_outer_weights *outer, const mq_arch *arch, const mq_unit *unit,
                         const int32_t *token, void *x);

/** x (n_tokens, hidden) of the dtype = rows (n_tokens, hidden) bf16, given in the place of
 *  embeddings. Errors: MQ_E_INPUT where the family multiplies embeddings: nothing says whether
 * these are. */
mq_status mq_block_rows(const mq_arch *arch, mq_dtype dtype, int64_t n_tokens, const void *rows,
                        void *x);

/** x (n_tokens, hidden) of the dtype += rows (n_tokens, hidden) bf16, rounded once. */
mq_status mq_block_add_rows(const mq_arch *arch, mq_dtype dtype, int64_t n_tokens, const void *rows,
                            void *x);

/** Logits of rows [t0, t1) of the final residual stream: norm, head, logit_scale; out
 *  (t1 - t0, vocab) f32; h is scratch (t1 - t0, hidden) of the weights' dtype. Threads over tiles
 *  of the vocabulary. The bits depend on t1 - t0: callers that compare runs fix it. */
mq_status mq_block_logits(const mq_outer_weights *outer, const mq_arch *arch, const void *x,
                          int64_t t0, int64_t t1, void *h, float *out);

#endif
