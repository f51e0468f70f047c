#ifndef MQ_MODEL_ARCH_H
#define MQ_MODEL_ARCH_H

#include "base/json.h"
#include "format/stored.h"
#include "ops/kernels.h"
#include "ops/route.h"
#include "par/comm.h"

#include <stdbool.h>

/* A model family as data: configs/arch/NAME.json says which tensors a block has, which config.json
 * keys mean what, and which features it uses; a model is a descriptor plus a config.json. How a
 * descriptor is written: docs/adding-a-model.md. */

/* NTK is plain up to max_position, and not computed beyond. DOUBLING is plain up to
 * original_positions and has another theta for each doubling of a sample's length from there on. */
typedef enum mq_rope_scaling {
    MQ_ROPE_PLAIN,
    MQ_ROPE_LINEAR,
    MQ_ROPE_LLAMA3,
    MQ_ROPE_YARN,
    MQ_ROPE_LONG,
    MQ_ROPE_NTK,
    MQ_ROPE_DOUBLING
} mq_rope_scaling;

/** "default", "linear", ..., as config.json has it, for messages. */
const char *mq_rope_scaling_name(mq_rope_scaling scaling);

/* SHARED, PER_HEAD and UNIT norm every head by itself, with one weight for all, one each, or none;
 * ALL_HEADS norms the heads of a layer as one row. */
typedef enum mq_qk_norm {
    MQ_QK_NONE,
    MQ_QK_HEAD_SHARED,
    MQ_QK_PER_HEAD,
    MQ_QK_ALL_HEADS,
    MQ_QK_HEAD_UNIT
} mq_qk_norm;

/** The linear layers of a block, in the order in which they are read; the one after all
 *  blocks, which makes logits of the normed residual stream; and those of routed experts, gate, up
 *  and down of one after the other (mq_expert_linear). A block may lack some (mq_arch_has): where
 *  a checkpoint has q, k and v as one layer with their rows one after the other, it is MQ_Q, and
 *  there are no MQ_K and MQ_V; gate and up as one are MQ_GATE. Latent attention (mq_latent) has
 *  MQ_Q, or MQ_Q_A and MQ_Q_B in its place, and MQ_KV_A and MQ_KV_B in that of MQ_K and MQ_V.
 *  Linear attention (mq_delta) has MQ_IN_QKV and MQ_IN_Z, or MQ_IN_QKV for both, and MQ_O.
 *  In blocks with routed experts MQ_GATE, MQ_UP and MQ_DOWN are the expert that all tokens share,
 *  if there is one. */
typedef enum mq_linear_id {
    MQ_Q,
    MQ_K,
    MQ_V,
    MQ_Q_A,
    MQ_KV_A,
    MQ_Q_B,
    MQ_KV_B,
    MQ_IN_QKV,
    MQ_IN_Z,
    MQ_O,
    MQ_GATE,
    MQ_UP,
    MQ_DOWN,
    MQ_HEAD,
    MQ_N_LINEARS = MQ_HEAD, /* of a block without routed experts */
    MQ_EXPERTS              /* the gate of the first routed expert */
} mq_linear_id;

enum { MQ_EXPERT_LINEARS = 3 }; /* of one expert */

/** Gate, up or down (`role`) of a routed expert. */
static inline mq_linear_id mq_expert_linear(int64_t expert, mq_linear_id role)
{
    return (mq_linear_id)(MQ_EXPERTS + MQ_EXPERT_LINEARS * expert + (role - MQ_GATE));
}

/** The expert that a linear is of, -1 for others. */
static inline int64_t mq_linear_expert(mq_linear_id linear)
{
    return linear < MQ_EXPERTS ? -1 : ((int64_t)linear - MQ_EXPERTS) / MQ_EXPERT_LINEARS;
}

/** What a linear does: MQ_GATE, MQ_UP or MQ_DOWN for those of experts, others are their own. */
static inline mq_linear_id mq_linear_role(mq_linear_id linear)
{
    if (linear < MQ_EXPERTS) return linear;
    return (mq_linear_id)(MQ_GATE + (linear - MQ_EXPERTS) % MQ_EXPERT_LINEARS);
}

/** Points whose activations feed linear layers. A parallel block has no MQ_TAP_MLP_IN: its gate and
 *  up read MQ_TAP_ATTN_IN. Latent attention has MQ_TAP_Q_LORA, which feeds MQ_Q_B, and
 *  MQ_TAP_KV_LORA, which feeds MQ_KV_B. A routed expert has two taps of its own, over the tokens
 * routed to it: what it reads, which are rows of MQ_TAP_MLP_IN, and what its down reads
 * (mq_expert_tap). */
typedef enum mq_tap_id {
    MQ_TAP_ATTN_IN,
    MQ_TAP_Q_LORA,
    MQ_TAP_KV_LORA,
    MQ_TAP_ATTN_OUT,
    MQ_TAP_MLP_IN,
    MQ_TAP_MLP_MID,
    MQ_TAP_HEAD_IN,
    MQ_N_TAPS = MQ_TAP_HEAD_IN, /* of a block */
    MQ_N_ALL_TAPS = MQ_N_TAPS + 1,
    MQ_TAP_EXPERTS = MQ_N_ALL_TAPS /* what the first routed expert reads */
} mq_tap_id;

/** What a routed expert reads, or (`mid`) what its down does. */
static inline mq_tap_id mq_expert_tap(int64_t expert, bool mid)
{
    return (mq_tap_id)(MQ_TAP_EXPERTS + 2 * expert + mid);
}

/** The expert that a tap is of, -1 for others. */
static inline int64_t mq_tap_expert(mq_tap_id tap)
{
    return tap < MQ_TAP_EXPERTS ? -1 : ((int64_t)tap - MQ_TAP_EXPERTS) / 2;
}

/** True for what the down of a routed expert reads. */
static inline bool mq_tap_is_expert_mid(mq_tap_id tap)
{
    return tap >= MQ_TAP_EXPERTS && (tap - MQ_TAP_EXPERTS) % 2 == 1;
}

/** Number of the kind of a tap: its own, or one of the two of experts. */
enum { MQ_N_TAP_KINDS = MQ_TAP_EXPERTS + 2 };
static inline int mq_tap_kind(mq_tap_id tap)
{
    return tap < MQ_TAP_EXPERTS ? (int)tap : MQ_TAP_EXPERTS + mq_tap_is_expert_mid(tap);
}

/** "attn_in", ...; "expert_in" and "expert_mid" of any routed expert. */
const char *mq_tap_name(mq_tap_id tap);

/** "q", "k", "v", "q_a", "kv_a", "q_b", "kv_b", "in_qkv", "in_z", "o", "gate", "up", "down", of its
 *  role for one of an expert. */
const char *mq_linear_name(mq_linear_id linear);

enum {
    MQ_ARCH_NAME = 128,
    MQ_ARCH_IGNORED = 8,
    MQ_ARCH_SENSITIVE = 4,
    MQ_ARCH_COPIED = 8,
    MQ_ARCH_BLOCKS = 1024,
    MQ_ROPE_PAIRS = 256
};

/** How positions turn the pairs of a head's coordinates. */
typedef struct mq_rope_kind {
    int64_t dim; /* coordinates of a head that turn */
    double theta;
    mq_rope_scaling scaling;
    double factor;
    int64_t original_positions; /* of llama3, yarn, longrope and doubling */
    double low_freq, high_freq; /* of llama3 */
    double beta_fast, beta_slow;
    bool truncate;           /* of yarn, with the betas */
    double attention_factor; /* cosines and sines are multiplied by it; else 1 */
    int stage;               /* that a sample's length decides: mq_rope_stage */
    float short_factor[MQ_ROPE_PAIRS], long_factor[MQ_ROPE_PAIRS];
    int n_axes;                  /* positions that a token may have for it: 1 or 3 */
    uint8_t axis[MQ_ROPE_PAIRS]; /* which of them turns a pair */
} mq_rope_kind;

/** Scores of a query are multiplied by a factor of its position p = 0, 1, ...:
 *  STEPS: 1 + weight log(1 + floor((p + 1) / positions)),
 *  LOG:   log(p + 1) / log(positions), at least 1. */
typedef enum mq_query_scaling { MQ_QUERY_PLAIN, MQ_QUERY_STEPS, MQ_QUERY_LOG } mq_query_scaling;

typedef struct mq_query_scale {
    mq_query_scaling kind;
    int64_t positions;
    double weight;
    bool no_rope_only; /* in blocks without rope */
} mq_query_scale;

/** What differs from block to block. */
typedef struct mq_block_kind {
    bool sliding; /* sees the window only */
    bool chunked; /* sees its own chunk only */
    bool no_rope; /* positions do not turn q and k */
    bool linear;  /* has linear attention */
    bool routed;  /* has routed experts */
} mq_block_kind;

/** Latent attention; kv_rank is 0 in families without. Queries and keys are nope_dim + rope_dim
 *  wide, of which the last rope_dim turn; the part of a key that turns is the same for all heads:
 *      q = q_b(norm(q_a(x))), or q(x)
 *      latent, part that turns = kv_a(x);  keys, values = kv_b(norm(latent))
 *  The rows of kv_b are, head by head, those of its key and those of its value. */
typedef struct mq_latent {
    int64_t q_rank; /* of norm(q_a(x)); 0: q is one layer */
    int64_t kv_rank, nope_dim, rope_dim, v_dim;
    double norm_eps; /* of the norms of latents */
    char q_norm[MQ_ARCH_NAME], kv_norm[MQ_ARCH_NAME];
} mq_latent;

/** Linear attention by the gated delta rule (mq_delta in ops/kernels.h) in the blocks that have it;
 *  n_v_heads is 0 in families without. What makes b and a, the rates, is never quantised: it has
 *  two rows for a head, and readers that share heads between processes leave fewer rows to each
 *  than their kernels for packed layers take. */
typedef struct mq_linear_attention {
    int64_t n_k_heads, n_v_heads, k_dim, v_dim;
    int64_t kernel; /* tokens that the convolution sees */
    bool grouped;   /* MQ_IN_QKV makes z too, and b makes a, their rows key head by key head */
    char conv[MQ_ARCH_NAME], a_log[MQ_ARCH_NAME], dt_bias[MQ_ARCH_NAME], norm[MQ_ARCH_NAME];
    char b[MQ_ARCH_NAME], a[MQ_ARCH_NAME]; /* a: "" where b makes both */
    char out[MQ_ARCH_NAME];                /* MQ_O */
} mq_linear_attention;

/** The tensors of families that have what the experts of a block have alike in one tensor for all
 * of them, gate and up in one too. "{i}" is the block; "" where every expert has tensors of its
 * own. */
typedef struct mq_stack_names {
    char gate_up[MQ_ARCH_NAME], down[MQ_ARCH_NAME];           /* (n_experts, n_out, n_in) */
    char gate_up_bias[MQ_ARCH_NAME], down_bias[MQ_ARCH_NAME]; /* (n_experts, n_out); "": none */
    bool transposed;  /* they are (n_experts, n_in, n_out), but for biases, */
    bool either_way;  /* or the other way, as their shapes say: some writers turn them */
    bool interleaved; /* the outputs of gate have even numbers, those of up odd ones; else the
                         former come first */
} mq_stack_names;

/** Mixture of experts; n_experts is 0 in families without. */
typedef struct mq_moe {
    mq_routing_kind routing;
    int64_t intermediate;            /* of a routed expert */
    int64_t shared_intermediate;     /* of the one that all tokens share; 0: there is none */
    char router[MQ_ARCH_NAME];       /* (n_experts, hidden), */
    bool router_transposed;          /* or (hidden, n_experts) */
    char router_bias[MQ_ARCH_NAME];  /* (n_experts) added to what it makes; "": none */
    char correction[MQ_ARCH_NAME];   /* (n_experts) added to scores for the choice; "": none */
    int64_t other_kinds;             /* of input but text, whose tokens go to n_experts experts each
                                        of their own, numbered after those of text: they and their
                                        routers are only copied, and `correction` has a row for each
                                        kind, the first for text */
    char other_router[MQ_ARCH_NAME]; /* of one of them */
    char expert[MQ_EXPERT_LINEARS][MQ_ARCH_NAME]; /* "{i}" is the block, "{e}" the expert; of
                                                     stacked ones, the modules they become */
    mq_stack_names stack;
    char shared[MQ_EXPERT_LINEARS][MQ_ARCH_NAME]; /* "": there is none */
    char shared_weight[MQ_ARCH_NAME]; /* (1, hidden): the sigmoid of what it makes of a token weighs
                                         the shared expert; "": none */
} mq_moe;

/** "block 3, attn_in" or "lm_head", for messages. */
typedef struct mq_place {
    char text[64];
} mq_place;

mq_place mq_tap_place(int64_t block, mq_tap_id tap);

/** The family as llama.cpp knows it (model/gguf.h). */
typedef struct mq_gguf_family {
    char architecture[32]; /* its name there; "": it is not known there */
    bool rope_pairs;       /* rows of q and k lie as rope of neighbours wants them */
    bool rope_factors;     /* frequencies of rope may be divided by a factor each */
    bool tied_only;        /* a head of its own is not read */
    int64_t
        qk_norm_blocks; /* q and k have norms from so many blocks on, and not below; 0: either */
    bool bias[MQ_N_LINEARS]; /* biases that are read */
} mq_gguf_family;

/** Layers that are known not to take low precision well, as POSIX extended patterns over the names
 *  of modules: those to keep as they are, and those to give 8 bits. */
typedef struct mq_sensitive {
    char skip[MQ_ARCH_SENSITIVE][MQ_ARCH_NAME], bits8[MQ_ARCH_SENSITIVE][MQ_ARCH_NAME];
    int n_skip, n_bits8;
} mq_sensitive;

typedef struct mq_arch {
    char family[64];     /* of the descriptor, e.g. "llama" for configs/arch/llama.json */
    char model_type[64]; /* from config.json */
    char where[1024];    /* path of config.json, for messages */

    /* sizes */
    int64_t n_blocks, hidden, intermediate, vocab;
    int64_t n_heads, n_kv_heads, head_dim; /* of latent attention: nope_dim + rope_dim */
    int64_t max_position;                  /* 0: unknown */

    /* features */
    mq_norm_kind norm;
    bool norm_bias;     /* norms but those of q and k have one */
    bool norm_plus_one; /* weights of norms are stored less 1 */
    double norm_eps;
    bool parallel_block;
    mq_qk_norm qk_norm;
    mq_norm_kind qk_norm_kind;
    bool qk_norm_after_rope;
    bool qk_norm_with_rope; /* blocks without rope have no norm of q and k */
    bool attention_gate;    /* MQ_Q has a gate of each query head's outputs after its query */
    mq_activation activation;
    bool rope_interleaved;
    mq_rope_kind rope, sliding_rope;
    bool own_sliding_rope; /* else that of all blocks is rope */
    int64_t window;        /* of the blocks that slide; 0: none does */
    int64_t chunk;         /* of the blocks that are chunked: tokens, from a sample's first on */
    mq_query_scale query_scale;
    mq_block_kind block[MQ_ARCH_BLOCKS];
    double attention_scale; /* of the scores; 1 / sqrt(attention_scalar) where that is finite */
    double attention_scalar;
    double attention_cap;  /* scores s become cap tanh(s / cap); 0: they stay */
    double embed_scale;    /* embeddings are multiplied by it, */
    bool embed_sqrt;       /* or by sqrt(hidden), rounded to the type of activations */
    double residual_scale; /* what o and down add to the residual stream by this, */
    double logit_scale;    /* and logits by this, which is already divided by */
    double logit_divisor;
    double logit_cap; /* as attention_cap */
    bool tied;        /* lm_head is the embedding */
    bool has_bias[MQ_N_LINEARS];
    bool fused_qkv, fused_gate_up; /* MQ_Q is all three, MQ_GATE is both */
    bool gated;                    /* else the MLP has no gate: down(act(up)) */
    mq_latent latent;
    mq_linear_attention delta;
    mq_moe moe;

    /* of a quantised folder (config.json has a quantization_config) */
    mq_packed_form packed; /* how linears may be stored */
    int gptq_zero_offset;  /* 1: zero points are stored minus one (v1); 0: as they are (v2) */
    int64_t fp8_block[2];  /* weights that share a scale, rows and columns; 0: a row, or all */

    /* tensor names; "{i}" stands for the block; linears without ".weight" */
    char embed[MQ_ARCH_NAME], final_norm[MQ_ARCH_NAME], head[MQ_ARCH_NAME];
    char attn_norm[MQ_ARCH_NAME], mlp_norm[MQ_ARCH_NAME]; /* in front of a sub-block; "": none */
    char o_norm[MQ_ARCH_NAME], down_norm[MQ_ARCH_NAME];   /* of what it adds; "": none */
    char q_norm[MQ_ARCH_NAME], k_norm[MQ_ARCH_NAME];      /* "" without q/k norm */
    char sinks[MQ_ARCH_NAME];                             /* of attention; "": none */
    char linear[MQ_N_LINEARS][MQ_ARCH_NAME];              /* "": there is none */
    char ignored_tensor[MQ_ARCH_IGNORED][MQ_ARCH_NAME];   /* old checkpoints hold them; unused */
    int n_ignored_tensors;
    int64_t extra_blocks; /* behind those of the model, which are only copied */
    char copied[MQ_ARCH_COPIED][MQ_ARCH_NAME]; /* how names of other parts' tensors begin */
    int n_copied;
    bool towers;       /* for images or sound stand beside the language model, */
    char language[64]; /* whose settings are those of this key of config.json; "": all are */
    bool deepstack;    /* what the first blocks make is added to, at tokens of images */

    mq_gguf_family gguf;
    mq_sensitive sensitive;
} mq_arch;

/** Reads MODEL/config.json, finds the descriptor for its model_type, fills the arch. Collective:
 *  rank 0 reads and broadcasts the texts. config.json as transformers 4 and 5 write it.
 *  Errors, same everywhere: MQ_E_IO; MQ_E_INPUT: unknown model_type (lists the known ones), a
 *  missing key, a rope type this version does not know, an unknown key that may change the
 *  mathematics, sizes that contradict each other, quantised by a method that is not read. */
mq_status mq_arch_load(const mq_comm *comm, const char *model, mq_arch **out);
void mq_arch_destroy(mq_arch **arch);

/** Folder with the data of configs/: $MPIQUANT_DATA, else ../share/mpiquant beside the program,
 *  else the source tree it was built from, else where it was configured to be installed. Valid
 *  until the next call; not for several threads. */
const char *mq_data_folder(void);

/** The bias beside the weight of a norm: "X.bias" for "X.weight". */
void mq_arch_norm_bias(const char *weight, char *out, size_t bytes);

/** Name of a tensor of block i: `pattern` with {i} replaced. */
void mq_arch_name(const char *pattern, int64_t block, char *out, size_t bytes);

/** Module name of a linear ("model.layers.3.self_attn.q_proj"; the head's whatever the block). */
void mq_arch_linear_name(const mq_arch *arch, mq_linear_id linear, int64_t block, char *out,
                         size_t bytes);

/** Whether a tensor belongs to another part of the model, one that predicts further tokens say, or
 *  a tower for images: it stays as it is. */
bool mq_arch_is_copied(const mq_arch *arch, const char *tensor);

/** Coordinates of a head of what attention makes, where it is not linear. */
int64_t mq_arch_value_dim(const mq_arch *arch);

/** Width of what linear attention makes, and of what MQ_IN_QKV and MQ_IN_Z make for it. */
int64_t mq_arch_delta_width(const mq_arch *arch);
int64_t mq_arch_delta_in_width(const mq_arch *arch);

/** Sliding window of a block, 0 for none. */
int64_t mq_arch_window(const mq_arch *arch, int64_t block);

/** Tokens of the chunks that a block's attention keeps to, 0 for none. */
int64_t mq_arch_chunk(const mq_arch *arch, int64_t block);

/** How a block turns q and k, NULL when it does not. */
const mq_rope_kind *mq_arch_rope(const mq_arch *arch, int64_t block);

/** Whether a block norms its heads of q and k. */
bool mq_arch_norms_heads(const mq_arch *arch, int64_t block);

/** Whether a block's scores are scaled by query_scale. */
bool mq_arch_scales_queries(const mq_arch *arch, int64_t block);

/** Width of what q, k and v make of a token, side by side. */
int64_t mq_arch_qkv_width(const mq_arch *arch);

/** Linears of any block have numbers below this. */
int mq_arch_n_linears(const mq_arch *arch);

/** Whether a block has that linear; the head is none of a block. */
bool mq_arch_has(const mq_arch *arch, int64_t block, mq_linear_id linear);

/** Whether a linear of a block has a bias. */
bool mq_arch_has_bias(const mq_arch *arch, int64_t block, mq_linear_id linear);

/** (n_out, n_in) of a linear, the head's whatever the block; (0, 0) of one that is not there. */
void mq_arch_linear_shape(const mq_arch *arch, int64_t block, mq_linear_id linear, int64_t *n_out,
                          int64_t *n_in);

/** The taps of a block in the order of the staged run, without those of routed experts, which come
 *  after MQ_TAP_MLP_IN, expert by expert. */
int mq_arch_taps(const mq_arch *arch, int64_t block, mq_tap_id taps[MQ_N_TAPS]);

/** The linears that a tap feeds, which may be none; those of MQ_TAP_HEAD_IN are MQ_HEAD. */
int mq_arch_tap_linears(const mq_arch *arch, int64_t block, mq_tap_id tap,
                        mq_linear_id linears[MQ_N_LINEARS]);

/** Width of a tap's activations. */
int64_t mq_arch_tap_width(const mq_arch *arch, int64_t block, mq_tap_id tap);

/** The norm that makes a tap's activations; NULL where none does. */
const char *mq_arch_tap_norm(const mq_arch *arch, mq_tap_id tap);

/** Width of the widest tap that a norm makes. */
int64_t mq_arch_normed_width(const mq_arch *arch);

/** The tap that feeds a linear. */
mq_tap_id mq_arch_linear_tap(const mq_arch *arch, mq_linear_id linear);

/** Whether layers of a tap make heads of q, k and v whose rows can be judged by what they meet; not
 *  those of latent attention, for a part of their keys is the same for all heads, and not those of
 *  linear attention, whose queries meet a state. */
bool mq_arch_couples(const mq_arch *arch, int64_t block, mq_tap_id tap);

/** True for a tap whose one layer makes what is added to the residual stream: o, or a down, which
 *  *linear becomes. */
bool mq_tap_writes_residual(mq_tap_id tap, mq_linear_id *linear);

/** Whether what o or down makes goes through a norm before it is added to the residual stream. */
bool mq_arch_norms_branch(const mq_arch *arch, mq_linear_id linear);

/** Whether the residual stream becomes itself plus what o or down makes: no norm in between, and
 *  no other expert beside. */
bool mq_arch_adds_alone(const mq_arch *arch, mq_linear_id linear);

#endif
