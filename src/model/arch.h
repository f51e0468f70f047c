#ifndef MQ_MODEL_ARCH_H
#define MQ_MODEL_ARCH_H

#include "base/json.h"
#include "ops/kernels.h"
#include "par/comm.h"

#include <stdbool.h>

/* A model family as data: configs/arch/NAME.json says which tensors a block has, which config.json
 * keys mean what, and which features it uses; a model is a descriptor plus a config.json. */

typedef enum mq_rope_scaling { MQ_ROPE_PLAIN, MQ_ROPE_LINEAR, MQ_ROPE_LLAMA3 } mq_rope_scaling;

typedef enum mq_qk_norm { MQ_QK_NONE, MQ_QK_HEAD_SHARED, MQ_QK_PER_HEAD } mq_qk_norm;

/** The linear layers of a dense block, in the order in which a checkpoint lists them. */
typedef enum mq_linear_id {
    MQ_Q,
    MQ_K,
    MQ_V,
    MQ_O,
    MQ_GATE,
    MQ_UP,
    MQ_DOWN,
    MQ_N_LINEARS
} mq_linear_id;

/** Points whose activations feed linear layers. A parallel block has no MQ_TAP_MLP_IN: its gate and
 *  up read MQ_TAP_ATTN_IN. */
typedef enum mq_tap_id {
    MQ_TAP_ATTN_IN,
    MQ_TAP_ATTN_OUT,
    MQ_TAP_MLP_IN,
    MQ_TAP_MLP_MID,
    MQ_N_TAPS
} mq_tap_id;

const char *mq_tap_name(mq_tap_id tap); /* "attn_in", ... */

typedef struct mq_arch {
    char family[64];     /* file name of the descriptor, e.g. "llama" */
    char model_type[64]; /* from config.json */
    char where[1024];    /* path of config.json, for messages */

    /* sizes */
    int64_t n_blocks, hidden, intermediate, vocab;
    int64_t n_heads, n_kv_heads, head_dim;
    int64_t max_position; /* 0: unknown */

    /* features */
    mq_norm_kind norm;
    double norm_eps;
    bool parallel_block;
    mq_qk_norm qk_norm;
    mq_norm_kind qk_norm_kind;
    mq_activation_kind activation;
    bool rope_interleaved;
    double rope_theta;
    mq_rope_scaling rope_scaling;
    double rope_factor, rope_low_freq, rope_high_freq;
    int64_t rope_original_positions;
    int64_t window;         /* sliding window of every block from window_from on; 0: none */
    int64_t window_from;    /* first block that uses it (Qwen's max_window_layers) */
    double attention_scale; /* of the scores */
    double logit_scale;     /* logits are multiplied by it; 1 by default */
    double embed_scale;
    bool tied; /* lm_head is the embedding */
    bool has_bias[MQ_N_LINEARS];

    /* tensor names; "{i}" stands for the block; linears without ".weight" */
    char embed[128], final_norm[128], head[128];
    char attn_norm[128], mlp_norm[128]; /* mlp_norm "" in a parallel block */
    char q_norm[128], k_norm[128];      /* "" without q/k norm */
    char linear[MQ_N_LINEARS][128];
} mq_arch;

/** Reads MODEL/config.json, finds the descriptor for its model_type, fills the arch. Collective:
 *  rank 0 reads and broadcasts the texts. config.json as transformers 4 and 5 write it.
 *  Errors, same everywhere: MQ_E_IO; MQ_E_INPUT: unknown model_type (lists the known ones), a
 *  missing key, a rope type this version does not know, an unknown key that changes the
 * mathematics, sizes that contradict each other. */
mq_status mq_arch_load(const mq_comm *comm, const char *model, mq_arch **out);
void mq_arch_destroy(mq_arch **arch);

/** Folder with configs/ data: $MPIQUANT_DATA, else beside the installed program, else the source
 *  tree it was built from. */
const char *mq_data_folder(void);

/** Name of a tensor of block i: `pattern` with {i} replaced. */
void mq_arch_name(const char *pattern, int64_t block, char *out, size_t bytes);

/** Module name of a linear ("model.layers.3.self_attn.q_proj"). */
void mq_arch_linear_name(const mq_arch *arch, mq_linear_id linear, int64_t block, char *out,
                         size_t bytes);

/** (n_out, n_in) of a linear. */
void mq_arch_linear_shape(const mq_arch *arch, mq_linear_id linear, int64_t *n_out, int64_t *n_in);

/** The taps of this arch in the order of the staged run, and the linears each feeds. */
int mq_arch_taps(const mq_arch *arch, mq_tap_id taps[MQ_N_TAPS]);
int mq_arch_tap_linears(const mq_arch *arch, mq_tap_id tap, mq_linear_id linears[MQ_N_LINEARS]);

/** Width of a tap's activations. */
int64_t mq_arch_tap_width(const mq_arch *arch, mq_tap_id tap);

#endif
