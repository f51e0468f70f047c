#include "pipeline/sampled_drift.h"

#include "pipeline/experts.h"

#include "base/checked.h"
#include "base/memory.h"
#include "ops/gemm.h"
#include "pipeline/row_work.h"

#include <string.h>

void mq_sampled_drift_free(mq_sampled_drift *drift)
{
    mq_cross_destroy(&drift->half);
    mq_cross_destroy(&drift->held_out);
}

/* ---- the drift of the rows' outputs ---------------------------------------------------------- */

static void choose_rows(const mq_tap_result *result, mq_sampled_drift *out)
{
    for (int l = 0; l < result->n_layers; l++) {
        int64_t n_out = result->layer[l].n_out;
        int64_t some = mq_min_i64(MQ_DRIFT_ROWS / result->n_layers, n_out);
        for (int64_t i = 0; i < some; i++) {
            out->layer[out->n_rows] = l;
            out->row[out->n_rows++] = i * n_out / some;
        }
    }
}

/* For a tap whose layer writes to the residual stream: the rows' columns of the drift. */
static void pick_columns(const mq_run *run, const mq_calib *units, const mq_sampled_drift *rows,
                         int64_t u, char *out)
{
    const char *drift = mq_activations_unit(&run->drift, units, u);
    size_t size = mq_dtype_size(run->drift.dtype);
    for (int64_t t = 0; t < units->unit[u].n_tokens; t++) {
        for (int64_t r = 0; r < rows->n_rows; r++) {
            memcpy(out + (size_t)(t * rows->n_rows + r) * size,
                   drift + (size_t)(t * run->drift.width + rows->row[r]) * size, size);
        }
    }
}

/* The rows as the forward has weights. */
static mq_status read_rows(const mq_run *run, int64_t block, const mq_sampled_drift *rows,
                           char **out)
{
    int64_t n = run->result->n_in;
    mq_dtype dtype = run->drift.dtype;
    size_t bytes = (size_t)n * mq_dtype_size(dtype);
    float *row = NULL;
    mq_status status = mq_alloc(rows->n_rows, bytes, "sampled rows", out);
    if (status == MQ_OK) status = mq_alloc(n, sizeof *row, "a sampled row", &row);
    for (int64_t r = 0; r < rows->n_rows && status == MQ_OK; r++) {
        const mq_tap_layer *layer = &run->result->layer[rows->layer[r]];
        int64_t at = rows->row[r];
        status = mq_run_read_rows(run, block, layer, at, at + 1, row);
        if (status == MQ_OK) status = mq_from_f32(row, n, dtype, *out + (size_t)r * bytes);
    }
    mq_free(&row);
    return status;
}

static mq_status output_drifts(const mq_run *run, int64_t block, mq_tap_id tap,
                               const mq_sampled_drift *rows, const mq_activations *out)
{
    char *w = NULL;
    mq_linear_id linear;
    mq_status status = MQ_OK;
    const mq_calib *units = mq_run_units(run, tap);
    bool writes = mq_tap_writes_residual(tap, &linear);
    if (!writes) status = read_rows(run, block, rows, &w);
    for (int64_t u = 0; u < units->n_local_units && status == MQ_OK; u++) {
        char *to = mq_activations_unit(out, units, u);
        if (writes) {
            pick_columns(run, units, rows, u, to);
            continue;
        }
        status = mq_linear(mq_activations_unit(&run->drift, units, u), units->unit[u].n_tokens,
                           run->result->n_in, w, rows->n_rows, NULL, to, rows->n_rows, out->dtype);
    }
    mq_free(&w);
    return status;
}

/* ---- their sums ------------------------------------------------------------------------------ */

static mq_status create(const mq_run *run, int64_t block, mq_tap_id tap, mq_activations *a,
                        double **largest, mq_sampled_drift *out)
{
    int64_t m = out->n_rows, n = run->result->n_in;
    const mq_calib *units = mq_run_units(run, tap);
    MQ_TRY(mq_activations_create(units, m, run->drift.dtype, "drift of sampled rows", a));
    MQ_TRY(mq_alloc(m, sizeof **largest, "column bounds", largest));
    MQ_TRY(mq_cross_create(m, n, &out->half));
    MQ_TRY(mq_cross_create(m, n, &out->held_out));
    MQ_TRY(output_drifts(run, block, tap, out, a));
    return mq_activations_bounds(a, units, *largest);
}

static mq_status add_units(const mq_run *run, mq_tap_id tap, const mq_activations *a,
                           const mq_sampled_drift *out)
{
    const mq_activations *x = &run->stream[MQ_QUANTISED].tap[mq_tap_kind(tap)];
    const mq_calib *units = mq_run_units(run, tap);
    size_t a_bytes = (size_t)a->width * mq_dtype_size(a->dtype);
    size_t x_bytes = (size_t)x->width * mq_dtype_size(x->dtype);
    for (int64_t u = 0; u < units->n_local_units; u++) {
        const mq_unit *unit = &units->unit[u];
        const char *a_rows = mq_activations_unit(a, units, u);
        const char *x_rows = mq_activations_unit(x, units, u);
        int64_t cut = mq_unit_half(unit);
        MQ_TRY(mq_cross_add(out->half, a_rows, x_rows, x->dtype, cut));
        MQ_TRY(mq_cross_add(out->held_out, a_rows + (size_t)cut * a_bytes,
                            x_rows + (size_t)cut * x_bytes, x->dtype, unit->n_tokens - cut));
    }
    return MQ_OK;
}

static mq_status sum_up(mq_run *run, mq_tap_id tap, const mq_hessian *h, const mq_activations *a,
                        const double *largest, const mq_sampled_drift *out)
{
    const mq_comm *comm = run->comm;
    MQ_TRY(mq_cross_set_grid(out->half, comm, largest, h->exponent, run->calib->n_units));
    MQ_TRY(mq_cross_set_grid(out->held_out, comm, largest, h->exponent, run->calib->n_units));
    MQ_TRY(mq_agree(comm, add_units(run, tap, a, out)));
    MQ_TRY(mq_cross_reduce(out->half, comm));
    return mq_cross_reduce(out->held_out, comm);
}

mq_status mq_sampled_drift_create(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *h,
                                  mq_sampled_drift *out)
{
    mq_activations a = {0};
    double *largest = NULL;
    *out = (mq_sampled_drift){0};
    choose_rows(run->result, out);
    mq_status status = mq_agree(run->comm, create(run, block, tap, &a, &largest, out));
    if (status == MQ_OK) status = sum_up(run, tap, h, &a, largest, out);
    if (status != MQ_OK) mq_sampled_drift_free(out);
    mq_activations_free(&a);
    mq_free(&largest);
    return status;
}
