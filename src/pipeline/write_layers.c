/* From codes to the next weights and to bytes in the output. */
#include "pipeline/run.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "pipeline/stacks.h"
#include "store/writer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

enum { SCRATCH_SLOT = 0 };

typedef struct replace_job {
    const mq_tap_result *result;
    const mq_tap_layer *layer;
    mq_block_weights *weights;
    int64_t first, last;
} replace_job;

static mq_status replace_row_block(void *context, int64_t i)
{
    const replace_job *job = context;
    const mq_tap_layer *layer = job->layer;
    int64_t n = job->result->n_in, n_groups = layer->n_groups, r0 = job->first + i * MQ_ROW_BLOCK;
    int64_t r1 = mq_min_i64(r0 + MQ_ROW_BLOCK, job->last);
    size_t element = mq_dtype_size(job->weights->dtype);
    float *row = mq_scratch(SCRATCH_SLOT, (size_t)n * sizeof *row);
    if (!row) return MQ_E_MEMORY;
    for (int64_t r = r0; r < r1; r++) {
        char *dst = (char *)job->weights->w[layer->linear] + (size_t)(r * n) * element;
        mq_dequantise_row(layer->codes + r * n, layer->scales + r * n_groups,
                          layer->zeros ? layer->zeros + r * n_groups : NULL, n, &layer->quant, row);
        mq_tap_result_unscale(job->result, row);
        MQ_TRY(mq_from_f32(row, n, job->weights->dtype, dst));
    }
    return MQ_OK;
}

mq_status mq_run_replace_weights(mq_run *run)
{
    mq_status status = MQ_OK;
    const mq_comm *comm = run->comm;
    for (int l = 0; l < run->result->n_layers && status == MQ_OK; l++) {
        replace_job job = {run->result, &run->result->layer[l], run->stream[MQ_QUANTISED].weights,
                           0, 0};
        /* The ranks of a node share the rows between them. */
        job.first = job.layer->n_out * comm->node_rank / comm->node_size;
        job.last = job.layer->n_out * (comm->node_rank + 1) / comm->node_size;
        status = mq_parallel_for(mq_ceil_div(job.last - job.first, MQ_ROW_BLOCK), replace_row_block,
                                 &job);
    }
    status = mq_agree(comm, status);
    if (status == MQ_OK) status = mq_share_fence(comm, run->stream[MQ_QUANTISED].weights->share);
    mq_timing_lap(&run->timing, MQ_T_PACK);
    return status;
}

/* Rows [r0, r1) of a part of a layer. */
typedef struct pack_job {
    const mq_format *format;
    const mq_layer_codes *layer;
    int index;
    const mq_part *part;
    int64_t r0, r1;
    size_t row_bytes;
    char *data;
} pack_job;

static mq_status pack_rows(void *context, int64_t i)
{
    const pack_job *job = context;
    int64_t r0 = job->r0 + i * job->part->step, r1 = mq_min_i64(r0 + job->part->step, job->r1);
    return job->format->pack(job->layer, job->index, r0, r1,
                             job->data + (size_t)(r0 - job->r0) * job->row_bytes);
}

static mq_status write_rows(mq_run *run, const char *module, pack_job *job)
{
    char name[320];
    int64_t rows = job->r1 - job->r0;
    MQ_TRY(mq_alloc(rows, job->row_bytes, "packed layer", &job->data));
    mq_status status = mq_parallel_for(mq_ceil_div(rows, job->part->step), pack_rows, job);
    mq_timing_lap(&run->timing, MQ_T_PACK);
    mq_layout_part_name(module, job->part->suffix, name, sizeof name);
    if (status == MQ_OK) {
        status = mq_writer_put(run->writer, name, (uint64_t)job->r0 * job->row_bytes, job->data,
                               (size_t)rows * job->row_bytes);
    }
    mq_free(&job->data);
    mq_timing_lap(&run->timing, MQ_T_WRITE);
    return status;
}

/* Rank r packs and writes the r-th part of the rows, a contiguous range of the file; what is packed
 * at once goes to `owner`. */
static mq_status write_part(mq_run *run, const char *module, int owner, pack_job *job)
{
    const mq_part *part = job->part;
    int64_t rank = run->comm->rank, size = run->comm->size, per_row = 0;
    int64_t rows = part->dim[0], steps = mq_ceil_div(rows, part->step);
    MQ_TRY(mq_mul_i64(part->n_dims > 1 ? part->dim[1] : 1, (int64_t)mq_dtype_size(part->dtype),
                      &per_row));
    job->row_bytes = (size_t)per_row;
    job->r0 = mq_min_i64(steps * rank / size * part->step, rows);
    job->r1 = mq_min_i64(steps * (rank + 1) / size * part->step, rows);
    if (steps == 1) {
        job->r0 = 0;
        job->r1 = rank == owner ? rows : 0;
    }
    return job->r0 < job->r1 ? write_rows(run, module, job) : MQ_OK;
}

static mq_status write_half_bias(mq_run *run, const mq_tap_layer *layer, const char *module)
{
    uint16_t *half = NULL;
    char name[320];
    const float *bias = mq_block_bias(run->stream[MQ_QUANTISED].weights, layer->linear);
    if (!bias) return MQ_OK;
    MQ_TRY(mq_alloc(layer->n_out, sizeof *half, "bias", &half));
    mq_status status = mq_from_f32(bias, layer->n_out, MQ_F16, half);
    for (int64_t i = 0; i < layer->n_out && status == MQ_OK; i++) {
        if (fabsf(bias[i]) > 65504) {
            status = mq_fail(MQ_E_NUMERIC, "%s.bias[%" PRId64 "] = %g does not fit F16", module, i,
                             (double)bias[i]);
        }
    }
    mq_layout_part_name(module, "bias", name, sizeof name);
    if (status == MQ_OK) {
        status = mq_writer_put(run->writer, name, 0, half, (size_t)layer->n_out * sizeof *half);
    }
    mq_free(&half);
    return status;
}

static mq_layer_codes codes_of(const mq_run *run, int64_t block, const mq_tap_layer *layer)
{
    return (mq_layer_codes){.shape = mq_scheme_shape(run->scheme, block, layer->linear),
                            .codes = layer->codes,
                            .scales = layer->scales,
                            .zeros = layer->zeros,
                            .largest = layer->largest,
                            .column_scale = run->result->scaled ? run->result->column_scale : NULL};
}

/* The small tensors of a layer go to one rank, another one for the next layer. */
static mq_status write_layer(mq_run *run, int64_t block, const mq_tap_layer *layer)
{
    char module[256];
    mq_part part[MQ_MAX_PARTS];
    const mq_format *format = run->scheme->format;
    int owner = (int)((block * mq_arch_n_linears(run->arch) + layer->linear) % run->comm->size);
    mq_layer_codes codes = codes_of(run, block, layer);
    mq_arch_linear_name(run->arch, layer->linear, block, module, sizeof module);
    int n = format->parts(&codes.shape, part);
    for (int p = 0; p < n; p++) {
        pack_job job = {.format = format, .layer = &codes, .index = p, .part = &part[p]};
        MQ_TRY(write_part(run, module, owner, &job));
    }
    if (!format->half_biases || owner != run->comm->rank) return MQ_OK;
    return write_half_bias(run, layer, module);
}

typedef struct stack_job {
    const mq_run *run;
    int64_t block;
} stack_job;

static mq_status stack_rows(void *context, mq_linear_id linear, int64_t r0, int64_t r1, void *out)
{
    const stack_job *job = context;
    const mq_tap_result *result = job->run->result;
    int l = 0;
    while (result->layer[l].linear != linear) l++;
    const mq_layer_codes codes = codes_of(job->run, job->block, &result->layer[l]);
    return job->run->scheme->format->pack(&codes, 0, r0, r1, out);
}

/* An expert's layers in a tensor that stays one for all experts: all that the tap has. */
static mq_status write_stack(mq_run *run, int64_t block)
{
    stack_job job = {run, block};
    mq_linear_id first = run->result->layer[0].linear;
    mq_dtype dtype = mq_scheme_layer(run->scheme, block, first)->dtype;
    mq_status status =
        mq_stack_write(run->comm, run->writer, run->arch, block, first, dtype, stack_rows, &job);
    mq_timing_lap(&run->timing, MQ_T_WRITE);
    return status;
}

static mq_status write_tap(mq_run *run, int64_t block)
{
    mq_stack_fate fate = MQ_STACK_NONE;
    if (run->result->n_layers == 0) return MQ_OK;
    MQ_TRY(mq_stack_fate_of(run->source, run->scheme, block, run->result->layer[0].linear, &fate));
    if (fate == MQ_STACK_REWRITTEN) return write_stack(run, block);
    for (int l = 0; l < run->result->n_layers; l++) {
        MQ_TRY(write_layer(run, block, &run->result->layer[l]));
    }
    return MQ_OK;
}

mq_status mq_run_write_layers(mq_run *run, int64_t block)
{
    mq_status status = write_tap(run, block);
    status = mq_agree(run->comm, status);
    mq_timing_lap(&run->timing, MQ_T_WRITE);
    return status;
}
