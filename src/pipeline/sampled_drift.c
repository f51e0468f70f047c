#include "pipeline/sampled_drift.h"

#include "base/memory.h"
#include "ops/gemm.h"

#include <string.h>

enum { STRIDE = 4 };

void mq_sampled_drift_free(mq_sampled_drift *drift)
{
    mq_cross_destroy(&drift->first);
    mq_cross_destroy(&drift->held_out);
}

/* ---- the drift of the rows' outputs ---------------------------------------------------------- */

static void choose_rows(const mq_sampled_rows *rows, const mq_tap_system *system,
                        mq_sampled_drift *out)
{
    for (int b = 0; b < rows->n_blocks; b++) {
        for (int64_t r = 0; r < rows->n_rows[b]; r += STRIDE) {
            out->layer[out->n_rows] = rows->layer[b][r];
            out->row[out->n_rows] = rows->row[b][r];
            out->w[out->n_rows++] = rows->block[b].w + r * system->n;
        }
    }
}

/* For a tap whose layer writes to the residual stream: the rows' columns of the drift. */
static void pick_columns(const mq_run *run, const mq_sampled_drift *rows, int64_t u, char *out)
{
    const char *drift = mq_activations_unit(&run->drift, run->calib, u);
    size_t size = mq_dtype_size(run->drift.dtype);
    for (int64_t t = 0; t < run->calib->unit[u].n_tokens; t++) {
        for (int64_t r = 0; r < rows->n_rows; r++) {
            memcpy(out + (size_t)(t * rows->n_rows + r) * size,
                   drift + (size_t)(t * run->drift.width + rows->row[r]) * size, size);
        }
    }
}

/* The rows with their columns in original order, as the forward has weights. */
static mq_status original_rows(const mq_sampled_drift *rows, const mq_tap_system *system,
                               mq_dtype dtype, char **out)
{
    int64_t n = system->n;
    size_t bytes = (size_t)n * mq_dtype_size(dtype);
    float *row = NULL;
    mq_status status = mq_alloc(rows->n_rows, bytes, "sampled rows", out);
    if (status == MQ_OK) status = mq_alloc(n, sizeof *row, "a sampled row", &row);
    for (int64_t r = 0; r < rows->n_rows && status == MQ_OK; r++) {
        for (int64_t k = 0; k < n; k++) row[system->order[k]] = rows->w[r][k];
        status = mq_from_f32(row, n, dtype, *out + (size_t)r * bytes);
    }
    mq_free(&row);
    return status;
}

static mq_status output_drifts(const mq_run *run, mq_tap_id tap, const mq_sampled_drift *rows,
                               const mq_tap_system *system, const mq_activations *out)
{
    char *w = NULL;
    mq_linear_id linear;
    mq_dtype dtype = run->drift.dtype;
    mq_status status = MQ_OK;
    bool writes = mq_tap_writes_residual(tap, &linear);
    if (!writes) status = original_rows(rows, system, dtype, &w);
    for (int64_t u = 0; u < run->calib->n_local_units && status == MQ_OK; u++) {
        char *to = mq_activations_unit(out, run->calib, u);
        if (writes) {
            pick_columns(run, rows, u, to);
            continue;
        }
        status =
            mq_linear(mq_activations_unit(&run->drift, run->calib, u), run->calib->unit[u].n_tokens,
                      system->n, w, rows->n_rows, NULL, to, rows->n_rows, dtype);
    }
    mq_free(&w);
    return status;
}

/* ---- their sums ------------------------------------------------------------------------------ */

static mq_status create(const mq_run *run, mq_tap_id tap, const mq_tap_system *system,
                        mq_activations *a, double **largest, mq_sampled_drift *out)
{
    int64_t m = out->n_rows;
    MQ_TRY(mq_activations_create(run->calib, m, run->drift.dtype, "drift of sampled rows", a));
    MQ_TRY(mq_alloc(m, sizeof **largest, "column bounds", largest));
    MQ_TRY(mq_cross_create(m, system->n, &out->first));
    MQ_TRY(mq_cross_create(m, system->n, &out->held_out));
    MQ_TRY(output_drifts(run, tap, out, system, a));
    return mq_activations_bounds(a, run->calib, *largest);
}

static mq_status add_units(const mq_run *run, mq_tap_id tap, const mq_activations *a,
                           const mq_sampled_drift *out)
{
    const mq_activations *x = &run->stream[MQ_QUANTISED].tap[tap];
    size_t a_bytes = (size_t)a->width * mq_dtype_size(a->dtype);
    size_t x_bytes = (size_t)x->width * mq_dtype_size(x->dtype);
    for (int64_t u = 0; u < run->calib->n_local_units; u++) {
        const mq_unit *unit = &run->calib->unit[u];
        const char *a_rows = mq_activations_unit(a, run->calib, u);
        const char *x_rows = mq_activations_unit(x, run->calib, u);
        int64_t cut = mq_unit_half(unit);
        MQ_TRY(mq_cross_add(out->first, a_rows, x_rows, x->dtype, cut));
        MQ_TRY(mq_cross_add(out->held_out, a_rows + (size_t)cut * a_bytes,
                            x_rows + (size_t)cut * x_bytes, x->dtype, unit->n_tokens - cut));
    }
    return MQ_OK;
}

static mq_status sum_up(mq_run *run, mq_tap_id tap, const mq_hessian *h, const mq_activations *a,
                        const double *largest, const mq_sampled_drift *out)
{
    const mq_comm *comm = run->comm;
    MQ_TRY(mq_cross_set_grid(out->first, comm, largest, h->exponent, run->calib->n_units));
    MQ_TRY(mq_cross_set_grid(out->held_out, comm, largest, h->exponent, run->calib->n_units));
    MQ_TRY(mq_agree(comm, add_units(run, tap, a, out)));
    MQ_TRY(mq_cross_reduce(out->first, comm));
    return mq_cross_reduce(out->held_out, comm);
}

mq_status mq_sampled_drift_create(mq_run *run, mq_tap_id tap, const mq_sampled_rows *rows,
                                  const mq_tap_system *system, const mq_hessian *h,
                                  mq_sampled_drift *out)
{
    mq_activations a = {0};
    double *largest = NULL;
    *out = (mq_sampled_drift){0};
    choose_rows(rows, system, out);
    mq_status status = mq_agree(run->comm, create(run, tap, system, &a, &largest, out));
    if (status == MQ_OK) status = sum_up(run, tap, h, &a, largest, out);
    if (status != MQ_OK) mq_sampled_drift_free(out);
    mq_activations_free(&a);
    mq_free(&largest);
    return status;
}

/* ---- the correction -------------------------------------------------------------------------- */

/* Columns in processing order, in units of the mean diagonal; zeros past the rows. */
static void take_rows(const mq_cross *sum, const mq_tap_system *s, float *out)
{
    memset(out, 0, (size_t)(MQ_ROW_BLOCK * s->n) * sizeof *out);
    for (int64_t r = 0; r < sum->m; r++) {
        const double *from = sum->sum + r * s->n;
        for (int64_t k = 0; k < s->n; k++) {
            out[r * s->n + k] = (float)(from[s->order[k]] / s->mean);
        }
    }
}

static void add_pull(const mq_sampled_drift *drift, const mq_tap_system *s, const float *z,
                     double *pull)
{
    for (int64_t r = 0; r < drift->n_rows; r++) {
        const double *t = drift->held_out->sum + r * s->n;
        double sum = 0;
        for (int64_t k = 0; k < s->n; k++) sum += (double)z[r * s->n + k] * t[s->order[k]];
        pull[drift->layer[r]] += sum;
    }
}

mq_status mq_sampled_drift_correction(const mq_sampled_drift *drift, mq_tap_system *s,
                                      float *scratch, float *z, double *pull)
{
    const double *r = mq_factor_diagonal(s->factor);
    mq_row_block block = {.w = z, .e = scratch};
    double *pivot = NULL;
    MQ_TRY(mq_alloc(s->n, sizeof *pivot, "pivots", &pivot));
    for (int64_t j = 0; j < s->n; j++) pivot[j] = r[j] * r[j] / s->mean;
    memset(z, 0, (size_t)(MQ_ROW_BLOCK * s->n) * sizeof *z);
    take_rows(drift->first, s, scratch);
    mq_status status = mq_correct_rows(&block, 1, s->n, pivot, mq_tap_system_panel, s);
    if (status == MQ_OK) add_pull(drift, s, z, pull);
    mq_free(&pivot);
    return status;
}
