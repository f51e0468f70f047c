#include "model/weights.h"

#include "base/checked.h"
#include "base/memory.h"
#include "model/packed.h"
#include "model/stacked.h"
#include "model/tensors.h"
#include "par/collectives.h"

#include <inttypes.h>
#include <string.h>

enum { ALIGNMENT = 64 };

/* ---- room for one block --------------------------------------------------------------------- */

/* Where w[l] of a block begins in the share, and how much of it the block takes. */
static mq_status lay_out(const mq_arch *arch, int64_t block, mq_dtype dtype, size_t *offset,
                         size_t *bytes)
{
    *bytes = 0;
    for (int l = 0; l < mq_arch_n_linears(arch); l++) {
        int64_t dims[2], count = 0;
        size_t size = 0;
        if (!mq_arch_has(arch, block, (mq_linear_id)l)) continue;
        mq_arch_linear_shape(arch, block, (mq_linear_id)l, &dims[0], &dims[1]);
        MQ_TRY(mq_count(dims, 2, &count));
        MQ_TRY(mq_mul_size((size_t)count, mq_dtype_size(dtype), &size));
        MQ_TRY(mq_add_size(size, ALIGNMENT - 1, &size));
        offset[l] = *bytes;
        MQ_TRY(mq_add_size(*bytes, size / ALIGNMENT * ALIGNMENT, bytes));
    }
    return MQ_OK;
}

static float **vector_place(mq_block_weights *w, int id)
{
    switch (id) {
    case MQ_VECTOR_ATTN_NORM:
        return &w->attn_norm;
    case MQ_VECTOR_MLP_NORM:
        return &w->mlp_norm;
    case MQ_VECTOR_O_NORM:
        return &w->o_norm;
    case MQ_VECTOR_DOWN_NORM:
        return &w->down_norm;
    case MQ_VECTOR_Q_NORM:
        return &w->q_norm;
    case MQ_VECTOR_K_NORM:
        return &w->k_norm;
    case MQ_VECTOR_SINKS:
        return &w->sinks;
    case MQ_VECTOR_Q_LORA_NORM:
        return &w->q_lora_norm;
    case MQ_VECTOR_KV_LORA_NORM:
        return &w->kv_lora_norm;
    case MQ_VECTOR_ROUTER:
        return &w->router;
    case MQ_VECTOR_ROUTER_BIAS:
        return &w->router_bias;
    case MQ_VECTOR_CORRECTION:
        return &w->correction;
    case MQ_VECTOR_SHARED_WEIGHT:
        return &w->shared_weight;
    case MQ_VECTOR_DELTA_CONV:
        return &w->delta_conv;
    case MQ_VECTOR_DELTA_A_LOG:
        return &w->delta_a_log;
    case MQ_VECTOR_DELTA_DT_BIAS:
        return &w->delta_dt_bias;
    case MQ_VECTOR_DELTA_NORM:
        return &w->delta_norm;
    case MQ_VECTOR_DELTA_B:
        return &w->delta_b;
    case MQ_VECTOR_DELTA_A:
        return &w->delta_a;
    default:
        if (id < MQ_VECTOR_BIAS) return &w->norm_bias[id - MQ_VECTOR_NORM_BIAS];
        return &w->bias[id - MQ_VECTOR_BIAS];
    }
}

/* Biases of all experts' gates, ups or downs. */
static int64_t n_expert_biases(const mq_arch *arch, int64_t block, int role)
{
    int64_t n_out = 0, n_in = 0;
    mq_linear_id linear = mq_expert_linear(0, (mq_linear_id)(MQ_GATE + role));
    if (!mq_arch_has_bias(arch, block, linear)) return 0;
    mq_arch_linear_shape(arch, block, linear, &n_out, &n_in);
    return arch->moe.routing.n_experts * n_out;
}

static void bind_vectors(mq_block_weights *w, int64_t block)
{
    mq_vector list[MQ_N_VECTORS];
    int n = mq_arch_vectors(w->arch, block, list);
    float *at = w->vectors;
    for (int id = 0; id < MQ_N_VECTORS; id++) *vector_place(w, id) = NULL;
    for (int i = 0; i < n; i++) {
        *vector_place(w, list[i].id) = at;
        at += list[i].count;
    }
    for (int role = 0; role < MQ_EXPERT_LINEARS; role++) {
        int64_t count = n_expert_biases(w->arch, block, role);
        w->expert_bias[role] = count > 0 ? at : NULL;
        at += count;
    }
    w->n_vector_values = at - w->vectors;
}

/* Lays out what there is room for. */
static mq_status bind(mq_block_weights *w, int64_t block)
{
    size_t bytes = 0;
    MQ_TRY(lay_out(w->arch, block, w->dtype, w->w_offset, &bytes));
    for (int l = 0; l < mq_arch_n_linears(w->arch); l++) {
        bool has = mq_arch_has(w->arch, block, (mq_linear_id)l);
        w->w[l] = has ? (char *)w->share->base + w->w_offset[l] : NULL;
    }
    bind_vectors(w, block);
    w->block = block;
    return MQ_OK;
}

/* Room for any block: bytes of the share; the norms and biases are this rank's own. */
static mq_status make_room(mq_block_weights *w, size_t *bytes)
{
    int64_t most = 0;
    *bytes = 0;
    for (int64_t b = 0; b < w->arch->n_blocks; b++) {
        mq_vector list[MQ_N_VECTORS];
        int64_t values = 0;
        size_t linears = 0;
        int n = mq_arch_vectors(w->arch, b, list);
        for (int i = 0; i < n; i++) values += list[i].count;
        for (int role = 0; role < MQ_EXPERT_LINEARS; role++) {
            values += n_expert_biases(w->arch, b, role);
        }
        MQ_TRY(lay_out(w->arch, b, w->dtype, w->w_offset, &linears));
        if (linears > *bytes) *bytes = linears;
        most = mq_max_i64(most, values);
    }
    return mq_alloc(most, sizeof(float), "norms and biases", &w->vectors);
}

static mq_status start(const mq_arch *arch, mq_dtype dtype, size_t *bytes, mq_block_weights **out)
{
    int64_t n = mq_arch_n_linears(arch);
    if (dtype != MQ_BF16 && dtype != MQ_F32) {
        return mq_fail(MQ_E_INTERNAL, "weights of a block as %s", mq_dtype_name(dtype));
    }
    MQ_TRY(mq_alloc(1, sizeof **out, "weights of a block", out));
    (*out)->arch = arch;
    (*out)->dtype = dtype;
    MQ_TRY(mq_alloc(n, sizeof *(*out)->w, "weights of a block", (void *)&(*out)->w));
    MQ_TRY(mq_alloc(n, sizeof *(*out)->w_offset, "weights of a block", &(*out)->w_offset));
    MQ_TRY(mq_alloc(n, sizeof *(*out)->source, "weights of a block", &(*out)->source));
    return make_room(*out, bytes);
}

mq_status mq_block_weights_create(const mq_comm *comm, const mq_arch *arch, mq_dtype dtype,
                                  mq_block_weights **out)
{
    size_t bytes = 0;
    *out = NULL;
    mq_status status = mq_agree(comm, start(arch, dtype, &bytes, out));
    if (status == MQ_OK) {
        status = mq_share_create(comm, bytes, "weights of a block", &(*out)->share);
    }
    if (status == MQ_OK) status = bind(*out, 0);
    if (status != MQ_OK) mq_block_weights_destroy(out);
    return status;
}

void mq_block_weights_destroy(mq_block_weights **weights)
{
    if (!*weights) return;
    mq_share_destroy(&(*weights)->share);
    mq_free(&(*weights)->vectors);
    mq_free((void *)&(*weights)->w);
    mq_free(&(*weights)->w_offset);
    mq_free(&(*weights)->source);
    mq_free(weights);
}

/* ---- reading -------------------------------------------------------------------------------- */

static mq_status find_sources(const mq_folder *folder, mq_block_weights *w)
{
    for (int l = 0; l < mq_arch_n_linears(w->arch); l++) {
        w->source[l] = (mq_linear_source){.weight = NULL};
        if (!w->w[l]) continue;
        MQ_TRY(mq_linear_find(folder, w->arch, (mq_linear_id)l, w->block, &w->source[l]));
    }
    return MQ_OK;
}

/* This rank's part of the linears that are stored as they are. */
static mq_status read_dense(const mq_comm *comm, mq_folder *folder, mq_block_weights *w)
{
    for (int l = 0; l < mq_arch_n_linears(w->arch); l++) {
        int64_t n_out = 0, n_in = 0;
        if (!w->source[l].weight) continue;
        mq_arch_linear_shape(w->arch, w->block, (mq_linear_id)l, &n_out, &n_in);
        MQ_TRY(mq_linear_read_part(folder, &w->source[l], n_out, comm->node_rank, comm->node_size,
                                   w->dtype, w->w[l]));
    }
    return MQ_OK;
}

void mq_norm_complete(const mq_arch *arch, int64_t n, float *weight)
{
    for (int64_t i = 0; i < n && arch->norm_plus_one; i++) weight[i] += 1;
}

/* Of all experts. */
static mq_status read_expert_biases(mq_folder *folder, mq_block_weights *w, int role)
{
    int64_t n_out = 0, n_in = 0;
    for (int64_t e = 0; e < w->arch->moe.routing.n_experts; e++) {
        mq_expert_bias bias;
        mq_linear_id linear = mq_expert_linear(e, (mq_linear_id)(MQ_GATE + role));
        mq_arch_linear_shape(w->arch, w->block, linear, &n_out, &n_in);
        MQ_TRY(mq_expert_bias_find(folder, w->arch, linear, w->block, &bias));
        MQ_TRY(mq_expert_bias_read(folder, &bias, w->expert_bias[role] + e * n_out));
    }
    return MQ_OK;
}

const float *mq_block_bias(const mq_block_weights *w, mq_linear_id linear)
{
    int64_t n_out = 0, n_in = 0;
    if (linear < MQ_HEAD) return w->bias[linear];
    if (linear == MQ_HEAD) return NULL;
    const float *all = w->expert_bias[mq_linear_role(linear) - MQ_GATE];
    mq_arch_linear_shape(w->arch, w->block, linear, &n_out, &n_in);
    return all ? all + mq_linear_expert(linear) * n_out : NULL;
}

/* w (n_in, n_out) as it is stored becomes (n_out, n_in). */
static mq_status transpose(float *w, int64_t n_in, int64_t n_out)
{
    float *stored = NULL;
    MQ_TRY(mq_alloc(n_in * n_out, sizeof *stored, "a router", &stored));
    memcpy(stored, w, (size_t)(n_in * n_out) * sizeof *stored);
    for (int64_t r = 0; r < n_out; r++) {
        for (int64_t j = 0; j < n_in; j++) w[r * n_in + j] = stored[j * n_out + r];
    }
    mq_free(&stored);
    return MQ_OK;
}

/* Norms and biases, on rank 0. */
static mq_status read_vectors(mq_folder *folder, int64_t block, mq_block_weights *w)
{
    mq_vector list[MQ_N_VECTORS];
    int n = mq_arch_vectors(w->arch, block, list);
    for (int i = 0; i < n; i++) {
        const mq_tensor *tensor = NULL;
        MQ_TRY(mq_vector_find(folder, &list[i], &tensor));
        float *to = *vector_place(w, list[i].id);
        MQ_TRY(mq_folder_read_rows(folder, tensor, 0, tensor->dim[0], MQ_F32, to));
        if (list[i].id < MQ_N_VECTOR_NORMS) mq_norm_complete(w->arch, list[i].count, to);
        if (list[i].id == MQ_VECTOR_ROUTER && w->arch->moe.router_transposed) {
            MQ_TRY(transpose(to, list[i].dim[0], list[i].dim[1]));
        }
    }
    for (int role = 0; role < MQ_EXPERT_LINEARS; role++) {
        if (w->expert_bias[role]) MQ_TRY(read_expert_biases(folder, w, role));
    }
    return MQ_OK;
}

/* A few at a time: what is packed takes room of its own meanwhile. */
static mq_status read_packed(const mq_comm *comm, mq_folder *folder, const mq_block_weights *w)
{
    mq_packed_linear packed[MQ_PACKED_AT_ONCE];
    int n = 0, all = mq_arch_n_linears(w->arch);
    for (int l = 0; l < all; l++) {
        if (w->w[l] && !w->source[l].weight) {
            packed[n++] = (mq_packed_linear){
                .source = w->source[l], .id = (mq_linear_id)l, .block = w->block, .to = w->w[l]};
        }
        if (n < MQ_PACKED_AT_ONCE && l + 1 < all) continue;
        MQ_TRY(mq_packed_read(comm, folder, w->arch, w->dtype, n, packed));
        n = 0;
    }
    return MQ_OK;
}

mq_status mq_block_weights_read(const mq_comm *comm, mq_folder *folder, int64_t block,
                                mq_block_weights *weights)
{
    /* All ranks have arrived here before the first one overwrites the block before. */
    MQ_TRY(mq_agree(comm, bind(weights, block)));
    MQ_TRY(mq_agree(comm, find_sources(folder, weights)));
    mq_status status = read_dense(comm, folder, weights);
    if (status == MQ_OK && comm->rank == 0) status = read_vectors(folder, block, weights);
    MQ_TRY(mq_agree(comm, status));
    MQ_TRY(mq_bcast(comm, weights->vectors, (size_t)weights->n_vector_values * sizeof(float), 0));
    MQ_TRY(read_packed(comm, folder, weights));
    return mq_agree(comm, mq_share_fence(comm, weights->share));
}
