#include "base/memory.h"
#include "model/stacked.h"
#include "model/weights.h"

/* Which tensors of the folder the arch accounts for. */
typedef struct audit {
    const mq_folder *folder;
    bool *known; /* (n_tensors) */
} audit;

static void mark(audit *a, const mq_tensor *tensor)
{
    if (tensor) a->known[tensor - a->folder->tensor] = true;
}

static mq_status check_linear(audit *a, const mq_arch *arch, mq_linear_id linear, int64_t block)
{
    mq_linear_source source;
    MQ_TRY(mq_linear_find(a->folder, arch, linear, block, &source));
    mark(a, source.weight);
    for (int p = 0; p < MQ_N_STORED; p++) mark(a, source.packed[p]);
    return MQ_OK;
}

static mq_status check_block(audit *a, const mq_arch *arch, int64_t block)
{
    mq_vector list[MQ_N_VECTORS];
    mq_expert_bias bias;
    int n = mq_arch_vectors(arch, block, list);
    for (int i = 0; i < n; i++) {
        const mq_tensor *tensor = NULL;
        MQ_TRY(mq_vector_find(a->folder, &list[i], &tensor));
        mark(a, tensor);
    }
    for (int l = 0; l < mq_arch_n_linears(arch); l++) {
        if (!mq_arch_has(arch, block, (mq_linear_id)l)) continue;
        MQ_TRY(check_linear(a, arch, (mq_linear_id)l, block));
        if (l < MQ_EXPERTS || !mq_arch_has_bias(arch, block, (mq_linear_id)l)) continue;
        MQ_TRY(mq_expert_bias_find(a->folder, arch, (mq_linear_id)l, block, &bias));
        mark(a, bias.tensor);
    }
    for (int i = 0; i < arch->n_ignored_tensors; i++) {
        char name[MQ_NAME_BYTES];
        mq_arch_name(arch->ignored_tensor[i], block, name, sizeof name);
        mark(a, mq_folder_find(a->folder, name));
    }
    return MQ_OK;
}

static mq_status check_outer(audit *a, const mq_arch *arch)
{
    const int64_t table[2] = {arch->vocab, arch->hidden};
    const mq_tensor *tensor = NULL;
    MQ_TRY(mq_tensor_expect(a->folder, arch->embed, 2, table, &tensor));
    mark(a, tensor);
    MQ_TRY(mq_tensor_expect(a->folder, arch->final_norm, 1, &arch->hidden, &tensor));
    mark(a, tensor);
    if (arch->norm_bias) {
        char name[MQ_NAME_BYTES];
        mq_arch_norm_bias(arch->final_norm, name, sizeof name);
        MQ_TRY(mq_tensor_expect(a->folder, name, 1, &arch->hidden, &tensor));
        mark(a, tensor);
    }
    if (arch->tied && !mq_folder_find(a->folder, arch->head)) return MQ_OK;
    return check_linear(a, arch, MQ_HEAD, 0);
}

static mq_status check_all(audit *a, const mq_arch *arch)
{
    MQ_TRY(check_outer(a, arch));
    for (int64_t b = 0; b < arch->n_blocks; b++) MQ_TRY(check_block(a, arch, b));
    for (int64_t i = 0; i < a->folder->n_tensors; i++) {
        char text[128];
        if (a->known[i] || mq_arch_is_copied(arch, a->folder->tensor[i].name)) continue;
        return mq_fail(MQ_E_INPUT,
                       "%s: the tensor %s, %s, is none that a %s model with this config.json has",
                       a->folder->path, a->folder->tensor[i].name,
                       mq_tensor_describe(&a->folder->tensor[i], text, sizeof text), arch->family);
    }
    return MQ_OK;
}

mq_status mq_model_check(const mq_folder *folder, const mq_arch *arch)
{
    audit a = {.folder = folder};
    MQ_TRY(mq_alloc(folder->n_tensors, sizeof *a.known, "check of the tensors", &a.known));
    mq_status status = check_all(&a, arch);
    mq_free(&a.known);
    return status;
}
