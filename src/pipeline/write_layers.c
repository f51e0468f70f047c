/* From codes to the next weights and to bytes in the output. */
#include "pipeline/run.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "format/gptq.h"
#include "store/writer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

enum { SCRATCH_SLOT = 0, PACK_ROWS = 48 /* a multiple of 3 words */ };

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

typedef struct pack_job {
    const mq_tap_layer *layer;
    int64_t n_in, r0, r1; /* word rows of qweight */
    uint32_t *words;
} pack_job;

static mq_status pack_rows(void *context, int64_t i)
{
    const pack_job *job = context;
    int64_t r0 = job->r0 + i * PACK_ROWS, r1 = mq_min_i64(r0 + PACK_ROWS, job->r1);
    mq_gptq_pack_qweight(job->layer->codes, job->layer->n_out, job->n_in, job->layer->quant.bits,
                         r0, r1, job->words + (r0 - job->r0) * job->layer->n_out);
    return MQ_OK;
}

/* Rank r packs and writes the r-th part of the word rows, a contiguous range of the file. */
static mq_status write_qweight(mq_run *run, const mq_tap_layer *layer, const char *module)
{
    char name[320];
    int64_t rows = mq_gptq_words(run->result->n_in, layer->quant.bits);
    int64_t steps = mq_ceil_div(rows, PACK_ROWS), count = 0;
    pack_job job = {.layer = layer, .n_in = run->result->n_in};
    job.r0 = mq_min_i64(steps * run->comm->rank / run->comm->size * PACK_ROWS, rows);
    job.r1 = mq_min_i64(steps * (run->comm->rank + 1) / run->comm->size * PACK_ROWS, rows);
    if (job.r0 == job.r1) return MQ_OK;
    mq_layout_part_name(module, MQ_PART_QWEIGHT, name, sizeof name);
    MQ_TRY(mq_mul_i64(job.r1 - job.r0, layer->n_out, &count));
    MQ_TRY(mq_alloc(count, sizeof *job.words, "packed codes", &job.words));
    mq_status status = mq_parallel_for(mq_ceil_div(job.r1 - job.r0, PACK_ROWS), pack_rows, &job);
    mq_timing_lap(&run->timing, MQ_T_PACK);
    uint64_t row_bytes = (uint64_t)layer->n_out * sizeof *job.words;
    if (status == MQ_OK) {
        status = mq_writer_put(run->writer, name, (uint64_t)job.r0 * row_bytes, job.words,
                               (size_t)count * sizeof *job.words);
    }
    mq_free(&job.words);
    mq_timing_lap(&run->timing, MQ_T_WRITE);
    return status;
}

static mq_status put_part(mq_run *run, const char *module, mq_gptq_part part, const void *data,
                          size_t bytes)
{
    char name[320];
    mq_layout_part_name(module, part, name, sizeof name);
    return mq_writer_put(run->writer, name, 0, data, bytes);
}

static mq_status write_zeros(mq_run *run, const mq_tap_layer *layer, const char *module)
{
    uint32_t *words = NULL;
    int64_t count = 0;
    MQ_TRY(mq_mul_i64(layer->n_groups, mq_gptq_words(layer->n_out, layer->quant.bits), &count));
    MQ_TRY(mq_alloc(count, sizeof *words, "zero points", &words));
    if (layer->zeros) {
        mq_gptq_pack_zero_points(layer->zeros, layer->n_out, layer->n_groups, layer->quant.bits,
                                 words);
    } else {
        mq_gptq_pack_zeros(layer->n_groups, layer->n_out, layer->quant.bits,
                           1 << (layer->quant.bits - 1), words);
    }
    mq_status status = put_part(run, module, MQ_PART_QZEROS, words, (size_t)count * sizeof *words);
    mq_free(&words);
    return status;
}

static mq_status write_scales(mq_run *run, const mq_tap_layer *layer, const char *module)
{
    uint16_t *half = NULL;
    int64_t count = 0;
    MQ_TRY(mq_mul_i64(layer->n_groups, layer->n_out, &count));
    MQ_TRY(mq_alloc(count, sizeof *half, "scales", &half));
    mq_gptq_pack_scales(layer->scales, layer->n_out, layer->n_groups, half);
    mq_status status = put_part(run, module, MQ_PART_SCALES, half, (size_t)count * sizeof *half);
    mq_free(&half);
    return status;
}

static mq_status write_g_idx(mq_run *run, const mq_tap_layer *layer, const char *module)
{
    int32_t *g_idx = NULL;
    int64_t n = run->result->n_in;
    MQ_TRY(mq_alloc(n, sizeof *g_idx, "g_idx", &g_idx));
    mq_gptq_g_idx(n, layer->quant.group, g_idx);
    mq_status status = put_part(run, module, MQ_PART_G_IDX, g_idx, (size_t)n * sizeof *g_idx);
    mq_free(&g_idx);
    return status;
}

static mq_status write_bias(mq_run *run, const mq_tap_layer *layer, const char *module)
{
    uint16_t *half = NULL;
    if (layer->linear == MQ_HEAD || !run->arch->has_bias[layer->linear]) return MQ_OK;
    const float *bias = run->stream[MQ_QUANTISED].weights->bias[layer->linear];
    MQ_TRY(mq_alloc(layer->n_out, sizeof *half, "bias", &half));
    mq_status status = mq_from_f32(bias, layer->n_out, MQ_F16, half);
    for (int64_t i = 0; i < layer->n_out && status == MQ_OK; i++) {
        if (fabsf(bias[i]) > 65504) {
            status = mq_fail(MQ_E_NUMERIC, "%s.bias[%" PRId64 "] = %g does not fit F16", module, i,
                             (double)bias[i]);
        }
    }
    if (status == MQ_OK) {
        status = put_part(run, module, MQ_PART_BIAS, half, (size_t)layer->n_out * sizeof *half);
    }
    mq_free(&half);
    return status;
}

/* The small tensors of a layer go to one rank, another one for the next layer. */
static mq_status write_layer(mq_run *run, int64_t block, const mq_tap_layer *layer)
{
    char module[256];
    mq_arch_linear_name(run->arch, layer->linear, block, module, sizeof module);
    MQ_TRY(write_qweight(run, layer, module));
    if ((block * MQ_N_LINEARS + layer->linear) % run->comm->size != run->comm->rank) return MQ_OK;
    MQ_TRY(write_zeros(run, layer, module));
    MQ_TRY(write_scales(run, layer, module));
    MQ_TRY(write_g_idx(run, layer, module));
    return write_bias(run, layer, module);
}

mq_status mq_run_write_layers(mq_run *run, int64_t block)
{
    mq_status status = MQ_OK;
    for (int l = 0; l < run->result->n_layers && status == MQ_OK; l++) {
        status = write_layer(run, block, &run->result->layer[l]);
    }
    status = mq_agree(run->comm, status);
    mq_timing_lap(&run->timing, MQ_T_WRITE);
    return status;
}
