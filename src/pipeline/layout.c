#include "pipeline/layout.h"

#include "base/checked.h"
#include "base/memory.h"
#include "model/tensors.h"
#include "pipeline/gguf_copy.h"
#include "pipeline/stacks.h"
#include "plan/scaled_norm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 320 };

static const size_t copy_chunk = (size_t)64 << 20;

void mq_layout_part_name(const char *module, const char *suffix, char *out, size_t bytes)
{
    snprintf(out, bytes, "%s.%s", module, suffix);
}

/* What becomes of a tensor of the source that is not copied. */
typedef enum replacement {
    PACKED,      /* the weight of a layer that is quantised */
    DEQUANTISED, /* the codes of one that is packed in the source and kept */
    HALF_BIAS,
    STACK,       /* of experts, written anew */
    MODULES,     /* a stack of experts whose linears go their own ways */
    BIASES,      /* of those */
    SCALED_NORM, /* the same tensor, written when its scales are known */
    DROPPED      /* scales and the like of a packed one */
} replacement;

/* Sorted by name for lookups. */
typedef struct replaced {
    char name[NAME_BYTES];
    int64_t block;
    mq_linear_id linear;
    replacement by;
} replaced;

typedef struct replaced_list {
    replaced *item;
    int64_t n;
} replaced_list;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const replaced *)a)->name, ((const replaced *)b)->name);
}

static void replace(replaced_list *list, int64_t block, mq_linear_id linear, const char *name,
                    replacement by)
{
    replaced *r = &list->item[list->n++];
    *r = (replaced){.block = block, .linear = linear, .by = by};
    snprintf(r->name, sizeof r->name, "%s", name);
}

static mq_status replace_stack(const mq_folder *source, const mq_scheme *scheme, int64_t block,
                               mq_linear_id linear, const mq_linear_source *found,
                               replaced_list *list)
{
    mq_stack_fate fate = MQ_STACK_STAYS;
    mq_expert_bias bias;
    if (!mq_stack_begins(linear)) return MQ_OK;
    MQ_TRY(mq_stack_fate_of(source, scheme, block, linear, &fate));
    if (fate == MQ_STACK_STAYS) return MQ_OK;
    replacement by = fate == MQ_STACK_REWRITTEN ? STACK : MODULES;
    if (found->weight) replace(list, block, linear, found->weight->name, by);
    for (int p = 0; p < MQ_N_STORED; p++) {
        if (!found->packed[p]) continue;
        replace(list, block, linear, found->packed[p]->name, p == MQ_STORED_CODES ? by : DROPPED);
    }
    if (by == STACK || !mq_arch_has_bias(scheme->arch, block, linear)) return MQ_OK;
    MQ_TRY(mq_expert_bias_find(source, scheme->arch, linear, block, &bias));
    replace(list, block, linear, bias.tensor->name, BIASES);
    return MQ_OK;
}

static mq_status replace_linear(const mq_folder *source, const mq_scheme *scheme, int64_t block,
                                mq_linear_id linear, replaced_list *list)
{
    char module[NAME_BYTES - 16], name[NAME_BYTES];
    mq_linear_source found;
    bool quantise = mq_scheme_layer(scheme, block, linear)->quantise;
    MQ_TRY(mq_linear_find(source, scheme->arch, linear, block, &found));
    if (found.stack.n_experts > 0) {
        return replace_stack(source, scheme, block, linear, &found, list);
    }
    mq_arch_linear_name(scheme->arch, linear, block, module, sizeof module);
    if (found.weight && quantise) replace(list, block, linear, found.weight->name, PACKED);
    for (int p = 0; p < MQ_N_STORED; p++) {
        replacement of_codes = quantise ? PACKED : DEQUANTISED;
        if (!found.packed[p]) continue;
        replace(list, block, linear, found.packed[p]->name,
                p == MQ_STORED_CODES ? of_codes : DROPPED);
    }
    if (!quantise || !scheme->format->half_biases) return MQ_OK;
    snprintf(name, sizeof name, "%s.bias", module);
    replace(list, block, linear, name, HALF_BIAS);
    return MQ_OK;
}

bool mq_layout_has_head(const mq_folder *source, const mq_scheme *scheme)
{
    const mq_arch *arch = scheme->arch;
    return !arch->tied || (!scheme->format->gguf && mq_folder_find(source, arch->head));
}

static void replace_norms(const mq_folder *source, const mq_scheme *scheme, int64_t block,
                          replaced_list *list)
{
    mq_tap_id taps[MQ_N_TAPS];
    int n = mq_arch_taps(scheme->arch, block, taps);
    if (scheme->format->columns != MQ_COLUMNS_IN_NORMS) return;
    for (int t = 0; t < n; t++) {
        const mq_tensor *norm = mq_scaled_norm(source, scheme, block, taps[t]);
        if (norm) replace(list, block, MQ_N_LINEARS, norm->name, SCALED_NORM);
    }
}

static mq_status fill_replaced(const mq_folder *source, const mq_scheme *scheme,
                               replaced_list *list)
{
    const mq_arch *arch = scheme->arch;
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        for (int l = 0; l < mq_arch_n_linears(arch); l++) {
            if (!mq_arch_has(arch, b, (mq_linear_id)l)) continue;
            MQ_TRY(replace_linear(source, scheme, b, (mq_linear_id)l, list));
        }
        replace_norms(source, scheme, b, list);
    }
    if (!mq_layout_has_head(source, scheme)) return MQ_OK;
    return replace_linear(source, scheme, 0, MQ_HEAD, list);
}

static mq_status list_replaced(const mq_folder *source, const mq_scheme *scheme,
                               replaced_list *list)
{
    int64_t n_linears = 0, room = 0;
    *list = (replaced_list){.n = 0};
    MQ_TRY(mq_mul_i64(scheme->arch->n_blocks, mq_arch_n_linears(scheme->arch), &n_linears));
    MQ_TRY(mq_mul_i64(n_linears + 1, MQ_N_STORED + 2, &room)); /* its parts, a bias, a norm */
    MQ_TRY(mq_alloc(room, sizeof *list->item, "output layout", &list->item));
    MQ_TRY(fill_replaced(source, scheme, list));
    qsort(list->item, (size_t)list->n, sizeof *list->item, by_name);
    return MQ_OK;
}

static const replaced *find_replaced(const replaced_list *list, const char *name)
{
    replaced key = {.block = 0};
    snprintf(key.name, sizeof key.name, "%s", name);
    return bsearch(&key, list->item, (size_t)list->n, sizeof *list->item, by_name);
}

typedef struct tensor_list {
    mq_out_tensor *tensor;
    char (*name)[NAME_BYTES];
    mq_gguf_place *place; /* of GGUF, as are the names there; else NULL */
    const char **stored;
    int64_t n;
} tensor_list;

static mq_status list_create(const mq_folder *source, const mq_scheme *scheme, tensor_list *list)
{
    int64_t packed = 0, modules = 0;
    MQ_TRY(mq_mul_i64(scheme->n_quantised, MQ_MAX_PARTS, &packed));
    if (scheme->arch->moe.stack.down[0]) { /* a weight and a bias each */
        MQ_TRY(mq_mul_i64(scheme->arch->n_blocks, mq_arch_n_linears(scheme->arch), &modules));
        MQ_TRY(mq_mul_i64(modules, 2, &modules));
    }
    int64_t room = source->n_tensors + packed + modules + 1;
    MQ_TRY(mq_alloc(room, sizeof *list->tensor, "output layout", &list->tensor));
    MQ_TRY(mq_alloc(room, NAME_BYTES, "output layout", &list->name));
    if (!scheme->format->gguf) return MQ_OK;
    MQ_TRY(mq_alloc(room, sizeof *list->place, "output layout", &list->place));
    return mq_alloc(room, sizeof *list->stored, "output layout", (void *)&list->stored);
}

static void list_clear(tensor_list *list)
{
    mq_free(&list->tensor);
    mq_free(&list->name);
    mq_free(&list->place);
    mq_free((void *)&list->stored);
}

static void append(tensor_list *list, const mq_arch *arch, mq_out_tensor tensor, const char *name)
{
    int64_t i = list->n++;
    snprintf(list->name[i], NAME_BYTES, "%s", name);
    tensor.name = list->name[i];
    list->tensor[i] = tensor;
    if (!list->place) return;
    bool renamed = mq_gguf_find_place(arch, name, &list->place[i]);
    list->stored[i] = renamed ? list->place[i].name : list->name[i];
}

static void append_packed(tensor_list *list, const mq_scheme *scheme, const replaced *r)
{
    char module[NAME_BYTES - 32], name[NAME_BYTES];
    mq_part part[MQ_MAX_PARTS];
    mq_layer_shape shape = mq_scheme_shape(scheme, r->block, r->linear);
    int n = scheme->format->parts(&shape, part);
    mq_arch_linear_name(scheme->arch, r->linear, r->block, module, sizeof module);
    for (int p = 0; p < n; p++) {
        mq_out_tensor out = {.dtype = part[p].dtype, .n_dims = part[p].n_dims};
        memcpy(out.dim, part[p].dim, sizeof part[p].dim);
        mq_layout_part_name(module, part[p].suffix, name, sizeof name);
        append(list, scheme->arch, out, name);
    }
}

/* A layer that is not packed in the output. */
static void append_weight(tensor_list *list, const mq_arch *arch, const replaced *r, mq_dtype dtype)
{
    char module[NAME_BYTES - 32], name[NAME_BYTES];
    mq_out_tensor out = {.dtype = dtype, .n_dims = 2};
    mq_arch_linear_shape(arch, r->block, r->linear, &out.dim[0], &out.dim[1]);
    mq_arch_linear_name(arch, r->linear, r->block, module, sizeof module);
    mq_layout_part_name(module, "weight", name, sizeof name);
    append(list, arch, out, name);
}

/* The linears of the stack that r names the first of. */
static bool next_of_stack(const mq_arch *arch, const replaced *r, replaced *of)
{
    int l = of->by == r->by ? (int)of->linear + 1 : (int)MQ_EXPERTS;
    while (l < mq_arch_n_linears(arch) && !mq_stack_holds(r->linear, (mq_linear_id)l)) l++;
    *of = (replaced){.block = r->block, .linear = (mq_linear_id)l, .by = r->by};
    return l < mq_arch_n_linears(arch);
}

static void append_modules(tensor_list *list, const mq_scheme *scheme, const replaced *r,
                           const mq_tensor *t)
{
    replaced of = {.by = DROPPED};
    while (next_of_stack(scheme->arch, r, &of)) {
        if (mq_scheme_layer(scheme, of.block, of.linear)->quantise) {
            append_packed(list, scheme, &of);
        } else {
            append_weight(list, scheme->arch, &of, mq_stack_dtype(t));
        }
    }
}

static void append_biases(tensor_list *list, const mq_scheme *scheme, const replaced *r,
                          const mq_tensor *t)
{
    replaced of = {.by = DROPPED};
    while (next_of_stack(scheme->arch, r, &of)) {
        char module[NAME_BYTES - 32], name[NAME_BYTES];
        int64_t n_in = 0;
        bool half =
            scheme->format->half_biases && mq_scheme_layer(scheme, of.block, of.linear)->quantise;
        mq_out_tensor out = {.dtype = half ? MQ_F16 : mq_stack_dtype(t), .n_dims = 1};
        mq_arch_linear_shape(scheme->arch, of.block, of.linear, &out.dim[0], &n_in);
        mq_arch_linear_name(scheme->arch, of.linear, of.block, module, sizeof module);
        mq_layout_part_name(module, "bias", name, sizeof name);
        append(list, scheme->arch, out, name);
    }
}

static void append_stack(tensor_list *list, const mq_scheme *scheme, const replaced *r,
                         const mq_tensor *t)
{
    char name[MQ_NAME_BYTES];
    mq_out_tensor out = {.dtype = mq_stack_dtype(t), .n_dims = 3};
    mq_stack_shape(scheme->arch, r->linear, r->block, name, out.dim);
    append(list, scheme->arch, out, name);
}

static mq_status append_source(tensor_list *list, const mq_arch *arch, const mq_tensor *t)
{
    mq_gguf_place place;
    if (strlen(t->name) >= NAME_BYTES) {
        return mq_fail(MQ_E_INPUT, "tensor name of %zu bytes is too long: %.80s...",
                       strlen(t->name), t->name);
    }
    mq_out_tensor out = {.dtype = t->dtype, .n_dims = t->n_dims};
    memcpy(out.dim, t->dim, sizeof out.dim);
    if (list->place) {
        if (!mq_gguf_find_place(arch, t->name, &place)) return MQ_OK;
        out.dtype = mq_gguf_copied_type(&place, t);
    }
    append(list, arch, out, t->name);
    return MQ_OK;
}

static void append_replaced(tensor_list *list, const mq_scheme *scheme, const replaced *r,
                            const mq_tensor *t)
{
    mq_out_tensor half = {.dtype = MQ_F16, .n_dims = 1, .dim = {t->dim[0]}};
    switch (r->by) {
    case PACKED:
        append_packed(list, scheme, r);
        return;
    case DEQUANTISED:
        append_weight(list, scheme->arch, r, MQ_BF16);
        return;
    case STACK:
        append_stack(list, scheme, r, t);
        return;
    case MODULES:
        append_modules(list, scheme, r, t);
        return;
    case BIASES:
        append_biases(list, scheme, r, t);
        return;
    case HALF_BIAS:
        append(list, scheme->arch, half, t->name);
        return;
    case SCALED_NORM:
    case DROPPED:
        return;
    }
}

static mq_status fill_list(const mq_folder *source, const mq_scheme *scheme, tensor_list *list)
{
    replaced_list gone;
    mq_status status = list_replaced(source, scheme, &gone);
    for (int64_t i = 0; i < source->n_tensors && status == MQ_OK; i++) {
        const mq_tensor *t = &source->tensor[i];
        const replaced *r = find_replaced(&gone, t->name);
        if (r && r->by != SCALED_NORM) {
            append_replaced(list, scheme, r, t);
        } else {
            status = append_source(list, scheme->arch, t);
        }
    }
    if (list->place && mq_gguf_has_rope_factors(scheme->arch)) {
        mq_out_tensor out = {.dtype = MQ_F32, .n_dims = 1, .dim = {scheme->arch->head_dim / 2}};
        append(list, scheme->arch, out, mq_gguf_rope_factors);
    }
    mq_free(&gone.item);
    return status;
}

mq_status mq_layout_create_writer(const mq_comm *comm, const char *output, const mq_folder *source,
                                  const mq_scheme *scheme, const mq_gguf_pairs *pairs,
                                  uint64_t max_shard_bytes, mq_writer **out)
{
    tensor_list list = {0};
    *out = NULL;
    mq_status status = list_create(source, scheme, &list);
    if (status == MQ_OK) status = fill_list(source, scheme, &list);
    status = mq_agree(comm, status);
    if (status == MQ_OK && scheme->format->gguf) {
        status = mq_writer_create_gguf(comm, output, pairs, list.tensor, list.stored, list.n, out);
    } else if (status == MQ_OK) {
        status = mq_writer_create(comm, output, list.tensor, list.n, max_shard_bytes, out);
    }
    list_clear(&list);
    return status;
}

/* Chunk number c of all copied data goes to rank c mod P. */
static mq_status copy_tensor(const mq_comm *comm, mq_folder *source, const mq_tensor *t,
                             mq_writer *writer, char *buffer, int64_t *chunk)
{
    uint64_t bytes = t->end - t->begin;
    for (uint64_t at = 0; at < bytes; at += copy_chunk, (*chunk)++) {
        size_t n = bytes - at < copy_chunk ? (size_t)(bytes - at) : copy_chunk;
        if (*chunk % comm->size != comm->rank) continue;
        int64_t size = (int64_t)mq_dtype_size(t->dtype);
        MQ_TRY(mq_folder_read(source, t, at, n, buffer));
        if (size > 0) {
            MQ_TRY(mq_folder_check_finite(source, t, t->dtype, (int64_t)at / size, buffer,
                                          (int64_t)n / size));
        }
        MQ_TRY(mq_writer_put(writer, t->name, at, buffer, n));
    }
    return MQ_OK;
}

static mq_status copy_my_share(const mq_comm *comm, mq_folder *source, const mq_scheme *scheme,
                               mq_writer *writer)
{
    replaced_list gone;
    char *buffer = NULL;
    int64_t chunk = 0;
    bool gguf = scheme->format->gguf;
    mq_status status = list_replaced(source, scheme, &gone);
    if (status == MQ_OK && !gguf) status = mq_alloc((int64_t)copy_chunk, 1, "copy buffer", &buffer);
    for (int64_t i = 0; i < source->n_tensors && status == MQ_OK; i++) {
        const mq_tensor *t = &source->tensor[i];
        if (find_replaced(&gone, t->name)) continue;
        status = gguf ? mq_gguf_copy_tensor(comm, source, scheme->arch, t, writer, &chunk)
                      : copy_tensor(comm, source, t, writer, buffer, &chunk);
    }
    mq_free(&buffer);
    mq_free(&gone.item);
    return status;
}

mq_status mq_layout_copy_rest(const mq_comm *comm, mq_folder *source, const mq_scheme *scheme,
                              mq_writer *writer)
{
    bool factors = scheme->format->gguf && mq_gguf_has_rope_factors(scheme->arch);
    mq_status status = copy_my_share(comm, source, scheme, writer);
    if (status == MQ_OK) status = mq_stacks_copy(comm, source, scheme, writer);
    if (status == MQ_OK && factors && comm->rank == 0) {
        status = mq_gguf_write_rope_factors(scheme->arch, writer);
    }
    return mq_agree(comm, status);
}
