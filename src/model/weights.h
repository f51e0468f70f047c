#ifndef MQ_MODEL_WEIGHTS_H
#define MQ_MODEL_WEIGHTS_H

#include "model/findings.h"
#include "model/tensors.h"
#include "par/node_share.h"

/* The weights of one block, once per node: read when needed, then overwritten by the next block. */

typedef struct mq_block_weights {
    const mq_arch *arch;
    mq_dtype dtype; /* MQ_BF16 or MQ_F32: of the linears and of all activations */
    int64_t block;
    mq_share *share;           /* backs w[]: one copy per node, writable by its ranks */
    void **w;                  /* by linear: (n_out, n_in) row-major, dtype; NULL: there is none */
    size_t *w_offset;          /* of w[] in the share, bytes */
    mq_linear_source *source;  /* by linear, where it was read from */
    float *bias[MQ_N_LINEARS]; /* (n_out) or NULL */
    float *expert_bias[MQ_EXPERT_LINEARS]; /* (n_experts, n_out) of gate, up and down; or NULL */
    /* Of norms, what values are multiplied by (with 1 added where it is stored without); NULL when
     * absent. */
    float *attn_norm, *mlp_norm, *o_norm, *down_norm, *q_norm, *k_norm;
    float *q_lora_norm, *kv_lora_norm;
    float *sinks;        /* (n_heads) of attention, NULL when absent */
    float *norm_bias[4]; /* of the first four, in the order of mq_vector_id; NULL when absent */
    /* of linear attention, as in mq_linear_attention; NULL when absent */
    float *delta_conv, *delta_a_log, *delta_dt_bias, *delta_norm, *delta_b, *delta_a;
    float *router, *router_bias, *correction, *shared_weight; /* as in mq_moe, f32; or NULL */
    float *vectors;                                           /* storage behind all of these */
    int64_t n_vector_values;                                  /* of this block */
} mq_block_weights;

/** Allocates room for any one block, and lays it out for the first. Collective. */
mq_status mq_block_weights_create(const mq_comm *comm, const mq_arch *arch, mq_dtype dtype,
                                  mq_block_weights **out);

/** Reads block `block` of the folder: the node's ranks share the rows of every linear between them;
 *  rank 0 reads norms and biases and broadcasts them, a copy for every rank (small).
 *  Dense F32/F16/BF16 weights are converted; GPTQ layers (X.qweight ...) are dequantised in f32 and
 *  rounded. While a block has GPTQ layers, their packed tensors take a second node share.
 *  Collective. Errors, same everywhere: MQ_E_INPUT for a missing tensor or a wrong shape (expected
 *  and found), MQ_E_NUMERIC for NaN or inf naming tensor, row and column; MQ_E_IO. */
mq_status mq_block_weights_read(const mq_comm *comm, mq_folder *folder, int64_t block,
                                mq_block_weights *weights);

/** The bias (n_out) of any linear of the block, NULL where it has none. */
const float *mq_block_bias(const mq_block_weights *weights, mq_linear_id linear);

/** Collective. */
void mq_block_weights_destroy(mq_block_weights **weights);

/** Embedding table, final norm and head, for the first and the last step of the forward. */
typedef struct mq_outer_weights {
    const mq_arch *arch;
    mq_share *share; /* backs embed and head: one copy per node */
    mq_dtype dtype;
    void *embed; /* (vocab, hidden) dtype; NULL when not asked for */
    void *head;  /* (vocab, hidden) dtype; embed's memory when tied; NULL when not asked for */
    float *final_norm;      /* (hidden), what values are multiplied by; NULL when not asked for */
    float *final_norm_bias; /* (hidden) or NULL */
} mq_outer_weights;

/** Adds the 1 that the stored weights of a norm lack, in families that have them so. */
void mq_norm_complete(const mq_arch *arch, int64_t n, float *weight);

/** What of them to read: any sum. */
enum { MQ_OUTER_EMBED = 1, MQ_OUTER_HEAD = 2, MQ_OUTER_NORM = 4 };

/** Reads what `want` asks for. A packed head is dequantised, as in mq_block_weights_read. A tied
 *  model whose folder holds a head of its own all the same gets that one, as transformers 5 does
 *  where the two differ. Collective. Errors, same everywhere: as mq_block_weights_read. */
mq_status mq_outer_weights_read(const mq_comm *comm, mq_folder *folder, const mq_arch *arch,
                                mq_dtype dtype, int want, mq_outer_weights **out);

/** Collective. */
void mq_outer_weights_destroy(mq_outer_weights **weights);

/** Checks before any work that the folder has every tensor the arch needs, with the right shapes
 *  and types, and no tensor that the descriptor does not know. Not collective (the folder is the
 *  same everywhere). Errors: MQ_E_INPUT naming tensor, expected and found shape. */
mq_status mq_model_check(const mq_folder *folder, const mq_arch *arch);

/** The same check, of which `findings` gets all there is to say.
 *  @param[out] role  (n_tensors) NULL before; what each tensor is in the model, "q" or "norm", a
 *                    constant; NULL for one that has no place in it
 *  Not collective. Errors: MQ_E_MEMORY; without a list as mq_model_check. */
mq_status mq_model_audit(const mq_folder *folder, const mq_arch *arch, mq_findings *findings,
                         const char **role);

#endif
