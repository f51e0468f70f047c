#ifndef MQ_PLAN_SCHEME_H
#define MQ_PLAN_SCHEME_H

#include "model/arch.h"
#include "mpiquant/mpiquant.h"
#include "solve/solve.h"

/* What becomes of every linear layer: decided and checked before any work. */

typedef struct mq_layer_plan {
    bool quantise;
    mq_quant quant; /* group resolved: never -1 */
} mq_layer_plan;

typedef struct mq_scheme {
    const mq_arch *arch;
    int bits;             /* of the run, */
    int64_t group;        /* and its group size, -1 for whole rows: layers may deviate */
    mq_layer_plan *layer; /* (n_blocks, MQ_N_LINEARS) */
    int64_t n_quantised;
    int64_t first_block, last_block; /* blocks with at least one layer to quantise lie in between */
} mq_scheme;

/** Applies bits, group, skip, override and the block range to every layer. Not collective.
 *  Errors: MQ_E_USAGE: bits, a group that does not divide n_in (names those that do), a pattern
 *  that is not a regular expression or matches nothing, an empty block range, nothing left. */
mq_status mq_scheme_create(const mq_arch *arch, const mq_quantize_options *options,
                           mq_scheme **out);
void mq_scheme_destroy(mq_scheme **scheme);

/** True for a packed layer with the run's own bits and group size. */
bool mq_scheme_is_default(const mq_scheme *scheme, int64_t block, mq_linear_id linear);

/** True when only the rules of `dynamic`, which transformers does not read, can express the scheme:
 *  a packed layer deviates from the run, or a kind of layer is packed in some blocks only. */
bool mq_scheme_needs_rules(const mq_scheme *scheme);

/** True when layers that vLLM fuses (q, k, v; gate, up) do not share one plan in some block. */
bool mq_scheme_splits_fused(const mq_scheme *scheme);

const mq_layer_plan *mq_scheme_layer(const mq_scheme *scheme, int64_t block, mq_linear_id linear);

#endif
