#include "pipeline/kept.h"

#include "base/memory.h"
#include "format/gguf.h"
#include "pipeline/stacks.h"
#include "store/writer.h"

#include <stdio.h>
#include <string.h>

/* True for a layer that is packed in the source and stays; of a stack that is rewritten, for the
 * first of its layers, which stands for all. */
static mq_status is_kept(const mq_run *run, int64_t block, mq_linear_id linear, bool *kept)
{
    const mq_arch *arch = run->arch;
    mq_linear_source source;
    *kept = false;
    if (mq_scheme_layer(run->scheme, block, linear)->quantise) return MQ_OK;
    if (linear == MQ_HEAD && !mq_layout_has_head(run->source, run->scheme)) return MQ_OK;
    MQ_TRY(mq_linear_find(run->source, arch, linear, block, &source));
    if (source.weight) return MQ_OK;
    mq_stack_fate fate = MQ_STACK_NONE;
    MQ_TRY(mq_stack_fate_of(run->source, run->scheme, block, linear, &fate));
    *kept = fate != MQ_STACK_REWRITTEN || mq_stack_begins(linear);
    return MQ_OK;
}

/* In the order that GGUF wants them in. */
static mq_status put_turned(mq_run *run, const char *name, uint64_t begin, const char *rows,
                            int64_t n, size_t row_bytes, int64_t head_rows)
{
    char *turned = NULL;
    MQ_TRY(mq_alloc(n, row_bytes, "rows of a kept layer", &turned));
    mq_gguf_turn_rows(rows, n, row_bytes, head_rows, turned);
    mq_status status = mq_writer_put(run->writer, name, begin, turned, (size_t)n * row_bytes);
    mq_free(&turned);
    return status;
}

/* This rank's part of the rows of w (n_out, n_in) BF16. */
static mq_status write_rows(mq_run *run, int64_t block, mq_linear_id linear, const void *w)
{
    char module[256], name[320];
    int64_t begin = 0, end = 0;
    mq_layer_shape shape = mq_scheme_shape(run->scheme, block, linear);
    int64_t unit = shape.head_rows ? shape.head_rows : 1;
    mq_arch_linear_name(run->arch, linear, block, module, sizeof module);
    mq_layout_part_name(module, "weight", name, sizeof name);
    mq_even_part(shape.n_out / unit, run->comm->rank, run->comm->size, &begin, &end);
    size_t row = (size_t)shape.n_in * mq_dtype_size(MQ_BF16);
    const char *rows = (const char *)w + (size_t)(begin * unit) * row;
    int64_t n = (end - begin) * unit;
    uint64_t at = (uint64_t)(begin * unit) * row;
    if (n == 0) return MQ_OK;
    if (shape.head_rows) return put_turned(run, name, at, rows, n, row, shape.head_rows);
    return mq_writer_put(run->writer, name, at, rows, (size_t)n * row);
}

static mq_status stack_rows(void *context, mq_linear_id linear, int64_t r0, int64_t r1, void *out)
{
    const mq_block_weights *w = context;
    int64_t n_out = 0, n_in = 0;
    mq_arch_linear_shape(w->arch, w->block, linear, &n_out, &n_in);
    size_t row = (size_t)n_in * mq_dtype_size(MQ_BF16);
    memcpy(out, (const char *)w->w[linear] + (size_t)r0 * row, (size_t)(r1 - r0) * row);
    return MQ_OK;
}

/* All experts of the stack that a layer is the first of. */
static mq_status write_stack(mq_run *run, int64_t block, mq_linear_id first)
{
    mq_block_weights *w = run->stream[MQ_QUANTISED].weights;
    for (int64_t e = 0; e < run->arch->moe.routing.n_experts; e++) {
        mq_linear_id linear = mq_expert_linear(e, mq_linear_role(first));
        MQ_TRY(mq_stack_write(run->comm, run->writer, run->arch, block, linear, MQ_BF16, stack_rows,
                              w));
    }
    return MQ_OK;
}

static mq_status write_layer(mq_run *run, int64_t block, mq_linear_id linear)
{
    mq_stack_fate fate = MQ_STACK_NONE;
    MQ_TRY(mq_stack_fate_of(run->source, run->scheme, block, linear, &fate));
    if (fate == MQ_STACK_REWRITTEN) return write_stack(run, block, linear);
    return write_rows(run, block, linear, run->stream[MQ_QUANTISED].weights->w[linear]);
}

/* The block's kept layers, or none of them. */
static mq_status list_kept(const mq_run *run, int64_t block, mq_linear_id **kept, int *n)
{
    int all = mq_arch_n_linears(run->arch);
    MQ_TRY(mq_alloc(all, sizeof **kept, "kept layers", kept));
    for (int l = 0; l < all; l++) {
        bool is = false;
        if (!mq_arch_has(run->arch, block, (mq_linear_id)l)) continue;
        MQ_TRY(is_kept(run, block, (mq_linear_id)l, &is));
        if (is) (*kept)[(*n)++] = (mq_linear_id)l;
    }
    return MQ_OK;
}

static mq_status write_layers(mq_run *run, int64_t block, const mq_linear_id *kept, int n)
{
    mq_block_weights *weights = run->stream[MQ_QUANTISED].weights;
    if (n == 0) return MQ_OK;
    MQ_TRY(mq_block_weights_read(run->comm, run->source, block, weights));
    mq_status status = MQ_OK;
    for (int i = 0; i < n && status == MQ_OK; i++) {
        status = write_layer(run, block, kept[i]);
    }
    return mq_agree(run->comm, status);
}

static mq_status write_block(mq_run *run, int64_t block)
{
    mq_linear_id *kept = NULL;
    int n = 0;
    mq_status status = mq_agree(run->comm, list_kept(run, block, &kept, &n));
    if (status == MQ_OK) status = write_layers(run, block, kept, n);
    mq_free(&kept);
    return status;
}

static mq_status write_head(mq_run *run)
{
    bool kept = false;
    mq_outer_weights *outer = NULL;
    MQ_TRY(mq_agree(run->comm, is_kept(run, 0, MQ_HEAD, &kept)));
    if (!kept) return MQ_OK;
    MQ_TRY(
        mq_outer_weights_read(run->comm, run->source, run->arch, MQ_BF16, MQ_OUTER_HEAD, &outer));
    mq_status status = mq_agree(run->comm, write_rows(run, 0, MQ_HEAD, outer->head));
    mq_outer_weights_destroy(&outer);
    return status;
}

mq_status mq_run_write_kept(mq_run *run)
{
    if (run->arch->packed == MQ_PACKED_NONE) return MQ_OK;
    for (int64_t b = 0; b < run->arch->n_blocks; b++) MQ_TRY(write_block(run, b));
    mq_status status = write_head(run);
    mq_timing_lap(&run->timing, MQ_T_WRITE);
    return status;
}
