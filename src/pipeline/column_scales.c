#include "pipeline/column_scales.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "model/tensors.h"
#include "par/collectives.h"
#include "pipeline/gguf_copy.h"
#include "solve/columns.h"

/* Columns of all layers of a tap, cut into tasks; each sum runs over the rows in order. */
typedef struct energy_job {
    const mq_run *run;
    int64_t begin, end; /* this rank's columns */
    double *w2;         /* (n) */
} energy_job;

enum { TASK_COLUMNS = 128 };

static void add_layer(const energy_job *job, const mq_tap_layer *layer, int64_t j0, int64_t j1)
{
    int64_t n = job->run->result->n_in;
    const uint16_t *w = job->run->stream[MQ_QUANTISED].weights->w[layer->linear];
    for (int64_t r = 0; r < layer->n_out; r++) {
        for (int64_t j = j0; j < j1; j++) {
            double x = (double)mq_bf16_to_f32(w[r * n + j]);
            job->w2[j] += x * x;
        }
    }
}

static mq_status energy_task(void *context, int64_t i)
{
    const energy_job *job = context;
    int64_t j0 = job->begin + i * TASK_COLUMNS, j1 = mq_min_i64(j0 + TASK_COLUMNS, job->end);
    for (int64_t j = j0; j < j1; j++) job->w2[j] = 0;
    for (int l = 0; l < job->run->result->n_layers; l++) {
        add_layer(job, &job->run->result->layer[l], j0, j1);
    }
    return MQ_OK;
}

mq_status mq_column_energies(const mq_run *run, double *w2)
{
    int64_t n = run->result->n_in;
    energy_job job = {.run = run, .w2 = w2};
    for (int64_t j = 0; j < n; j++) w2[j] = 0;
    mq_even_part(n, run->comm->rank, run->comm->size, &job.begin, &job.end);
    mq_status status =
        mq_parallel_for(mq_ceil_div(job.end - job.begin, TASK_COLUMNS), energy_task, &job);
    status = mq_agree(run->comm, status);
    return status == MQ_OK ? mq_sum_f64(run->comm, w2, n) : status; /* the others hold 0 */
}

/* Whether a weight of the norm can be multiplied by s without losing a digit. */
static bool takes(float weight, float s, mq_dtype dtype)
{
    uint64_t stored = 0;
    float back = 0, product = weight * s;
    bool done = mq_from_f32(&product, 1, dtype, &stored) == MQ_OK &&
                mq_to_f32(&stored, dtype, 1, &back) == MQ_OK;
    return done && back == product && product / s == weight;
}

/* The norm that makes a tap. */
static const float *norm_of(const mq_block_weights *weights, mq_tap_id tap)
{
    if (tap == MQ_TAP_ATTN_IN) return weights->attn_norm;
    if (tap == MQ_TAP_Q_LORA) return weights->q_lora_norm;
    return tap == MQ_TAP_KV_LORA ? weights->kv_lora_norm : weights->mlp_norm;
}

void mq_choose_column_scales(const mq_run *run, mq_tap_id tap, const mq_tap_system *s, double *w2,
                             float *scale)
{
    const mq_block_weights *weights = run->stream[MQ_QUANTISED].weights;
    const float *norm = norm_of(weights, tap);
    mq_dtype dtype = mq_scaled_norm(run->source, run->scheme, weights->block, tap)->dtype;
    mq_column_scales(s->n, run->result->layer[0].quant.group, s->order, s->diagonal, s->r, w2,
                     scale);
    for (int64_t j = 0; j < s->n; j++) {
        if (!takes(norm[j], scale[j], dtype)) scale[j] = 1;
    }
}

mq_status mq_scale_columns(mq_run *run, mq_tap_id tap, mq_tap_system *s)
{
    double *w2 = NULL;
    mq_status status = mq_agree(run->comm, mq_alloc(s->n, sizeof *w2, "sums of columns", &w2));
    if (status == MQ_OK) status = mq_column_energies(run, w2);
    if (status == MQ_OK) {
        mq_choose_column_scales(run, tap, s, w2, run->result->column_scale);
        mq_tap_system_scale(s, run->result->column_scale);
        run->result->scaled = true;
    }
    mq_free(&w2);
    return status;
}

/* w (n) f32 is storage. */
static mq_status write_norm(mq_run *run, const mq_tensor *norm, mq_dtype dtype, float *w)
{
    int64_t n = norm->dim[0];
    void *stored = NULL;
    MQ_TRY(mq_folder_read_rows(run->source, norm, 0, n, MQ_F32, w));
    mq_tap_result_unscale(run->result, w);
    MQ_TRY(mq_alloc(n, mq_dtype_size(dtype), "a norm", &stored));
    mq_status status = mq_from_f32(w, n, dtype, stored);
    if (status == MQ_OK) {
        status =
            mq_writer_put(run->writer, norm->name, 0, stored, (size_t)n * mq_dtype_size(dtype));
    }
    mq_free(&stored);
    return status;
}

/* The type that the output has it in. */
static mq_dtype stored_type(const mq_run *run, const mq_tensor *norm)
{
    mq_gguf_place place;
    bool gguf = run->scheme->format->gguf && mq_gguf_find_place(run->arch, norm->name, &place);
    return gguf ? mq_gguf_copied_type(&place, norm) : norm->dtype;
}

mq_status mq_run_write_norm(mq_run *run, int64_t block, mq_tap_id tap)
{
    float *w = NULL;
    int owner = (int)((block * MQ_N_TAPS + tap) % run->comm->size);
    const mq_tensor *norm = mq_scaled_norm(run->source, run->scheme, block, tap);
    mq_status status = MQ_OK;
    if (!norm || run->scheme->format->columns != MQ_COLUMNS_IN_NORMS) return MQ_OK;
    if (owner == run->comm->rank) {
        status = mq_alloc(norm->dim[0], sizeof *w, "a norm", &w);
        if (status == MQ_OK) status = write_norm(run, norm, stored_type(run, norm), w);
        mq_free(&w);
    }
    status = mq_agree(run->comm, status);
    mq_timing_lap(&run->timing, MQ_T_WRITE);
    return status;
}
