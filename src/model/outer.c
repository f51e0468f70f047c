#include "base/checked.h"
#include "base/memory.h"
#include "model/tensors.h"
#include "model/weights.h"
#include "par/collectives.h"

/* What is to be read, and where it goes in the share. */
typedef struct outer_plan {
    const mq_tensor *embed, *head, *final_norm; /* NULL: not needed */
    size_t head_offset, bytes;
} outer_plan;

static mq_status find_table(const mq_folder *folder, const mq_arch *arch, const char *name,
                            const mq_tensor **out)
{
    const int64_t dims[2] = {arch->vocab, arch->hidden};
    return mq_tensor_expect(folder, name, 2, dims, out);
}

static mq_status make_plan(const mq_folder *folder, const mq_arch *arch, mq_dtype dtype,
                           bool want_embed, bool want_head, outer_plan *plan)
{
    int64_t dims[2] = {arch->vocab, arch->hidden}, count = 0;
    size_t table = 0;
    bool tied = arch->tied && !mq_folder_find(folder, arch->head);
    MQ_TRY(mq_count(dims, 2, &count));
    MQ_TRY(mq_mul_size((size_t)count, mq_dtype_size(dtype), &table));
    MQ_TRY(mq_add_size(table, 63, &table));
    table = table / 64 * 64;
    if (want_embed || (want_head && tied)) {
        MQ_TRY(find_table(folder, arch, arch->embed, &plan->embed));
        plan->bytes = table;
    }
    if (!want_head) return MQ_OK;
    MQ_TRY(mq_tensor_expect(folder, arch->final_norm, 1, &arch->hidden, &plan->final_norm));
    if (tied) return MQ_OK;
    MQ_TRY(find_table(folder, arch, arch->head, &plan->head));
    plan->head_offset = plan->bytes;
    return mq_add_size(plan->bytes, table, &plan->bytes);
}

static mq_status start(const mq_folder *folder, const mq_arch *arch, mq_dtype dtype,
                       bool want_embed, bool want_head, outer_plan *plan, mq_outer_weights **out)
{
    if (dtype != MQ_BF16 && dtype != MQ_F32) {
        return mq_fail(MQ_E_INTERNAL, "embeddings as %s", mq_dtype_name(dtype));
    }
    MQ_TRY(make_plan(folder, arch, dtype, want_embed, want_head, plan));
    MQ_TRY(mq_alloc(1, sizeof **out, "embeddings and head", out));
    (*out)->arch = arch;
    (*out)->dtype = dtype;
    if (!want_head) return MQ_OK;
    return mq_alloc(arch->hidden, sizeof(float), "final norm", &(*out)->final_norm);
}

static mq_status read_rows(const mq_comm *comm, mq_folder *folder, const mq_tensor *tensor,
                           mq_dtype dtype, char *to)
{
    int64_t begin = 0, end = 0;
    if (!tensor) return MQ_OK;
    mq_even_part(tensor->dim[0], comm->node_rank, comm->node_size, &begin, &end);
    to += (size_t)(begin * tensor->dim[1]) * mq_dtype_size(dtype);
    return mq_folder_read_rows(folder, tensor, begin, end, dtype, to);
}

static mq_status read_part(const mq_comm *comm, mq_folder *folder, const outer_plan *plan,
                           mq_outer_weights *w)
{
    char *base = w->share->base;
    MQ_TRY(read_rows(comm, folder, plan->embed, w->dtype, base));
    MQ_TRY(read_rows(comm, folder, plan->head, w->dtype, base + plan->head_offset));
    if (comm->rank != 0 || !plan->final_norm) return MQ_OK;
    return mq_folder_read_rows(folder, plan->final_norm, 0, w->arch->hidden, MQ_F32, w->final_norm);
}

static mq_status fill(const mq_comm *comm, mq_folder *folder, const outer_plan *plan,
                      mq_outer_weights *w)
{
    MQ_TRY(mq_share_create(comm, plan->bytes, "embeddings and head", &w->share));
    MQ_TRY(mq_agree(comm, read_part(comm, folder, plan, w)));
    if (plan->final_norm) {
        MQ_TRY(mq_bcast(comm, w->final_norm, (size_t)w->arch->hidden * sizeof(float), 0));
    }
    return mq_agree(comm, mq_share_fence(comm, w->share));
}

mq_status mq_outer_weights_read(const mq_comm *comm, mq_folder *folder, const mq_arch *arch,
                                mq_dtype dtype, bool want_embed, bool want_head,
                                mq_outer_weights **out)
{
    outer_plan plan = {.embed = NULL};
    *out = NULL;
    mq_status status =
        mq_agree(comm, start(folder, arch, dtype, want_embed, want_head, &plan, out));
    if (status == MQ_OK) status = fill(comm, folder, &plan, *out);
    if (status != MQ_OK) {
        mq_outer_weights_destroy(out);
        return status;
    }
    char *base = (*out)->share->base;
    if (want_embed) (*out)->embed = base;
    if (want_head) (*out)->head = plan.head ? base + plan.head_offset : base;
    return MQ_OK;
}

void mq_outer_weights_destroy(mq_outer_weights **weights)
{
    if (!*weights) return;
    mq_share_destroy(&(*weights)->share);
    mq_free(&(*weights)->final_norm);
    mq_free(weights);
}
