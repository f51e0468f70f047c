#include "model/packed.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "model/stacked.h"
#include "par/collectives.h"

#include <inttypes.h>
#include <stdio.h>

enum { ALIGNMENT = 64, TASK_ROWS = 64 };

/* Packed tensors side by side in one buffer of the node. */
typedef struct staging {
    mq_share *share;
    size_t offset[MQ_PACKED_AT_ONCE][MQ_N_STORED];
    size_t bytes;
} staging;

static mq_status lay_out(int n, const mq_packed_linear *linears, staging *s)
{
    for (int l = 0; l < n; l++) {
        for (int p = 0; p < MQ_N_STORED; p++) {
            uint64_t begin = 0;
            size_t bytes = 0, padded = 0;
            mq_stored_range(&linears[l].source, p, &begin, &bytes);
            MQ_TRY(mq_add_size(bytes, ALIGNMENT - 1, &padded));
            s->offset[l][p] = s->bytes;
            MQ_TRY(mq_add_size(s->bytes, padded / ALIGNMENT * ALIGNMENT, &s->bytes));
        }
    }
    return MQ_OK;
}

/* This rank's part of the bytes of every packed tensor. */
static mq_status read_part(const mq_comm *comm, mq_folder *folder, int n,
                           const mq_packed_linear *linears, const staging *s)
{
    for (int l = 0; l < n; l++) {
        for (int p = 0; p < MQ_N_STORED; p++) {
            const mq_tensor *tensor = linears[l].source.packed[p];
            int64_t begin = 0, end = 0;
            uint64_t from = 0;
            size_t bytes = 0;
            if (!tensor) continue;
            mq_stored_range(&linears[l].source, p, &from, &bytes);
            mq_even_part((int64_t)bytes, comm->node_rank, comm->node_size, &begin, &end);
            MQ_TRY(mq_folder_read(folder, tensor, from + (uint64_t)begin, (size_t)(end - begin),
                                  (char *)s->share->base + s->offset[l][p] + begin));
        }
    }
    return MQ_OK;
}

/* Rows of one linear, cut into tasks. */
typedef struct rows {
    const mq_stored_layer *layer;
    const char *name;
    int64_t n_in, begin, end;
    mq_dtype dtype;
    char *to; /* row 0 of the linear */
} rows;

static mq_status dequantise_task(void *context, int64_t i)
{
    const rows *r = context;
    int64_t n0 = r->begin + i * TASK_ROWS, n1 = mq_min_i64(n0 + TASK_ROWS, r->end);
    int64_t count = (n1 - n0) * r->n_in;
    char *to = r->to + (size_t)(n0 * r->n_in) * mq_dtype_size(r->dtype);
    float *values = mq_scratch(0, (size_t)count * sizeof *values);
    if (!values) return mq_fail(MQ_E_MEMORY, "%s: no memory to dequantise", r->name);
    MQ_TRY(mq_stored_dequantise(r->layer, r->name, n0, n1, values));
    return mq_from_f32(values, count, r->dtype, to);
}

static mq_status dequantise(const mq_comm *comm, const mq_arch *arch, mq_dtype dtype,
                            const mq_packed_linear *linear, const size_t offset[MQ_N_STORED],
                            const char *base)
{
    char name[MQ_NAME_BYTES];
    const char *at[MQ_N_STORED];
    int64_t n_out = 0;
    mq_stored_layer layer;
    rows r = {.layer = &layer, .name = name, .dtype = dtype, .to = linear->to};
    for (int p = 0; p < MQ_N_STORED; p++) at[p] = base + offset[p];
    mq_arch_linear_shape(arch, linear->block, linear->id, &n_out, &r.n_in);
    mq_arch_linear_name(arch, linear->id, linear->block, name, sizeof name);
    mq_linear_stored(&linear->source, arch->gptq_zero_offset, n_out, r.n_in, at, &layer);
    mq_even_part(n_out, comm->node_rank, comm->node_size, &r.begin, &r.end);
    return mq_parallel_for(mq_ceil_div(r.end - r.begin, TASK_ROWS), dequantise_task, &r);
}

static mq_status dequantise_all(const mq_comm *comm, const mq_arch *arch, mq_dtype dtype, int n,
                                const mq_packed_linear *linears, const staging *s)
{
    for (int l = 0; l < n; l++) {
        MQ_TRY(dequantise(comm, arch, dtype, &linears[l], s->offset[l], s->share->base));
    }
    return MQ_OK;
}

mq_status mq_packed_read(const mq_comm *comm, mq_folder *folder, const mq_arch *arch,
                         mq_dtype dtype, int n, const mq_packed_linear *linears)
{
    staging s = {.share = NULL};
    if (n == 0) return MQ_OK;
    MQ_TRY(mq_agree(comm, lay_out(n, linears, &s)));
    MQ_TRY(mq_share_create(comm, s.bytes, "packed weights", &s.share));
    mq_status status = mq_agree(comm, read_part(comm, folder, n, linears, &s));
    if (status == MQ_OK) status = mq_agree(comm, mq_share_fence(comm, s.share));
    if (status == MQ_OK) {
        status = mq_agree(comm, dequantise_all(comm, arch, dtype, n, linears, &s));
    }
    mq_share_destroy(&s.share);
    return status;
}

/* ---- the check before any work ----------------------------------------------------------------
 */

/* What a linear has besides its codes. */
static mq_status load_small(mq_folder *folder, const mq_linear_source *source,
                            char *data[MQ_N_STORED])
{
    for (int p = 0; p < MQ_N_STORED; p++) {
        uint64_t begin = 0;
        size_t bytes = 0;
        if (p == MQ_STORED_CODES || !source->packed[p]) continue;
        mq_stored_range(source, p, &begin, &bytes);
        MQ_TRY(mq_alloc((int64_t)bytes, 1, source->packed[p]->name, &data[p]));
        MQ_TRY(mq_folder_read(folder, source->packed[p], begin, bytes, data[p]));
    }
    return MQ_OK;
}

static mq_status check_packed(mq_folder *folder, const mq_arch *arch, mq_linear_id linear,
                              int64_t block)
{
    char name[MQ_NAME_BYTES];
    char *data[MQ_N_STORED] = {NULL};
    mq_linear_source source;
    mq_stored_layer layer;
    int64_t n_out = 0, n_in = 0;
    MQ_TRY(mq_linear_find(folder, arch, linear, block, &source));
    if (source.weight) return MQ_OK;
    mq_arch_linear_shape(arch, block, linear, &n_out, &n_in);
    mq_arch_linear_name(arch, linear, block, name, sizeof name);
    mq_status status = load_small(folder, &source, data);
    if (status == MQ_OK) {
        mq_linear_stored(&source, arch->gptq_zero_offset, n_out, n_in, (const char *const *)data,
                         &layer);
        status = mq_stored_check(&layer, name);
    }
    for (int p = 0; p < MQ_N_STORED; p++) mq_free(&data[p]);
    return status;
}

static mq_status check_my_share(const mq_comm *comm, mq_folder *folder, const mq_arch *arch)
{
    int64_t n = mq_arch_n_linears(arch);
    for (int64_t i = comm->rank; i < arch->n_blocks * n; i += comm->size) {
        mq_linear_id linear = (mq_linear_id)(i % n);
        if (!mq_arch_has(arch, i / n, linear)) continue;
        MQ_TRY(check_packed(folder, arch, linear, i / n));
    }
    return MQ_OK;
}

mq_status mq_packed_check(const mq_comm *comm, mq_folder *folder, const mq_arch *arch)
{
    /* In FP8 the weights themselves may be NaN. */
    if (arch->packed == MQ_PACKED_NONE || arch->packed == MQ_PACKED_FP8) return MQ_OK;
    return mq_agree(comm, check_my_share(comm, folder, arch));
}
