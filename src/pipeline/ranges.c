/* How far the weights of every group reach, for scales that the rows of a layer share in part. The
 * original rows are what is looked at: they are known before the damping is tried on a sample of
 * them, and the correction for earlier layers (correction.c) changes the largest of them little. */
#include "pipeline/row_work.h"

#include "base/checked.h"
#include "base/memory.h"
#include "par/collectives.h"

/* This rank's row blocks of a layer; rows (128, n) is storage. */
static mq_status widen_layer(const mq_run *run, int64_t block, const mq_tap_layer *layer,
                             const double *diagonal, float *rows)
{
    const mq_comm *comm = run->comm;
    int64_t n = run->result->n_in;
    for (int64_t b = comm->rank; b < layer->n_row_blocks; b += comm->size) {
        int64_t r0 = b * MQ_ROW_BLOCK, r1 = mq_min_i64(r0 + MQ_ROW_BLOCK, layer->n_out);
        MQ_TRY(mq_run_read_rows(run, block, layer, r0, r1, rows));
        mq_widen_ranges(rows, r1 - r0, n, diagonal, layer->quant.group, layer->range);
    }
    return MQ_OK;
}

static mq_status widen(const mq_run *run, int64_t block, const mq_hessian *h)
{
    const mq_tap_result *result = run->result;
    double *diagonal = NULL;
    float *rows = NULL;
    mq_status status = mq_alloc(h->n, sizeof *diagonal, "diagonal", &diagonal);
    if (status == MQ_OK) status = mq_alloc(h->n, MQ_ROW_BLOCK * sizeof *rows, "rows of W", &rows);
    if (status == MQ_OK) mq_hessian_diagonal(h, diagonal);
    for (int l = 0; l < result->n_layers && status == MQ_OK; l++) {
        status = widen_layer(run, block, &result->layer[l], diagonal, rows);
    }
    mq_free(&diagonal);
    mq_free(&rows);
    return status;
}

mq_status mq_run_find_ranges(mq_run *run, int64_t block, const mq_hessian *h)
{
    mq_tap_result *result = run->result;
    if (run->scheme->format->scales != MQ_SCALES_SQUARES) return MQ_OK;
    MQ_TRY(mq_agree(run->comm, widen(run, block, h)));
    MQ_TRY(mq_max_f64(run->comm, result->range, result->n_groups));
    for (int l = 0; l < result->n_layers; l++) {
        mq_tap_layer_set_bits(&result->layer[l], result->layer[l].quant.bits);
    }
    mq_timing_lap(&run->timing, MQ_T_SCALES);
    return MQ_OK;
}
