#include "model/stacked.h"

#include "base/checked.h"
#include "base/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- names and places ------------------------------------------------------------------------ */

static const char *stack_pattern(const mq_arch *arch, mq_linear_id linear)
{
    const mq_stack_names *stack = &arch->moe.stack;
    if (linear < MQ_EXPERTS) return "";
    return mq_linear_role(linear) == MQ_DOWN ? stack->down : stack->gate_up;
}

/* Folders whose packed linears are never stacked have none to miss. */
static bool stacks_are_due(const mq_arch *arch)
{
    return arch->packed == MQ_PACKED_NONE || arch->packed == MQ_PACKED_MXFP4;
}

bool mq_stack_is_due(const mq_arch *arch, mq_linear_id linear)
{
    return stacks_are_due(arch) && stack_pattern(arch, linear)[0] != '\0';
}

static const mq_tensor *find_blocks(const mq_folder *folder, const char *stack)
{
    char name[MQ_NAME_BYTES];
    snprintf(name, sizeof name, "%s_blocks", stack);
    return mq_folder_find(folder, name);
}

const mq_tensor *mq_stack_find(const mq_folder *folder, const mq_arch *arch, mq_linear_id linear,
                               int64_t block)
{
    char name[MQ_NAME_BYTES - 8];
    const char *pattern = stack_pattern(arch, linear);
    if (!pattern[0]) return NULL;
    mq_arch_name(pattern, block, name, sizeof name);
    const mq_tensor *stack = mq_folder_find(folder, name);
    return stack ? stack : find_blocks(folder, name);
}

mq_stack_part mq_stack_part_of(const mq_arch *arch, mq_linear_id linear, bool packed)
{
    const mq_moe *moe = &arch->moe;
    mq_stack_part part = {.n_experts = moe->routing.n_experts,
                          .expert = mq_linear_expert(linear),
                          .rows = arch->hidden,
                          .step = 1,
                          .transposed = moe->stack.transposed && !packed};
    mq_linear_id role = mq_linear_role(linear);
    if (role == MQ_DOWN) return part;
    part.rows = 2 * moe->intermediate;
    if (moe->stack.interleaved) part.step = 2;
    if (role == MQ_UP) part.first = moe->stack.interleaved ? 1 : moe->intermediate;
    return part;
}

void mq_stack_shape(const mq_arch *arch, mq_linear_id linear, int64_t block,
                    char name[MQ_NAME_BYTES], int64_t dims[3])
{
    bool down = mq_linear_role(linear) == MQ_DOWN;
    const mq_stack_part part = mq_stack_part_of(arch, linear, false);
    int64_t n_in = down ? arch->moe.intermediate : arch->hidden;
    mq_arch_name(stack_pattern(arch, linear), block, name, MQ_NAME_BYTES);
    dims[0] = part.n_experts;
    dims[1] = part.transposed ? n_in : part.rows;
    dims[2] = part.transposed ? part.rows : n_in;
}

void mq_stack_bias_name(const mq_arch *arch, mq_linear_id linear, int64_t block,
                        char name[MQ_NAME_BYTES])
{
    const mq_stack_names *stack = &arch->moe.stack;
    bool down = mq_linear_role(linear) == MQ_DOWN;
    mq_arch_name(down ? stack->down_bias : stack->gate_up_bias, block, name, MQ_NAME_BYTES);
}

/* ---- finding --------------------------------------------------------------------------------- */

static mq_status expect_mxfp4(const mq_folder *folder, const mq_arch *arch, const char *stack,
                              mq_linear_source *out)
{
    char name[MQ_NAME_BYTES + 8];
    int64_t blocks = out->n_in / MQ_MXFP4_BLOCK;
    const int64_t codes[] = {out->stack.n_experts, out->stack.rows, blocks, MQ_MXFP4_BLOCK / 2};
    if (arch->packed != MQ_PACKED_MXFP4) {
        return mq_fail(MQ_E_INPUT,
                       "%s: has the tensor %s_blocks but config.json has no quantization_config "
                       "of mxfp4",
                       folder->path, stack);
    }
    if (out->n_in % MQ_MXFP4_BLOCK != 0) {
        return mq_fail(MQ_E_INPUT, "%s: %s has %" PRId64 " columns, MXFP4 takes multiples of %d",
                       folder->path, stack, out->n_in, MQ_MXFP4_BLOCK);
    }
    out->form = MQ_PACKED_MXFP4;
    out->bits = 4;
    out->n_groups = blocks;
    snprintf(name, sizeof name, "%s_blocks", stack);
    MQ_TRY(mq_tensor_expect_type(folder, name, 4, codes, MQ_U8, &out->packed[MQ_STORED_CODES]));
    snprintf(name, sizeof name, "%s_scales", stack);
    return mq_tensor_expect_type(folder, name, 3, codes, MQ_U8, &out->packed[MQ_STORED_SCALES]);
}

mq_status mq_stack_expect(const mq_folder *folder, const mq_arch *arch, mq_linear_id linear,
                          int64_t block, mq_linear_source *out)
{
    char name[MQ_NAME_BYTES];
    int64_t dims[3], n_out = 0;
    mq_arch_linear_shape(arch, block, linear, &n_out, &out->n_in);
    mq_stack_shape(arch, linear, block, name, dims);
    bool packed = !mq_folder_find(folder, name) && find_blocks(folder, name);
    out->stack = mq_stack_part_of(arch, linear, packed);
    if (packed) return expect_mxfp4(folder, arch, name, out);
    return mq_tensor_expect(folder, name, 3, dims, &out->weight);
}

void mq_stored_range(const mq_linear_source *source, int which, uint64_t *begin, size_t *bytes)
{
    const mq_tensor *t = source->packed[which];
    uint64_t all = t ? t->end - t->begin : 0;
    uint64_t n = source->stack.n_experts ? (uint64_t)source->stack.n_experts : 1;
    *bytes = (size_t)(all / n);
    *begin = (uint64_t)source->stack.expert * (all / n);
}

/* ---- reading --------------------------------------------------------------------------------- */

enum { PIECE_BYTES = 4 << 20, NARROW = 8 };

/* The matrices of a stack, or the rows of its biases, one after the other. */
static mq_tensor as_matrix(const mq_tensor *t)
{
    mq_tensor matrix = *t;
    matrix.n_dims = 2;
    matrix.dim[0] = t->n_dims == 3 ? t->dim[0] * t->dim[1] : t->dim[0];
    matrix.dim[1] = t->dim[t->n_dims - 1];
    return matrix;
}

static mq_status read_stack_rows(mq_folder *folder, const mq_linear_source *source, int64_t r0,
                                 int64_t r1, mq_dtype dtype, void *dst)
{
    const mq_stack_part *p = &source->stack;
    const mq_tensor matrix = as_matrix(source->weight);
    int64_t first = p->expert * p->rows + p->first;
    size_t row = (size_t)source->n_in * mq_dtype_size(dtype);
    if (p->step == 1) {
        return mq_folder_read_rows(folder, &matrix, first + r0, first + r1, dtype, dst);
    }
    for (int64_t r = r0; r < r1; r++) {
        int64_t at = first + r * p->step;
        MQ_TRY(mq_folder_read_rows(folder, &matrix, at, at + 1, dtype,
                                   (char *)dst + (size_t)(r - r0) * row));
    }
    return MQ_OK;
}

/* Rows [r0, r1) and columns [k0, k1) of a linear in a transposed stack, to rows of ld at dst, which
 * is where row r0 and column k0 go. */
typedef struct box {
    mq_folder *folder;
    const mq_linear_source *source;
    int64_t r0, r1, k0, k1;
    mq_dtype dtype;
    int64_t ld;
    char *dst;
    int64_t c0, width; /* what is read of the rows of the file */
    char *raw;         /* some rows of that, */
    float *wide;
    char *values; /* and of type dtype */
} box;

/* n rows of the file, those of columns k and on. */
static mq_status read_piece(const box *b, int64_t k, int64_t n)
{
    const mq_tensor *t = b->source->weight;
    int64_t columns = t->dim[2], row = b->source->stack.expert * t->dim[1] + k;
    size_t size = mq_dtype_size(t->dtype);
    if (b->width == columns) {
        return mq_folder_read(b->folder, t, (uint64_t)(row * columns) * size,
                              (size_t)(n * columns) * size, b->raw);
    }
    for (int64_t i = 0; i < n; i++) {
        MQ_TRY(mq_folder_read(b->folder, t, (uint64_t)((row + i) * columns + b->c0) * size,
                              (size_t)b->width * size, b->raw + (size_t)(i * b->width) * size));
    }
    return MQ_OK;
}

static mq_status check_piece(const box *b, int64_t k, int64_t n)
{
    const mq_tensor *t = b->source->weight;
    size_t size = mq_dtype_size(b->dtype);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = b->source->stack.expert * t->dim[1] + k + i;
        MQ_TRY(mq_folder_check_finite(b->folder, t, b->dtype, row * t->dim[2] + b->c0,
                                      b->values + (size_t)(i * b->width) * size, b->width));
    }
    return MQ_OK;
}

/* Columns of the file become rows. */
static void turn_piece(const box *b, int64_t k, int64_t n)
{
    const mq_stack_part *p = &b->source->stack;
    size_t size = mq_dtype_size(b->dtype);
    for (int64_t r = b->r0; r < b->r1; r++) {
        int64_t c = p->first + p->step * r - b->c0;
        char *to = b->dst + (size_t)((r - b->r0) * b->ld + k - b->k0) * size;
        for (int64_t i = 0; i < n; i++) {
            memcpy(to + (size_t)i * size, b->values + (size_t)(i * b->width + c) * size, size);
        }
    }
}

static mq_status read_pieces(const box *b, int64_t piece)
{
    mq_dtype stored = b->source->weight->dtype;
    for (int64_t k = b->k0; k < b->k1; k += piece) {
        int64_t n = mq_min_i64(piece, b->k1 - k), count = n * b->width;
        MQ_TRY(read_piece(b, k, n));
        MQ_TRY(mq_to_f32(b->raw, stored, count, b->wide));
        MQ_TRY(mq_from_f32(b->wide, count, b->dtype, b->values));
        MQ_TRY(check_piece(b, k, n));
        turn_piece(b, k, n);
    }
    return MQ_OK;
}

static mq_status read_box(box *b)
{
    const mq_tensor *t = b->source->weight;
    const mq_stack_part *p = &b->source->stack;
    if (b->r0 >= b->r1 || b->k0 >= b->k1) return MQ_OK;
    b->c0 = p->first + p->step * b->r0;
    b->width = p->step * (b->r1 - 1 - b->r0) + 1;
    if (b->width > t->dim[2] / NARROW) {
        b->c0 = 0;
        b->width = t->dim[2];
    }
    int64_t piece = mq_max_i64(1, PIECE_BYTES / (8 * b->width));
    int64_t count = mq_min_i64(piece, b->k1 - b->k0) * b->width;
    mq_status status = mq_alloc(count, mq_dtype_size(t->dtype), "piece of a tensor", &b->raw);
    if (status == MQ_OK) status = mq_alloc(count, sizeof(float), "piece of a tensor", &b->wide);
    if (status == MQ_OK) {
        status = mq_alloc(count, mq_dtype_size(b->dtype), "piece of a tensor", &b->values);
    }
    if (status == MQ_OK) status = read_pieces(b, piece);
    mq_free(&b->raw);
    mq_free(&b->wide);
    mq_free(&b->values);
    return status;
}

mq_status mq_linear_read_rows(mq_folder *folder, const mq_linear_source *source, int64_t r0,
                              int64_t r1, mq_dtype dtype, void *dst)
{
    if (source->stack.n_experts == 0) {
        return mq_folder_read_rows(folder, source->weight, r0, r1, dtype, dst);
    }
    if (!source->stack.transposed) {
        return read_stack_rows(folder, source, r0, r1, dtype, dst);
    }
    box b = {.folder = folder,
             .source = source,
             .r0 = r0,
             .r1 = r1,
             .k1 = source->n_in,
             .dtype = dtype,
             .ld = source->n_in,
             .dst = dst};
    return read_box(&b);
}

mq_status mq_linear_read_part(mq_folder *folder, const mq_linear_source *source, int64_t n_out,
                              int rank, int size, mq_dtype dtype, void *w)
{
    int64_t begin = 0, end = 0, n_in = source->n_in;
    size_t element = mq_dtype_size(dtype);
    if (!source->stack.transposed) {
        mq_even_part(n_out, rank, size, &begin, &end);
        return mq_linear_read_rows(folder, source, begin, end, dtype,
                                   (char *)w + (size_t)(begin * n_in) * element);
    }
    mq_even_part(n_in, rank, size, &begin, &end);
    box b = {.folder = folder,
             .source = source,
             .r1 = n_out,
             .k0 = begin,
             .k1 = end,
             .dtype = dtype,
             .ld = n_in,
             .dst = (char *)w + (size_t)begin * element};
    return read_box(&b);
}

/* ---- biases ---------------------------------------------------------------------------------- */

mq_status mq_expert_bias_find(const mq_folder *folder, const mq_arch *arch, mq_linear_id linear,
                              int64_t block, mq_expert_bias *out)
{
    char module[MQ_NAME_BYTES - 8], name[MQ_NAME_BYTES], stack[MQ_NAME_BYTES];
    int64_t n_in = 0;
    *out = (mq_expert_bias){.tensor = NULL};
    mq_arch_linear_shape(arch, block, linear, &out->n_out, &n_in);
    mq_arch_linear_name(arch, linear, block, module, sizeof module);
    snprintf(name, sizeof name, "%s.bias", module);
    mq_stack_bias_name(arch, linear, block, stack);
    bool stacked = mq_folder_find(folder, stack) || stacks_are_due(arch);
    if (mq_folder_find(folder, name) || !stacked) {
        return mq_tensor_expect(folder, name, 1, &out->n_out, &out->tensor);
    }
    out->stack = mq_stack_part_of(arch, linear, true);
    const int64_t dims[2] = {out->stack.n_experts, out->stack.rows};
    return mq_tensor_expect(folder, stack, 2, dims, &out->tensor);
}

mq_status mq_expert_bias_read(mq_folder *folder, const mq_expert_bias *bias, float *out)
{
    const mq_stack_part *p = &bias->stack;
    float *row = NULL;
    if (p->n_experts == 0) {
        return mq_folder_read_rows(folder, bias->tensor, 0, bias->n_out, MQ_F32, out);
    }
    MQ_TRY(mq_alloc(p->rows, sizeof *row, "bias of an expert", &row));
    mq_status status =
        mq_folder_read_rows(folder, bias->tensor, p->expert, p->expert + 1, MQ_F32, row);
    for (int64_t r = 0; r < bias->n_out && status == MQ_OK; r++) {
        out[r] = row[p->first + p->step * r];
    }
    mq_free(&row);
    return status;
}
