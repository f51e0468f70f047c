#ifndef MQ_PLAN_SCHEME_H
#define MQ_PLAN_SCHEME_H

#include "format/format.h"
#include "model/arch.h"
#include "mpiquant/mpiquant.h"
#include "plan/budget.h"
#include "solve/solve.h"
#include "store/folder.h"

/* What becomes of every linear layer: decided and checked before any work. */

typedef struct mq_layer_plan {
    bool quantise;
    bool fixed;     /* the bits are those of an override: a budget does not choose them */
    mq_quant quant; /* group resolved: never -1 */
    mq_dtype dtype; /* of the weight in the source; F32 for F64 */
} mq_layer_plan;

typedef struct mq_scheme {
    const mq_arch *arch;
    const mq_format *format; /* of the output */
    int bits;                /* of the run (with a budget, of most weights), */
    int64_t group;           /* and its group size, -1 for whole rows: layers may deviate */
    mq_layer_plan *layer;    /* (n_blocks, mq_arch_n_linears) */
    mq_layer_plan head;
    int64_t n_quantised;             /* with the head */
    int64_t first_block, last_block; /* blocks with at least one layer to quantise lie in between */
    double average_bits;             /* the budget; 0: none */
    int width[MQ_MAX_WIDTHS];        /* that it mixes, ascending */
    int n_widths;
    bool scale_columns; /* where that serves a tap, and the format has a place for it */
} mq_scheme;

/** Layers of a block that some readers fuse, and so must be packed alike, with the fused name (NULL
 *  for a layer of its own). Routed experts are all fused. Each layer is of one such group. */
typedef struct mq_fused {
    mq_linear_id first, last;
    const char *name;
} mq_fused;

enum {
    MQ_FUSED_QKV,
    MQ_FUSED_LATENTS,
    MQ_FUSED_Q_B,
    MQ_FUSED_KV_B,
    MQ_FUSED_DELTA,
    MQ_FUSED_O,
    MQ_FUSED_GATE_UP,
    MQ_FUSED_DOWN,
    MQ_FUSED_EXPERTS,
    MQ_N_FUSED
};

/** Of group MQ_FUSED_EXPERTS without experts, last is less than first. */
mq_fused mq_fused_layers(const mq_arch *arch, int group);

/** Applies bits, group, skip, override and the block range to every layer. With a budget all layers
 *  of blocks but those of overrides have the narrowest width until mq_mix_choose (plan/mix.h). Not
 *  collective. Errors: MQ_E_USAGE: bits, a budget that cannot be met, a group that does not divide
 *  n_in (names those that do), a pattern that is not a regular expression or matches nothing, an
 *  empty block range, nothing left, a head that cannot be packed, a layer or a family that the
 *  format has no form for. */
mq_status mq_scheme_create(const mq_arch *arch, const mq_quantize_options *options,
                           mq_scheme **out);
void mq_scheme_destroy(mq_scheme **scheme);

/** Looks up the types of the source's weights, and what scales are stored as with them. The folder
 *  has passed mq_model_check. Not collective. */
void mq_scheme_take_types(mq_scheme *scheme, const mq_folder *source);

/** What the format is told of a packed layer. */
mq_layer_shape mq_scheme_shape(const mq_scheme *scheme, int64_t block, mq_linear_id linear);

/** True for a packed layer with the run's own bits and group size. */
bool mq_scheme_is_default(const mq_scheme *scheme, int64_t block, mq_linear_id linear);

/** True when only the rules of `dynamic`, which transformers does not read, can express the scheme:
 *  a packed layer deviates from the run, or a kind of layer is packed in some blocks only. */
bool mq_scheme_needs_rules(const mq_scheme *scheme);

/** True when layers that vLLM fuses (q, k, v; q_a, kv_a; qkv, z; gate, up) do not share one plan in
 * some block. */
bool mq_scheme_splits_fused(const mq_scheme *scheme);

/** True when of an attention's layers (up to o) or an MLP's (gate, up, down) some are packed and
 *  some are not, in some block: ExLlamaV2 does not load that. */
bool mq_scheme_packs_in_part(const mq_scheme *scheme);

/** The head's whatever the block. */
const mq_layer_plan *mq_scheme_layer(const mq_scheme *scheme, int64_t block, mq_linear_id linear);

#endif
