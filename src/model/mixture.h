#ifndef MQ_MODEL_MIXTURE_H
#define MQ_MODEL_MIXTURE_H

#include "base/unit.h"
#include "model/weights.h"

/* Routed experts: x += residual_scale * sum over a token's experts of weight * down(act(gate(y)) *
 * up(y)), y the normed residual stream (MQ_TAP_MLP_IN); or of down(act(gate(weight * y)) * ...).
 * The expert that all tokens share is the block's MLP (model/block.h), and comes after. */

/** Which rows of a unit go to which expert. */
typedef struct mq_routes {
    int64_t *begin; /* (n_experts + 1) where the rows of an expert begin */
    int32_t *token; /* by row, ascending within an expert */
    float *weight;  /* by row */
} mq_routes;

/** Room for units of up to n_tokens. Free what was made also after an error. */
mq_status mq_routes_create(const mq_arch *arch, int64_t n_tokens, mq_routes *out);
void mq_routes_free(mq_routes *routes);

/** Routes n_tokens tokens by y (n_tokens, hidden). skipped (n_tokens) or NULL: tokens that go to no
 *  expert. Not collective. Uses threads. Errors: MQ_E_MEMORY, those of the kernels. */
mq_status mq_mixture_route(const mq_block_weights *weights, const void *y, int64_t n_tokens,
                           const uint8_t *skipped, mq_routes *routes);

/** out (n, hidden) = what an expert reads for its rows first and on: rows of y (n_tokens, hidden),
 *  by their weights in families that weigh so. */
mq_status mq_expert_gather(const mq_block_weights *weights, const mq_routes *routes, int64_t first,
                           int64_t n, const void *y, void *out);

/** What the outputs of rows first and on are multiplied by; NULL where their inputs were. */
const float *mq_expert_weights(const mq_arch *arch, const mq_routes *routes, int64_t first);

/** mid (n, expert's width) = act(gate(in)) * up(in) of one expert; in (n, hidden); work: 2 n widths
 *  of the weights' dtype. */
mq_status mq_expert_mid(const mq_block_weights *weights, int64_t expert, const void *in, int64_t n,
                        void *work, void *mid);

/** out (n, hidden) = down(mid) of one expert. */
mq_status mq_expert_out(const mq_block_weights *weights, int64_t expert, const void *mid, int64_t n,
                        void *out);

/** Rows of one expert, of one unit. */
typedef struct mq_expert_room {
    char *in, *work, *mid, *out;
} mq_expert_room;

/** Nothing is allocated in families without experts. */
mq_status mq_expert_room_create(const mq_arch *arch, mq_dtype dtype, int64_t n_tokens,
                                mq_expert_room *out);
void mq_expert_room_free(mq_expert_room *room);

/** Room for the mixture of one unit. */
typedef struct mq_mixture_room {
    mq_routes routes;
    mq_expert_room expert;
    float *sum; /* (n_tokens, hidden) */
} mq_mixture_room;

/** Nothing is allocated in families without experts. */
mq_status mq_mixture_room_create(const mq_arch *arch, mq_dtype dtype, int64_t n_tokens,
                                 mq_mixture_room *out);
void mq_mixture_room_free(mq_mixture_room *room);

/** The whole mixture of one unit: x (n_tokens, hidden) in/out; y: MQ_TAP_MLP_IN. Experts in the
 *  order of their numbers; the sum is formed in f32. Not collective. */
mq_status mq_mixture(const mq_block_weights *weights, const mq_unit *unit, const void *y,
                     mq_mixture_room *room, void *x);

#endif
