#include "pipeline/kept.h"

#include "model/tensors.h"
#include "store/writer.h"

#include <stdio.h>

/* True for a layer that is packed in the source and stays. */
static mq_status is_kept(const mq_run *run, int64_t block, mq_linear_id linear, bool *kept)
{
    const mq_arch *arch = run->arch;
    mq_linear_source source;
    *kept = false;
    if (mq_scheme_layer(run->scheme, block, linear)->quantise) return MQ_OK;
    if (linear == MQ_HEAD && arch->tied && !mq_folder_find(run->source, arch->head)) return MQ_OK;
    MQ_TRY(mq_linear_find(run->source, arch, linear, block, &source));
    *kept = source.weight == NULL;
    return MQ_OK;
}

/* This rank's part of the rows of w (n_out, n_in) BF16. */
static mq_status write_rows(mq_run *run, int64_t block, mq_linear_id linear, const void *w)
{
    char module[256], name[320];
    int64_t n_out = 0, n_in = 0, begin = 0, end = 0;
    mq_arch_linear_name(run->arch, linear, block, module, sizeof module);
    mq_arch_linear_shape(run->arch, linear, &n_out, &n_in);
    mq_layout_part_name(module, "weight", name, sizeof name);
    mq_even_part(n_out, run->comm->rank, run->comm->size, &begin, &end);
    size_t row = (size_t)n_in * mq_dtype_size(MQ_BF16);
    if (begin == end) return MQ_OK;
    return mq_writer_put(run->writer, name, (uint64_t)begin * row,
                         (const char *)w + (size_t)begin * row, (size_t)(end - begin) * row);
}

/* The block's kept layers, or none of them. */
static mq_status list_kept(const mq_run *run, int64_t block, mq_linear_id *kept, int *n)
{
    *n = 0;
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        bool is = false;
        MQ_TRY(is_kept(run, block, (mq_linear_id)l, &is));
        if (is) kept[(*n)++] = (mq_linear_id)l;
    }
    return MQ_OK;
}

static mq_status write_block(mq_run *run, int64_t block)
{
    mq_linear_id kept[MQ_N_LINEARS];
    mq_block_weights *weights = run->stream[MQ_QUANTISED].weights;
    int n = 0;
    MQ_TRY(mq_agree(run->comm, list_kept(run, block, kept, &n)));
    if (n == 0) return MQ_OK;
    MQ_TRY(mq_block_weights_read(run->comm, run->source, block, weights));
    mq_status status = MQ_OK;
    for (int i = 0; i < n && status == MQ_OK; i++) {
        status = write_rows(run, block, kept[i], weights->w[kept[i]]);
    }
    return mq_agree(run->comm, status);
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
