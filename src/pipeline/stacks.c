#include "pipeline/stacks.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "pipeline/layout.h"

#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 320, TASK_ROWS = 16, COPY_ROWS = 1024, SCRATCH_SLOT = 0 };

/* ---- which ----------------------------------------------------------------------------------- */

bool mq_stack_begins(mq_linear_id linear)
{
    return mq_linear_expert(linear) == 0 && mq_linear_role(linear) != MQ_UP;
}

bool mq_stack_holds(mq_linear_id one, mq_linear_id linear)
{
    bool downs = mq_linear_role(one) == MQ_DOWN;
    return linear >= MQ_EXPERTS && downs == (mq_linear_role(linear) == MQ_DOWN);
}

mq_dtype mq_stack_dtype(const mq_tensor *stack)
{
    if (stack->dtype == MQ_U8) return MQ_BF16;
    return stack->dtype == MQ_F64 ? MQ_F32 : stack->dtype;
}

static mq_status split_stack(const mq_scheme *scheme, int64_t block, mq_linear_id linear)
{
    char name[MQ_NAME_BYTES];
    int64_t dims[3];
    mq_stack_shape(scheme->arch, linear, block, name, dims);
    return mq_fail(MQ_E_USAGE,
                   "--format %s: %s holds all experts of the block: quantise all of it, or skip "
                   "all of it",
                   scheme->format->name, name);
}

mq_status mq_stack_fate_of(const mq_folder *source, const mq_scheme *scheme, int64_t block,
                           mq_linear_id linear, mq_stack_fate *out)
{
    mq_linear_source found;
    int64_t all = 0, quantised = 0;
    *out = MQ_STACK_NONE;
    if (linear < MQ_EXPERTS) return MQ_OK;
    MQ_TRY(mq_linear_find(source, scheme->arch, linear, block, &found));
    if (found.stack.n_experts == 0) return MQ_OK;
    for (int l = MQ_EXPERTS; l < mq_arch_n_linears(scheme->arch); l++) {
        if (!mq_stack_holds(linear, (mq_linear_id)l)) continue;
        quantised += mq_scheme_layer(scheme, block, (mq_linear_id)l)->quantise;
        all++;
    }
    bool dense = scheme->format->form == MQ_PACKED_NONE;
    if (quantised == 0) {
        *out = found.weight ? MQ_STACK_STAYS : MQ_STACK_REWRITTEN;
    } else if (!dense) {
        *out = MQ_STACK_MODULES;
    } else if (quantised == all) {
        *out = MQ_STACK_REWRITTEN;
    } else {
        return split_stack(scheme, block, linear);
    }
    return MQ_OK;
}

/* ---- rewriting ------------------------------------------------------------------------------- */

/* Rows [f0, f1) of an expert's matrix in the file. */
typedef struct assembly {
    mq_linear_id linear; /* in hand */
    mq_stack_part part;
    int64_t n_out, n_in, columns, f0, f1;
    size_t element;
    char *buffer; /* (f1 - f0, columns) */
    mq_stack_rows rows;
    void *context;
} assembly;

static char *place(const assembly *a, int64_t f, int64_t column)
{
    return a->buffer + (size_t)((f - a->f0) * a->columns + column) * a->element;
}

static void put_row(const assembly *a, int64_t r, const char *row)
{
    int64_t at = a->part.first + a->part.step * r;
    if (!a->part.transposed) {
        if (at >= a->f0 && at < a->f1) {
            memcpy(place(a, at, 0), row, (size_t)a->n_in * a->element);
        }
        return;
    }
    for (int64_t f = a->f0; f < a->f1; f++) {
        memcpy(place(a, f, at), row + (size_t)f * a->element, a->element);
    }
}

static mq_status put_rows(void *context, int64_t task)
{
    const assembly *a = context;
    int64_t r0 = task * TASK_ROWS, r1 = mq_min_i64(r0 + TASK_ROWS, a->n_out);
    int64_t last = a->part.first + a->part.step * (r1 - 1);
    bool none = last < a->f0 || a->part.first + a->part.step * r0 >= a->f1;
    if (!a->part.transposed && none) return MQ_OK;
    size_t row = (size_t)a->n_in * a->element;
    char *rows = mq_scratch(SCRATCH_SLOT, TASK_ROWS * row);
    if (!rows) return mq_fail(MQ_E_MEMORY, "no memory for rows of an expert");
    MQ_TRY(a->rows(a->context, a->linear, r0, r1, rows));
    for (int64_t r = r0; r < r1; r++) put_row(a, r, rows + (size_t)(r - r0) * row);
    return MQ_OK;
}

/* Gate and up, or down, of the expert. */
static mq_status assemble(const mq_arch *arch, int64_t block, mq_linear_id linear, assembly *a)
{
    for (int role = MQ_GATE; role <= MQ_DOWN; role++) {
        a->linear = mq_expert_linear(mq_linear_expert(linear), (mq_linear_id)role);
        if (!mq_stack_holds(linear, a->linear)) continue;
        a->part = mq_stack_part_of(arch, a->linear, false);
        mq_arch_linear_shape(arch, block, a->linear, &a->n_out, &a->n_in);
        MQ_TRY(mq_parallel_for(mq_ceil_div(a->n_out, TASK_ROWS), put_rows, a));
    }
    return MQ_OK;
}

mq_status mq_stack_write(const mq_comm *comm, mq_writer *writer, const mq_arch *arch, int64_t block,
                         mq_linear_id linear, mq_dtype dtype, mq_stack_rows rows, void *context)
{
    char name[MQ_NAME_BYTES];
    int64_t dims[3];
    mq_stack_shape(arch, linear, block, name, dims);
    assembly a = {
        .columns = dims[2], .element = mq_dtype_size(dtype), .rows = rows, .context = context};
    mq_even_part(dims[1], comm->rank, comm->size, &a.f0, &a.f1);
    size_t row = (size_t)a.columns * a.element;
    uint64_t at = (uint64_t)(mq_linear_expert(linear) * dims[1] + a.f0) * row;
    if (a.f0 == a.f1) return MQ_OK;
    MQ_TRY(mq_alloc(a.f1 - a.f0, row, "stacked experts", &a.buffer));
    mq_status status = assemble(arch, block, linear, &a);
    if (status == MQ_OK) {
        status = mq_writer_put(writer, name, at, a.buffer, (size_t)(a.f1 - a.f0) * row);
    }
    mq_free(&a.buffer);
    return status;
}

/* ---- modules --------------------------------------------------------------------------------- */

static mq_status put_values(mq_writer *writer, const char *name, int64_t first, const float *values,
                            int64_t n, mq_dtype dtype)
{
    char *stored = NULL;
    size_t size = mq_dtype_size(dtype);
    MQ_TRY(mq_alloc(n, size, name, &stored));
    mq_status status = mq_from_f32(values, n, dtype, stored);
    if (status == MQ_OK) {
        status = mq_writer_put(writer, name, (uint64_t)first * size, stored, (size_t)n * size);
    }
    mq_free(&stored);
    return status;
}

static mq_status copy_weight(mq_folder *source, const mq_scheme *scheme, int64_t block,
                             mq_linear_id linear, mq_writer *writer)
{
    char module[NAME_BYTES - 16], name[NAME_BYTES];
    mq_linear_source found;
    int64_t n_out = 0, n_in = 0;
    float *rows = NULL;
    MQ_TRY(mq_linear_find(source, scheme->arch, linear, block, &found));
    if (!found.weight) return MQ_OK; /* written in BF16 by mq_run_write_kept */
    mq_arch_linear_shape(scheme->arch, block, linear, &n_out, &n_in);
    mq_arch_linear_name(scheme->arch, linear, block, module, sizeof module);
    mq_layout_part_name(module, "weight", name, sizeof name);
    mq_status status = mq_alloc(mq_min_i64(n_out, COPY_ROWS) * n_in, sizeof *rows, name, &rows);
    for (int64_t r = 0; r < n_out && status == MQ_OK; r += COPY_ROWS) {
        int64_t end = mq_min_i64(r + COPY_ROWS, n_out);
        status = mq_linear_read_rows(source, &found, r, end, MQ_F32, rows);
        if (status != MQ_OK) break;
        status = put_values(writer, name, r * n_in, rows, (end - r) * n_in,
                            mq_stack_dtype(found.weight));
    }
    mq_free(&rows);
    return status;
}

static mq_status copy_bias(mq_folder *source, const mq_scheme *scheme, int64_t block,
                           mq_linear_id linear, mq_writer *writer)
{
    char module[NAME_BYTES - 16], name[NAME_BYTES];
    mq_expert_bias bias;
    float *values = NULL;
    MQ_TRY(mq_expert_bias_find(source, scheme->arch, linear, block, &bias));
    mq_arch_linear_name(scheme->arch, linear, block, module, sizeof module);
    mq_layout_part_name(module, "bias", name, sizeof name);
    MQ_TRY(mq_alloc(bias.n_out, sizeof *values, name, &values));
    mq_status status = mq_expert_bias_read(source, &bias, values);
    if (status == MQ_OK) {
        status = put_values(writer, name, 0, values, bias.n_out, mq_stack_dtype(bias.tensor));
    }
    mq_free(&values);
    return status;
}

/* What stays as it was of a linear that becomes a module. */
static mq_status copy_linear(mq_folder *source, const mq_scheme *scheme, int64_t block,
                             mq_linear_id linear, mq_writer *writer)
{
    bool packed = mq_scheme_layer(scheme, block, linear)->quantise;
    if (!packed) MQ_TRY(copy_weight(source, scheme, block, linear, writer));
    if (packed && scheme->format->half_biases) return MQ_OK;
    if (!mq_arch_has_bias(scheme->arch, block, linear)) return MQ_OK;
    return copy_bias(source, scheme, block, linear, writer);
}

mq_status mq_stacks_copy(const mq_comm *comm, mq_folder *source, const mq_scheme *scheme,
                         mq_writer *writer)
{
    const mq_arch *arch = scheme->arch;
    mq_stack_fate fate[2] = {MQ_STACK_NONE, MQ_STACK_NONE}; /* of gates and ups, and of downs */
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        for (int l = MQ_EXPERTS; l < mq_arch_n_linears(arch) && arch->block[b].routed; l++) {
            mq_linear_id linear = (mq_linear_id)l;
            mq_stack_fate *of = &fate[mq_linear_role(linear) == MQ_DOWN];
            if (mq_stack_begins(linear)) {
                MQ_TRY(mq_stack_fate_of(source, scheme, b, linear, of));
            }
            if (*of != MQ_STACK_MODULES || l % comm->size != comm->rank) continue;
            MQ_TRY(copy_linear(source, scheme, b, linear, writer));
        }
    }
    return MQ_OK;
}
