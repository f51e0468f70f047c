#include "model/packed.h"

#include "base/checked.h"
#include "base/parallel.h"
#include "format/gptq.h"

#include <inttypes.h>
#include <stdio.h>

enum { ALIGNMENT = 64, TASK_ROWS = 64 };

/* Packed tensors of a block side by side in one buffer of the node. */
typedef struct staging {
    mq_share *share;
    size_t offset[MQ_N_LINEARS][MQ_N_PACKED];
    size_t bytes;
} staging;

static size_t stored_bytes(const mq_tensor *tensor)
{
    return (size_t)(tensor->end - tensor->begin);
}

static mq_status lay_out(const mq_linear_source *sources, staging *s)
{
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        for (int p = 0; p < MQ_N_PACKED && !sources[l].weight; p++) {
            size_t bytes = stored_bytes(sources[l].packed[p]), padded = 0;
            MQ_TRY(mq_add_size(bytes, ALIGNMENT - 1, &padded));
            s->offset[l][p] = s->bytes;
            MQ_TRY(mq_add_size(s->bytes, padded / ALIGNMENT * ALIGNMENT, &s->bytes));
        }
    }
    return MQ_OK;
}

/* This rank's part of the bytes of every packed tensor. */
static mq_status read_part(const mq_comm *comm, mq_folder *folder, const mq_linear_source *sources,
                           const staging *s)
{
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        for (int p = 0; p < MQ_N_PACKED && !sources[l].weight; p++) {
            const mq_tensor *tensor = sources[l].packed[p];
            int64_t begin = 0, end = 0;
            mq_even_part((int64_t)stored_bytes(tensor), comm->node_rank, comm->node_size, &begin,
                         &end);
            MQ_TRY(mq_folder_read(folder, tensor, (uint64_t)begin, (size_t)(end - begin),
                                  (char *)s->share->base + s->offset[l][p] + begin));
        }
    }
    return MQ_OK;
}

/* Rows of one linear, cut into tasks. */
typedef struct rows {
    const mq_gptq_layer *layer;
    const char *name;
    int64_t begin, end;
    mq_dtype dtype;
    char *to; /* row 0 of the linear */
} rows;

static mq_status dequantise_task(void *context, int64_t i)
{
    const rows *r = context;
    int64_t n0 = r->begin + i * TASK_ROWS, n1 = mq_min_i64(n0 + TASK_ROWS, r->end);
    int64_t n_in = r->layer->n_in, count = (n1 - n0) * n_in;
    char *to = r->to + (size_t)(n0 * n_in) * mq_dtype_size(r->dtype);
    float *values = mq_scratch(0, (size_t)count * sizeof *values);
    if (!values) return mq_fail(MQ_E_MEMORY, "%s: no memory to dequantise", r->name);
    MQ_TRY(mq_gptq_dequantise(r->layer, r->name, n0, n1, values));
    return mq_from_f32(values, count, r->dtype, to);
}

static mq_status dequantise(const mq_comm *comm, const mq_linear_source *source,
                            const size_t offset[MQ_N_PACKED], const char *base, int linear,
                            mq_block_weights *weights)
{
    char name[MQ_NAME_BYTES];
    mq_gptq_layer layer = {.qweight = (const void *)(base + offset[MQ_QWEIGHT]),
                           .qzeros = (const void *)(base + offset[MQ_QZEROS]),
                           .scales = (const void *)(base + offset[MQ_SCALES]),
                           .g_idx = (const void *)(base + offset[MQ_G_IDX]),
                           .n_groups = source->n_groups,
                           .bits = source->bits,
                           .zero_offset = weights->arch->gptq_zero_offset};
    mq_arch_linear_shape(weights->arch, (mq_linear_id)linear, &layer.n_out, &layer.n_in);
    mq_arch_linear_name(weights->arch, (mq_linear_id)linear, weights->block, name, sizeof name);
    rows r = {.layer = &layer, .name = name, .dtype = weights->dtype, .to = weights->w[linear]};
    mq_even_part(layer.n_out, comm->node_rank, comm->node_size, &r.begin, &r.end);
    return mq_parallel_for(mq_ceil_div(r.end - r.begin, TASK_ROWS), dequantise_task, &r);
}

static mq_status dequantise_all(const mq_comm *comm, const mq_linear_source *sources,
                                const staging *s, mq_block_weights *weights)
{
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        if (sources[l].weight) continue;
        MQ_TRY(dequantise(comm, &sources[l], s->offset[l], s->share->base, l, weights));
    }
    return MQ_OK;
}

mq_status mq_packed_read(const mq_comm *comm, mq_folder *folder, const mq_linear_source *sources,
                         mq_block_weights *weights)
{
    staging s = {.share = NULL};
    MQ_TRY(mq_agree(comm, lay_out(sources, &s)));
    if (s.bytes == 0) return MQ_OK;
    MQ_TRY(mq_share_create(comm, s.bytes, "packed weights of a block", &s.share));
    mq_status status = mq_agree(comm, read_part(comm, folder, sources, &s));
    if (status == MQ_OK) status = mq_agree(comm, mq_share_fence(comm, s.share));
    if (status == MQ_OK) {
        status = mq_agree(comm, dequantise_all(comm, sources, &s, weights));
    }
    mq_share_destroy(&s.share);
    return status;
}
