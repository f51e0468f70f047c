#include "base/checked.h"
#include "base/memory.h"
#include "model/packed.h"
#include "par/collectives.h"

/* What is to be read, and where it goes in the share. */
typedef struct outer_plan {
    const mq_tensor *embed, *final_norm, *final_norm_bias; /* NULL: not needed */
    mq_linear_source head;
    bool own_head;
    size_t head_offset, bytes;
} outer_plan;

static mq_status plan_tables(const mq_folder *folder, const mq_arch *arch, mq_dtype dtype, int want,
                             outer_plan *plan)
{
    const int64_t dims[2] = {arch->vocab, arch->hidden};
    int64_t count = 0;
    size_t table = 0;
    bool tied = arch->tied && !mq_folder_find(folder, arch->head);
    MQ_TRY(mq_count(dims, 2, &count));
    MQ_TRY(mq_mul_size((size_t)count, mq_dtype_size(dtype), &table));
    MQ_TRY(mq_add_size(table, 63, &table));
    table = table / 64 * 64;
    if ((want & MQ_OUTER_EMBED) || ((want & MQ_OUTER_HEAD) && tied)) {
        MQ_TRY(mq_tensor_expect(folder, arch->embed, 2, dims, &plan->embed));
        plan->bytes = table;
    }
    plan->own_head = (want & MQ_OUTER_HEAD) && !tied;
    if (!plan->own_head) return MQ_OK;
    MQ_TRY(mq_linear_find(folder, arch, MQ_HEAD, 0, &plan->head));
    plan->head_offset = plan->bytes;
    return mq_add_size(plan->bytes, table, &plan->bytes);
}

static mq_status start(const mq_folder *folder, const mq_arch *arch, mq_dtype dtype, int want,
                       outer_plan *plan, mq_outer_weights **out)
{
    if (dtype != MQ_BF16 && dtype != MQ_F32) {
        return mq_fail(MQ_E_INTERNAL, "embeddings as %s", mq_dtype_name(dtype));
    }
    MQ_TRY(plan_tables(folder, arch, dtype, want, plan));
    MQ_TRY(mq_alloc(1, sizeof **out, "embeddings and head", out));
    (*out)->arch = arch;
    (*out)->dtype = dtype;
    if (!(want & MQ_OUTER_NORM)) return MQ_OK;
    MQ_TRY(mq_tensor_expect(folder, arch->final_norm, 1, &arch->hidden, &plan->final_norm));
    MQ_TRY(mq_alloc(arch->hidden, sizeof(float), "final norm", &(*out)->final_norm));
    if (!arch->norm_bias) return MQ_OK;
    char name[MQ_NAME_BYTES];
    mq_arch_norm_bias(arch->final_norm, name, sizeof name);
    MQ_TRY(mq_tensor_expect(folder, name, 1, &arch->hidden, &plan->final_norm_bias));
    return mq_alloc(arch->hidden, sizeof(float), "final norm", &(*out)->final_norm_bias);
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
    MQ_TRY(read_rows(comm, folder, plan->head.weight, w->dtype, base + plan->head_offset));
    if (comm->rank != 0 || !plan->final_norm) return MQ_OK;
    MQ_TRY(
        mq_folder_read_rows(folder, plan->final_norm, 0, w->arch->hidden, MQ_F32, w->final_norm));
    mq_norm_complete(w->arch, w->arch->hidden, w->final_norm);
    if (!plan->final_norm_bias) return MQ_OK;
    return mq_folder_read_rows(folder, plan->final_norm_bias, 0, w->arch->hidden, MQ_F32,
                               w->final_norm_bias);
}

static mq_status fill(const mq_comm *comm, mq_folder *folder, const outer_plan *plan,
                      mq_outer_weights *w)
{
    MQ_TRY(mq_share_create(comm, plan->bytes, "embeddings and head", &w->share));
    MQ_TRY(mq_agree(comm, read_part(comm, folder, plan, w)));
    size_t norm_bytes = (size_t)w->arch->hidden * sizeof(float);
    if (plan->final_norm) MQ_TRY(mq_bcast(comm, w->final_norm, norm_bytes, 0));
    if (plan->final_norm_bias) MQ_TRY(mq_bcast(comm, w->final_norm_bias, norm_bytes, 0));
    const mq_packed_linear packed = {
        .source = plan->head, .id = MQ_HEAD, .to = (char *)w->share->base + plan->head_offset};
    bool is_packed = plan->own_head && !plan->head.weight;
    MQ_TRY(mq_packed_read(comm, folder, w->arch, w->dtype, is_packed, &packed));
    return mq_agree(comm, mq_share_fence(comm, w->share));
}

mq_status mq_outer_weights_read(const mq_comm *comm, mq_folder *folder, const mq_arch *arch,
                                mq_dtype dtype, int want, mq_outer_weights **out)
{
    outer_plan plan = {.embed = NULL};
    *out = NULL;
    mq_status status = mq_agree(comm, start(folder, arch, dtype, want, &plan, out));
    if (status == MQ_OK) status = fill(comm, folder, &plan, *out);
    if (status != MQ_OK) {
        mq_outer_weights_destroy(out);
        return status;
    }
    char *base = (*out)->share->base;
    if (want & MQ_OUTER_EMBED) (*out)->embed = base;
    if (want & MQ_OUTER_HEAD) (*out)->head = base + plan.head_offset;
    return MQ_OK;
}

void mq_outer_weights_destroy(mq_outer_weights **weights)
{
    if (!*weights) return;
    mq_share_destroy(&(*weights)->share);
    mq_free(&(*weights)->final_norm);
    mq_free(&(*weights)->final_norm_bias);
    mq_free(weights);
}
