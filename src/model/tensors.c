#include "model/tensors.h"

#include "format/gptq.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- one tensor ----------------------------------------------------------------------------- */

/* "[4096, 11008]" */
static void describe_shape(int n_dims, const int64_t *dims, char *text, size_t bytes)
{
    size_t used = (size_t)snprintf(text, bytes, "[");
    for (int d = 0; d < n_dims && used < bytes; d++) {
        used += (size_t)snprintf(text + used, bytes - used, "%s%" PRId64, d ? ", " : "", dims[d]);
    }
    if (used < bytes) snprintf(text + used, bytes - used, "]");
}

static bool shape_is(const mq_tensor *tensor, int n_dims, const int64_t *dims)
{
    bool same = tensor->n_dims == n_dims;
    for (int d = 0; d < n_dims && same; d++) same = tensor->dim[d] == dims[d];
    return same;
}

static mq_status expect(const mq_folder *folder, const char *name, int n_dims, const int64_t *dims,
                        const char *type, bool right_type, const mq_tensor *tensor)
{
    char expected[128], found[128];
    if (tensor && right_type && shape_is(tensor, n_dims, dims)) return MQ_OK;
    describe_shape(n_dims, dims, expected, sizeof expected);
    if (!tensor) {
        return mq_fail(MQ_E_INPUT, "%s: the tensor %s is missing; expected %s %s", folder->path,
                       name, type, expected);
    }
    return mq_fail(MQ_E_INPUT, "%s: the tensor %s is %s; expected %s %s by config.json",
                   folder->path, name, mq_tensor_describe(tensor, found, sizeof found), type,
                   expected);
}

static bool is_float(mq_dtype dtype)
{
    return dtype == MQ_F32 || dtype == MQ_F16 || dtype == MQ_BF16 || dtype == MQ_F64;
}

mq_status mq_tensor_expect(const mq_folder *folder, const char *name, int n_dims,
                           const int64_t *dims, const mq_tensor **out)
{
    const mq_tensor *tensor = mq_folder_find(folder, name);
    *out = tensor;
    return expect(folder, name, n_dims, dims, "BF16, F16 or F32", tensor && is_float(tensor->dtype),
                  tensor);
}

/* ---- norms and biases ----------------------------------------------------------------------- */

static void add_vector(mq_vector *list, int *n, int id, const char *pattern, int64_t block,
                       int n_dims, int64_t d0, int64_t d1)
{
    mq_vector *v = &list[(*n)++];
    *v = (mq_vector){.id = id, .n_dims = n_dims, .dim = {d0, d1}, .count = d0};
    if (n_dims == 2) v->count *= d1;
    mq_arch_name(pattern, block, v->name, sizeof v->name);
}

int mq_arch_vectors(const mq_arch *arch, int64_t block, mq_vector out[MQ_N_VECTORS])
{
    int n = 0;
    int64_t d = arch->head_dim;
    add_vector(out, &n, MQ_VECTOR_ATTN_NORM, arch->attn_norm, block, 1, arch->hidden, 0);
    if (!arch->parallel_block) {
        add_vector(out, &n, MQ_VECTOR_MLP_NORM, arch->mlp_norm, block, 1, arch->hidden, 0);
    }
    if (arch->qk_norm == MQ_QK_HEAD_SHARED) {
        add_vector(out, &n, MQ_VECTOR_Q_NORM, arch->q_norm, block, 1, d, 0);
        add_vector(out, &n, MQ_VECTOR_K_NORM, arch->k_norm, block, 1, d, 0);
    } else if (arch->qk_norm == MQ_QK_PER_HEAD) {
        add_vector(out, &n, MQ_VECTOR_Q_NORM, arch->q_norm, block, 2, arch->n_heads, d);
        add_vector(out, &n, MQ_VECTOR_K_NORM, arch->k_norm, block, 2, arch->n_kv_heads, d);
    }
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        char pattern[MQ_NAME_BYTES];
        int64_t n_out = 0, n_in = 0;
        if (!arch->has_bias[l]) continue;
        mq_arch_linear_shape(arch, (mq_linear_id)l, &n_out, &n_in);
        snprintf(pattern, sizeof pattern, "%s.bias", arch->linear[l]);
        add_vector(out, &n, MQ_VECTOR_BIAS + l, pattern, block, 1, n_out, 0);
    }
    return n;
}

/* ---- linears -------------------------------------------------------------------------------- */

static const char *const packed_suffix[MQ_N_PACKED] = {"qweight", "qzeros", "scales", "g_idx"};
static const mq_dtype packed_dtype[MQ_N_PACKED] = {MQ_I32, MQ_I32, MQ_F16, MQ_I32};

static mq_status expect_packed(const mq_folder *folder, const char *module, int which, int n_dims,
                               const int64_t *dims, mq_linear_source *source)
{
    char name[MQ_NAME_BYTES];
    snprintf(name, sizeof name, "%s.%s", module, packed_suffix[which]);
    const mq_tensor *tensor = mq_folder_find(folder, name);
    source->packed[which] = tensor;
    return expect(folder, name, n_dims, dims, mq_dtype_name(packed_dtype[which]),
                  tensor && tensor->dtype == packed_dtype[which], tensor);
}

static mq_status find_packed(const mq_folder *folder, const char *module, int64_t n_out,
                             int64_t n_in, const mq_tensor *qweight, mq_linear_source *source)
{
    char name[MQ_NAME_BYTES];
    int64_t rows = qweight->n_dims == 2 ? qweight->dim[0] : 0;
    MQ_TRY(mq_gptq_bits(rows, n_in, module, &source->bits));
    snprintf(name, sizeof name, "%s.scales", module);
    const mq_tensor *scales = mq_folder_find(folder, name);
    source->n_groups = scales && scales->n_dims == 2 && scales->dim[0] > 0 ? scales->dim[0] : 1;
    const int64_t shape[MQ_N_PACKED][2] = {
        [MQ_QWEIGHT] = {rows, n_out},
        [MQ_QZEROS] = {source->n_groups, mq_gptq_words(n_out, source->bits)},
        [MQ_SCALES] = {source->n_groups, n_out},
        [MQ_G_IDX] = {n_in, 0},
    };
    for (int i = 0; i < MQ_N_PACKED; i++) {
        MQ_TRY(expect_packed(folder, module, i, i == MQ_G_IDX ? 1 : 2, shape[i], source));
    }
    return MQ_OK;
}

mq_status mq_linear_find(const mq_folder *folder, const mq_arch *arch, mq_linear_id linear,
                         int64_t block, mq_linear_source *out)
{
    char module[MQ_NAME_BYTES - 16], name[MQ_NAME_BYTES];
    int64_t n_out = 0, n_in = 0;
    *out = (mq_linear_source){.weight = NULL};
    mq_arch_linear_name(arch, linear, block, module, sizeof module);
    mq_arch_linear_shape(arch, linear, &n_out, &n_in);
    snprintf(name, sizeof name, "%s.qweight", module);
    const mq_tensor *qweight = mq_folder_find(folder, name);
    snprintf(name, sizeof name, "%s.weight", module);
    if (!qweight) {
        const int64_t dims[2] = {n_out, n_in};
        return mq_tensor_expect(folder, name, 2, dims, &out->weight);
    }
    if (!arch->gptq || mq_folder_find(folder, name)) {
        return mq_fail(MQ_E_INPUT, "%s: has the tensor %s.qweight %s", folder->path, module,
                       arch->gptq ? "and an unquantised weight beside it"
                                  : "but config.json has no quantization_config");
    }
    return find_packed(folder, module, n_out, n_in, qweight, out);
}
