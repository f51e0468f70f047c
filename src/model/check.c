#include "base/memory.h"
#include "model/stacked.h"
#include "model/weights.h"

#include <stdio.h>
#include <string.h>

/* Which tensors of the folder the arch accounts for. */
typedef struct audit {
    const mq_folder *folder;
    const mq_arch *arch;
    const char **role;     /* (n_tensors) NULL: so far not accounted for */
    mq_findings *findings; /* NULL: the first one is an error */
} audit;

static void mark(const audit *a, const mq_tensor *tensor, const char *role)
{
    if (tensor) a->role[tensor - a->folder->tensor] = role;
}

/* ---- what is expected ----------------------------------------------------------------------- */

/* A tensor that was looked for, and what came of it. */
static mq_status note(const audit *a, mq_status status, const mq_tensor *tensor, const char *name,
                      int n_dims, const int64_t *dims, const char *role)
{
    mark(a, tensor, role);
    return mq_findings_add_tensor(a->findings, status, tensor ? MQ_FOUND_WRONG : MQ_FOUND_MISSING,
                                  name, n_dims, dims);
}

static mq_status check_tensor(const audit *a, const char *name, int n_dims, const int64_t *dims,
                              const char *role)
{
    const mq_tensor *tensor = NULL;
    mq_status status = mq_tensor_expect(a->folder, name, n_dims, dims, &tensor);
    return note(a, status, tensor, name, n_dims, dims, role);
}

static const char *vector_role(int id)
{
    if (id < MQ_N_VECTOR_NORMS) return "norm";
    if (id < MQ_VECTOR_SINKS) return "norm_bias";
    if (id == MQ_VECTOR_SINKS) return "sinks";
    if (id >= MQ_VECTOR_BIAS) return "bias";
    return id < MQ_VECTOR_DELTA_CONV ? "router" : "linear_attn";
}

static const char *linear_role(mq_linear_id linear)
{
    static const char *const expert[MQ_EXPERT_LINEARS] = {"expert_gate", "expert_up",
                                                          "expert_down"};
    if (linear == MQ_HEAD) return "head";
    if (linear < MQ_EXPERTS) return mq_linear_name(linear);
    return expert[mq_linear_role(linear) - MQ_GATE];
}

/* A stack that is not as it should be: found so with each of its linears, and noted with the first.
 */
static mq_status note_stack(const audit *a, mq_status status, bool there, mq_linear_id linear,
                            int64_t block)
{
    char name[MQ_NAME_BYTES];
    int64_t dims[3];
    bool first = mq_linear_expert(linear) == 0 && mq_linear_role(linear) != MQ_UP;
    if (a->findings && !first && status == MQ_E_INPUT) return MQ_OK;
    mq_stack_shape(a->arch, linear, block, name, dims);
    return mq_findings_add_tensor(a->findings, status, there ? MQ_FOUND_WRONG : MQ_FOUND_MISSING,
                                  name, 3, dims);
}

static mq_status check_expert_bias(const audit *a, mq_linear_id linear, int64_t block)
{
    char name[MQ_NAME_BYTES + 8];
    mq_expert_bias bias;
    if (linear < MQ_EXPERTS || !mq_arch_has_bias(a->arch, block, linear)) return MQ_OK;
    mq_status status = mq_expert_bias_find(a->folder, a->arch, linear, block, &bias);
    mq_arch_linear_name(a->arch, linear, block, name, MQ_NAME_BYTES);
    snprintf(name + strlen(name), 8, ".bias");
    return note(a, status, bias.tensor, name, 1, &bias.n_out, "bias");
}

static mq_status check_linear(const audit *a, mq_linear_id linear, int64_t block)
{
    mq_linear_source source;
    char module[MQ_NAME_BYTES], name[MQ_NAME_BYTES + 8];
    int64_t dims[2] = {0, 0};
    const char *role = linear_role(linear);
    mq_status status = mq_linear_find(a->folder, a->arch, linear, block, &source);
    bool there = source.weight != NULL;
    mark(a, source.weight, role);
    for (int p = 0; p < MQ_N_STORED; p++) {
        mark(a, source.packed[p], role);
        there = there || source.packed[p];
    }
    if (status == MQ_OK) return MQ_OK;
    if (mq_stack_is_due(a->arch, linear)) return note_stack(a, status, there, linear, block);
    mq_arch_linear_name(a->arch, linear, block, module, sizeof module);
    mq_arch_linear_shape(a->arch, block, linear, &dims[0], &dims[1]);
    snprintf(name, sizeof name, "%s.weight", module);
    return mq_findings_add_tensor(a->findings, status, there ? MQ_FOUND_WRONG : MQ_FOUND_MISSING,
                                  name, 2, dims);
}

static mq_status check_block(const audit *a, int64_t block)
{
    const mq_arch *arch = a->arch;
    mq_vector list[MQ_N_VECTORS];
    int n = mq_arch_vectors(arch, block, list);
    for (int i = 0; i < n; i++) {
        const mq_tensor *tensor = NULL;
        mq_status status = mq_vector_find(a->folder, &list[i], &tensor);
        MQ_TRY(note(a, status, tensor, list[i].name, list[i].n_dims, list[i].dim,
                    vector_role(list[i].id)));
    }
    for (int l = 0; l < mq_arch_n_linears(arch); l++) {
        if (!mq_arch_has(arch, block, (mq_linear_id)l)) continue;
        MQ_TRY(check_linear(a, (mq_linear_id)l, block));
        MQ_TRY(check_expert_bias(a, (mq_linear_id)l, block));
    }
    for (int i = 0; i < arch->n_ignored_tensors; i++) {
        char name[MQ_NAME_BYTES];
        mq_arch_name(arch->ignored_tensor[i], block, name, sizeof name);
        mark(a, mq_folder_find(a->folder, name), "ignored");
    }
    return MQ_OK;
}

static mq_status check_outer(const audit *a)
{
    const mq_arch *arch = a->arch;
    const int64_t table[2] = {arch->vocab, arch->hidden};
    MQ_TRY(check_tensor(a, arch->embed, 2, table, "embed"));
    MQ_TRY(check_tensor(a, arch->final_norm, 1, &arch->hidden, "norm"));
    if (arch->norm_bias) {
        char name[MQ_NAME_BYTES];
        mq_arch_norm_bias(arch->final_norm, name, sizeof name);
        MQ_TRY(check_tensor(a, name, 1, &arch->hidden, "norm_bias"));
    }
    if (arch->tied && !mq_folder_find(a->folder, arch->head)) return MQ_OK;
    return check_linear(a, MQ_HEAD, 0);
}

/* ---- what is there besides ------------------------------------------------------------------ */

static mq_status check_unmapped(const audit *a)
{
    for (int64_t i = 0; i < a->folder->n_tensors; i++) {
        const mq_tensor *t = &a->folder->tensor[i];
        char text[128];
        if (!a->role[i] && mq_arch_is_copied(a->arch, t->name)) a->role[i] = "copied";
        if (a->role[i]) continue;
        mq_status status = mq_fail(
            MQ_E_INPUT, "%s: the tensor %s, %s, is none that a %s model with this config.json has",
            a->folder->path, t->name, mq_tensor_describe(t, text, sizeof text), a->arch->family);
        MQ_TRY(mq_findings_add(a->findings, status, MQ_FOUND_UNMAPPED, t->name));
    }
    return MQ_OK;
}

mq_status mq_model_audit(const mq_folder *folder, const mq_arch *arch, mq_findings *findings,
                         const char **role)
{
    const audit a = {.folder = folder, .arch = arch, .role = role, .findings = findings};
    MQ_TRY(check_outer(&a));
    for (int64_t b = 0; b < arch->n_blocks; b++) MQ_TRY(check_block(&a, b));
    return check_unmapped(&a);
}

mq_status mq_model_check(const mq_folder *folder, const mq_arch *arch)
{
    const char **role = NULL;
    MQ_TRY(mq_alloc(folder->n_tensors, sizeof *role, "check of the tensors", (void *)&role));
    mq_status status = mq_model_audit(folder, arch, NULL, role);
    mq_free((void *)&role);
    return status;
}
