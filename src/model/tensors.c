#include "model/tensors.h"

#include "base/checked.h"
#include "format/bits.h"
#include "format/gptq.h"
#include "model/stacked.h"

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

mq_status mq_tensor_expect_type(const mq_folder *folder, const char *name, int n_dims,
                                const int64_t *dims, mq_dtype dtype, const mq_tensor **out)
{
    const mq_tensor *tensor = mq_folder_find(folder, name);
    *out = tensor;
    return expect(folder, name, n_dims, dims, mq_dtype_name(dtype),
                  tensor && tensor->dtype == dtype, tensor);
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

static void add_delta(const mq_arch *arch, int64_t block, mq_vector *list, int *n)
{
    const mq_linear_attention *l = &arch->delta;
    int64_t heads = l->n_v_heads, channels = mq_arch_delta_in_width(arch) - heads * l->v_dim;
    add_vector(list, n, MQ_VECTOR_DELTA_CONV, l->conv, block, 2, channels, l->kernel);
    mq_vector *conv = &list[*n - 1]; /* stored as (channels, 1, kernel) */
    conv->n_dims = 3;
    conv->dim[1] = 1;
    conv->dim[2] = l->kernel;
    add_vector(list, n, MQ_VECTOR_DELTA_A_LOG, l->a_log, block, 1, heads, 0);
    add_vector(list, n, MQ_VECTOR_DELTA_DT_BIAS, l->dt_bias, block, 1, heads, 0);
    add_vector(list, n, MQ_VECTOR_DELTA_NORM, l->norm, block, 1, l->v_dim, 0);
    add_vector(list, n, MQ_VECTOR_DELTA_B, l->b, block, 2, l->grouped ? 2 * heads : heads,
               arch->hidden);
    if (l->a[0]) add_vector(list, n, MQ_VECTOR_DELTA_A, l->a, block, 2, heads, arch->hidden);
}

static void add_router(const mq_arch *arch, int64_t block, mq_vector *list, int *n)
{
    const mq_moe *moe = &arch->moe;
    int64_t experts = moe->routing.n_experts, hidden = arch->hidden;
    bool turned = moe->router_transposed;
    add_vector(list, n, MQ_VECTOR_ROUTER, moe->router, block, 2, turned ? hidden : experts,
               turned ? experts : hidden);
    if (moe->router_bias[0]) {
        add_vector(list, n, MQ_VECTOR_ROUTER_BIAS, moe->router_bias, block, 1, experts, 0);
    }
    if (moe->correction[0]) {
        int64_t kinds = 1 + moe->other_kinds;
        add_vector(list, n, MQ_VECTOR_CORRECTION, moe->correction, block, kinds > 1 ? 2 : 1,
                   kinds > 1 ? kinds : experts, experts);
    }
    if (moe->shared_weight[0]) {
        add_vector(list, n, MQ_VECTOR_SHARED_WEIGHT, moe->shared_weight, block, 2, 1, hidden);
    }
}

/* Of attention that is not linear. */
static void add_attention(const mq_arch *arch, int64_t block, mq_vector *out, int *n)
{
    int64_t d = arch->head_dim;
    if (arch->qk_norm == MQ_QK_HEAD_SHARED) {
        add_vector(out, n, MQ_VECTOR_Q_NORM, arch->q_norm, block, 1, d, 0);
        add_vector(out, n, MQ_VECTOR_K_NORM, arch->k_norm, block, 1, d, 0);
    } else if (arch->qk_norm == MQ_QK_PER_HEAD) {
        add_vector(out, n, MQ_VECTOR_Q_NORM, arch->q_norm, block, 2, arch->n_heads, d);
        add_vector(out, n, MQ_VECTOR_K_NORM, arch->k_norm, block, 2, arch->n_kv_heads, d);
    } else if (arch->qk_norm == MQ_QK_ALL_HEADS) {
        add_vector(out, n, MQ_VECTOR_Q_NORM, arch->q_norm, block, 1, arch->n_heads * d, 0);
        add_vector(out, n, MQ_VECTOR_K_NORM, arch->k_norm, block, 1, arch->n_kv_heads * d, 0);
    }
    if (arch->sinks[0]) {
        add_vector(out, n, MQ_VECTOR_SINKS, arch->sinks, block, 1, arch->n_heads, 0);
    }
    if (arch->latent.q_norm[0]) {
        add_vector(out, n, MQ_VECTOR_Q_LORA_NORM, arch->latent.q_norm, block, 1,
                   arch->latent.q_rank, 0);
    }
    if (arch->latent.kv_norm[0]) {
        add_vector(out, n, MQ_VECTOR_KV_LORA_NORM, arch->latent.kv_norm, block, 1,
                   arch->latent.kv_rank, 0);
    }
}

int mq_arch_vectors(const mq_arch *arch, int64_t block, mq_vector out[MQ_N_VECTORS])
{
    int n = 0;
    const struct {
        int id;
        const char *pattern;
    } norms[] = {{MQ_VECTOR_ATTN_NORM, arch->attn_norm},
                 {MQ_VECTOR_MLP_NORM, arch->mlp_norm},
                 {MQ_VECTOR_O_NORM, arch->o_norm},
                 {MQ_VECTOR_DOWN_NORM, arch->down_norm}};
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) {
        if (!norms[i].pattern[0]) continue;
        char bias[MQ_NAME_BYTES];
        add_vector(out, &n, norms[i].id, norms[i].pattern, block, 1, arch->hidden, 0);
        if (!arch->norm_bias) continue;
        mq_arch_norm_bias(norms[i].pattern, bias, sizeof bias);
        add_vector(out, &n, MQ_VECTOR_NORM_BIAS + norms[i].id, bias, block, 1, arch->hidden, 0);
    }
    if (arch->block[block].linear) {
        add_delta(arch, block, out, &n);
    } else {
        add_attention(arch, block, out, &n);
    }
    if (arch->block[block].routed) add_router(arch, block, out, &n);
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        char module[MQ_NAME_BYTES - 8], name[MQ_NAME_BYTES];
        int64_t n_out = 0, n_in = 0;
        if (!mq_arch_has_bias(arch, block, (mq_linear_id)l)) continue;
        mq_arch_linear_shape(arch, block, (mq_linear_id)l, &n_out, &n_in);
        mq_arch_linear_name(arch, (mq_linear_id)l, block, module, sizeof module);
        snprintf(name, sizeof name, "%s.bias", module);
        add_vector(out, &n, MQ_VECTOR_BIAS + l, name, block, 1, n_out, 0);
    }
    return n;
}

mq_status mq_vector_find(const mq_folder *folder, const mq_vector *v, const mq_tensor **out)
{
    const mq_tensor *found = mq_folder_find(folder, v->name);
    int64_t as_row[4] = {1, v->dim[0], v->dim[1], v->dim[2]};
    if (found && shape_is(found, v->n_dims + 1, as_row)) {
        return mq_tensor_expect(folder, v->name, v->n_dims + 1, as_row, out);
    }
    return mq_tensor_expect(folder, v->name, v->n_dims, v->dim, out);
}

/* ---- linears -------------------------------------------------------------------------------- */

static const char *const suffixes[][MQ_N_STORED] = {
    [MQ_PACKED_GPTQ] = {"qweight", "qzeros", "scales", "g_idx"},
    [MQ_PACKED_COMPRESSED] = {"weight_packed", "weight_zero_point", "weight_scale", "weight_shape"},
    [MQ_PACKED_MXFP4] = {"weight_packed", "", "weight_scale", "input_scale"},
    [MQ_PACKED_EXL2] = {"q_weight", "", "q_scale", "q_invperm", "q_groups", "q_scale_max"},
    [MQ_PACKED_FP8] = {"weight", "", "weight_scale_inv", "input_scale"},
};

static const char fp8_scale[] = "weight_scale"; /* its other name */

/* Tensor `which` of a packed linear, NULL when there is none. */
static const mq_tensor *find_stored(const mq_folder *folder, mq_packed_form form,
                                    const char *module, int which, char name[MQ_NAME_BYTES])
{
    snprintf(name, MQ_NAME_BYTES, "%s.%s", module, suffixes[form][which]);
    return mq_folder_find(folder, name);
}

static mq_status expect_stored(const mq_folder *folder, mq_packed_form form, const char *module,
                               int which, mq_dtype dtype, int n_dims, const int64_t *dims,
                               mq_linear_source *source)
{
    char name[MQ_NAME_BYTES];
    snprintf(name, sizeof name, "%s.%s", module, suffixes[form][which]);
    return mq_tensor_expect_type(folder, name, n_dims, dims, dtype, &source->packed[which]);
}

static mq_status find_gptq(const mq_folder *folder, const char *module, int64_t n_out, int64_t n_in,
                           const mq_tensor *qweight, mq_linear_source *source)
{
    char name[MQ_NAME_BYTES];
    const mq_packed_form form = MQ_PACKED_GPTQ;
    int64_t rows = qweight->n_dims == 2 ? qweight->dim[0] : 0;
    MQ_TRY(mq_gptq_bits(rows, n_in, module, &source->bits));
    const mq_tensor *scales = find_stored(folder, form, module, MQ_STORED_SCALES, name);
    source->n_groups = scales && scales->n_dims == 2 && scales->dim[0] > 0 ? scales->dim[0] : 1;
    const int64_t codes[] = {rows, n_out}, scale[] = {source->n_groups, n_out};
    const int64_t zeros[] = {source->n_groups, mq_bits_words(n_out, source->bits)};
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_CODES, MQ_I32, 2, codes, source));
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_ZEROS, MQ_I32, 2, zeros, source));
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_SCALES, MQ_F16, 2, scale, source));
    return expect_stored(folder, form, module, MQ_STORED_EXTRA, MQ_I32, 1, &n_in, source);
}

static mq_status find_compressed(const mq_folder *folder, const char *module, int64_t n_out,
                                 int64_t n_in, const mq_tensor *codes, mq_linear_source *source)
{
    char name[MQ_NAME_BYTES];
    const mq_packed_form form = MQ_PACKED_COMPRESSED;
    int64_t words = codes->n_dims == 2 ? codes->dim[1] : 0, two = 2;
    MQ_TRY(mq_gptq_bits(words, n_in, module, &source->bits));
    const mq_tensor *scale = find_stored(folder, form, module, MQ_STORED_SCALES, name);
    int64_t n = scale && scale->n_dims == 2 ? scale->dim[1] : 0;
    source->n_groups = n > 0 && n_in % n == 0 ? n : 1;
    const int64_t rows[] = {n_out, words}, scales[] = {n_out, source->n_groups};
    const int64_t zeros[] = {mq_bits_words(n_out, source->bits), source->n_groups};
    mq_dtype type = scale && is_float(scale->dtype) ? scale->dtype : MQ_BF16;
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_CODES, MQ_I32, 2, rows, source));
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_SCALES, type, 2, scales, source));
    const mq_tensor *shape = find_stored(folder, form, module, MQ_STORED_EXTRA, name);
    mq_dtype count = shape && shape->dtype == MQ_I32 ? MQ_I32 : MQ_I64;
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_EXTRA, count, 1, &two, source));
    if (!find_stored(folder, form, module, MQ_STORED_ZEROS, name)) return MQ_OK;
    return expect_stored(folder, form, module, MQ_STORED_ZEROS, MQ_I32, 2, zeros, source);
}

static mq_status find_mxfp4(const mq_folder *folder, const char *module, int64_t n_out,
                            int64_t n_in, mq_linear_source *source)
{
    char name[MQ_NAME_BYTES];
    const mq_packed_form form = MQ_PACKED_MXFP4;
    const int64_t codes[] = {n_out, n_in / 2}, scales[] = {n_out, n_in / MQ_MXFP4_BLOCK};
    if (n_in % MQ_MXFP4_BLOCK != 0) {
        return mq_fail(MQ_E_INPUT, "%s: %s has %" PRId64 " columns, MXFP4 takes multiples of %d",
                       folder->path, module, n_in, MQ_MXFP4_BLOCK);
    }
    source->bits = 4;
    source->n_groups = n_in / MQ_MXFP4_BLOCK;
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_CODES, MQ_U8, 2, codes, source));
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_SCALES, MQ_U8, 2, scales, source));
    source->packed[MQ_STORED_EXTRA] = find_stored(folder, form, module, MQ_STORED_EXTRA, name);
    return MQ_OK;
}

/* What the groups are is in q_groups itself, and is checked when a layer is dequantised. */
static mq_status find_exl2(const mq_folder *folder, const char *module, int64_t n_out, int64_t n_in,
                           const mq_tensor *codes, mq_linear_source *source)
{
    char name[MQ_NAME_BYTES];
    const mq_packed_form form = MQ_PACKED_EXL2;
    int64_t columns = mq_exl2_columns(n_out);
    const mq_tensor *largest = find_stored(folder, form, module, MQ_STORED_SCALE_MAX, name);
    source->n_groups = largest && largest->n_dims == 1 && largest->dim[0] > 0 ? largest->dim[0] : 1;
    const int64_t words[] = {codes->n_dims == 2 ? codes->dim[0] : 0, columns};
    const int64_t roots[] = {source->n_groups, columns / 8}, groups = 2 * source->n_groups;
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_CODES, MQ_I32, 2, words, source));
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_SCALES, MQ_I32, 2, roots, source));
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_EXTRA, MQ_I32, 1, &n_in, source));
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_GROUPS, MQ_I16, 1, &groups, source));
    int64_t average = words[0] * 32 / n_in;
    source->bits = (int)mq_min_i64(average, MQ_MAX_BITS);
    return expect_stored(folder, form, module, MQ_STORED_SCALE_MAX, MQ_F16, 1, &source->n_groups,
                         source);
}

/* The scales' shape follows from what shares one: a block, a row, or all. */
static void fp8_shape(const int64_t config[2], const mq_tensor *scale, int64_t n_out, int64_t n_in,
                      int64_t block[2], int64_t dims[2])
{
    bool blocks = config[0] > 0,
         one = scale && scale->end - scale->begin == mq_dtype_size(scale->dtype);
    block[0] = blocks ? config[0] : one ? n_out : 1;
    block[1] = blocks ? config[1] : n_in;
    dims[0] = mq_ceil_div(n_out, block[0]);
    dims[1] = mq_ceil_div(n_in, block[1]);
}

static mq_status find_fp8(const mq_folder *folder, const mq_arch *arch, const char *module,
                          int64_t n_out, int64_t n_in, mq_linear_source *source)
{
    char name[MQ_NAME_BYTES];
    const mq_packed_form form = MQ_PACKED_FP8;
    const int64_t weight[] = {n_out, n_in};
    int64_t dims[2];
    const mq_tensor *scale = find_stored(folder, form, module, MQ_STORED_SCALES, name);
    if (!scale) {
        snprintf(name, sizeof name, "%s.%s", module, fp8_scale);
        scale = mq_folder_find(folder, name);
    }
    source->bits = 8;
    source->n_groups = 1;
    source->packed[MQ_STORED_SCALES] = scale;
    fp8_shape(arch->fp8_block, scale, n_out, n_in, source->fp8_block, dims);
    /* One scale may be a number by itself, or [1]; those of rows may be [rows]. */
    bool flat = scale && scale->n_dims < 2 && dims[1] == 1 && (dims[0] == 1 || scale->n_dims == 1);
    int n_dims = flat ? scale->n_dims : 2;
    MQ_TRY(expect(folder, name, n_dims, dims, "F32, BF16 or F16", scale && is_float(scale->dtype),
                  scale));
    MQ_TRY(expect_stored(folder, form, module, MQ_STORED_CODES, MQ_F8_E4M3, 2, weight, source));
    source->packed[MQ_STORED_EXTRA] = find_stored(folder, form, module, MQ_STORED_EXTRA, name);
    return MQ_OK;
}

/* The codes, in whichever form; NULL when the linear is not packed. */
static const mq_tensor *find_codes(const mq_folder *folder, const char *module,
                                   mq_packed_form *form)
{
    char name[MQ_NAME_BYTES];
    *form = MQ_PACKED_GPTQ;
    const mq_tensor *codes = find_stored(folder, *form, module, MQ_STORED_CODES, name);
    if (codes) return codes;
    codes = find_stored(folder, MQ_PACKED_COMPRESSED, module, MQ_STORED_CODES, name);
    *form = codes && codes->dtype == MQ_U8 ? MQ_PACKED_MXFP4 : MQ_PACKED_COMPRESSED;
    if (codes) return codes;
    *form = MQ_PACKED_EXL2;
    codes = find_stored(folder, *form, module, MQ_STORED_CODES, name);
    if (codes) return codes;
    *form = MQ_PACKED_FP8;
    codes = find_stored(folder, *form, module, MQ_STORED_CODES, name);
    bool fp8 = codes && (codes->dtype == MQ_F8_E4M3 || codes->dtype == MQ_F8_E5M2);
    return fp8 ? codes : NULL;
}

mq_status mq_linear_find(const mq_folder *folder, const mq_arch *arch, mq_linear_id linear,
                         int64_t block, mq_linear_source *out)
{
    char module[MQ_NAME_BYTES - 32], name[MQ_NAME_BYTES];
    int64_t n_out = 0, n_in = 0;
    mq_packed_form form = MQ_PACKED_NONE;
    *out = (mq_linear_source){.stack = {.step = 1}};
    mq_arch_linear_name(arch, linear, block, module, sizeof module);
    mq_arch_linear_shape(arch, block, linear, &n_out, &n_in);
    out->n_in = n_in;
    const mq_tensor *codes = find_codes(folder, module, &form);
    snprintf(name, sizeof name, "%s.weight", module);
    const mq_tensor *stack = mq_stack_find(folder, arch, linear, block);
    bool own = codes || mq_folder_find(folder, name);
    if (stack && own) {
        return mq_fail(MQ_E_INPUT, "%s: has the tensor %s, and %s beside it", folder->path,
                       stack->name, codes ? codes->name : name);
    }
    if (stack || (!own && mq_stack_is_due(arch, linear))) {
        return mq_stack_expect(folder, arch, linear, block, out);
    }
    if (!codes) {
        const int64_t dims[2] = {n_out, n_in};
        return mq_tensor_expect(folder, name, 2, dims, &out->weight);
    }
    const mq_tensor *weight = mq_folder_find(folder, name);
    if (arch->packed != form || (weight && weight != codes)) {
        out->packed[MQ_STORED_CODES] = codes;
        return mq_fail(MQ_E_INPUT, "%s: has the tensor %s %s", folder->path, codes->name,
                       arch->packed == form ? "and an unquantised weight beside it"
                                            : "but config.json has no quantization_config for it, "
                                              "and there is no quantize_config.json");
    }
    out->form = form;
    if (form == MQ_PACKED_GPTQ) return find_gptq(folder, module, n_out, n_in, codes, out);
    if (form == MQ_PACKED_MXFP4) return find_mxfp4(folder, module, n_out, n_in, out);
    if (form == MQ_PACKED_EXL2) return find_exl2(folder, module, n_out, n_in, codes, out);
    if (form == MQ_PACKED_FP8) return find_fp8(folder, arch, module, n_out, n_in, out);
    return find_compressed(folder, module, n_out, n_in, codes, out);
}

void mq_linear_stored(const mq_linear_source *source, int zero_offset, int64_t n_out, int64_t n_in,
                      const char *const at[MQ_N_STORED], mq_stored_layer *out)
{
    out->form = source->form;
    if (source->form == MQ_PACKED_GPTQ) {
        out->gptq = (mq_gptq_layer){.qweight = (const void *)at[MQ_STORED_CODES],
                                    .qzeros = (const void *)at[MQ_STORED_ZEROS],
                                    .scales = (const void *)at[MQ_STORED_SCALES],
                                    .g_idx = (const void *)at[MQ_STORED_EXTRA],
                                    .n_out = n_out,
                                    .n_in = n_in,
                                    .n_groups = source->n_groups,
                                    .bits = source->bits,
                                    .zero_offset = zero_offset};
        return;
    }
    if (source->form == MQ_PACKED_MXFP4) {
        out->mxfp4 = (mq_mxfp4_layer){.codes = (const void *)at[MQ_STORED_CODES],
                                      .scale = (const void *)at[MQ_STORED_SCALES],
                                      .n_out = n_out,
                                      .n_in = n_in,
                                      .first = source->stack.first,
                                      .step = source->stack.step};
        return;
    }
    if (source->form == MQ_PACKED_EXL2) {
        out->exl2 = (mq_exl2_layer){.weight = (const void *)at[MQ_STORED_CODES],
                                    .scale = (const void *)at[MQ_STORED_SCALES],
                                    .invperm = (const void *)at[MQ_STORED_EXTRA],
                                    .groups = (const void *)at[MQ_STORED_GROUPS],
                                    .scale_max = (const void *)at[MQ_STORED_SCALE_MAX],
                                    .n_out = n_out,
                                    .n_in = n_in,
                                    .n_groups = source->n_groups,
                                    .n_words = source->packed[MQ_STORED_CODES]->dim[0]};
        return;
    }
    if (source->form == MQ_PACKED_FP8) {
        out->fp8 = (mq_fp8_layer){.codes = (const void *)at[MQ_STORED_CODES],
                                  .scale = at[MQ_STORED_SCALES],
                                  .scale_dtype = source->packed[MQ_STORED_SCALES]->dtype,
                                  .n_out = n_out,
                                  .n_in = n_in,
                                  .rows = source->fp8_block[0],
                                  .columns = source->fp8_block[1]};
        return;
    }
    bool zeros = source->packed[MQ_STORED_ZEROS] != NULL;
    out->compressed =
        (mq_compressed_layer){.packed = (const void *)at[MQ_STORED_CODES],
                              .scale = at[MQ_STORED_SCALES],
                              .scale_dtype = source->packed[MQ_STORED_SCALES]->dtype,
                              .zero_point = zeros ? (const void *)at[MQ_STORED_ZEROS] : NULL,
                              .n_out = n_out,
                              .n_in = n_in,
                              .n_groups = source->n_groups,
                              .bits = source->bits};
}
