/* Cross-validated alpha: the share of the correction for earlier errors (drift.c) that serves
 * samples which the correction was not computed from.
 *
 * On a few rows of the tap, Z is the whole correction as one half of the samples asks for it. With
 * T and H the sums over the other half, a share a of Z lowers the loss there by
 *     2 a (Z . T) - a^2 (Z H . Z),
 * so that a = Z . T / Z H . Z is best, signal over signal and noise. The noise of what all samples
 * ask for is that of the half times its share of the tokens. */
#include "pipeline/sampled_drift.h"
#include "pipeline/tap_system.h"

#include "base/memory.h"
#include "solve/quadratic.h"

#include <math.h>

typedef struct trial {
    const mq_hessian *h, *half;
    mq_tap_system system; /* of the half */
    const mq_sampled_drift *drift;
    double *pivot; /* (n) */
    float *z, *e;  /* (MQ_ROW_BLOCK, n): the correction, columns in processing order, and scratch */
    double z_h_z[MQ_ROW_BLOCK]; /* by row, on the other half */
} trial;

static mq_status allocate(const mq_run *run, trial *t)
{
    int64_t n = t->half->n;
    MQ_TRY(mq_tap_system_create(run, t->half, &t->system));
    MQ_TRY(mq_alloc(n, sizeof *t->pivot, "pivots", &t->pivot));
    MQ_TRY(mq_alloc(n, MQ_ROW_BLOCK * sizeof *t->z, "correction of sampled rows", &t->z));
    return mq_alloc(n, MQ_ROW_BLOCK * sizeof *t->e, "correction of sampled rows", &t->e);
}

static void free_trial(trial *t)
{
    mq_tap_system_destroy(&t->system);
    mq_free(&t->pivot);
    mq_free(&t->z);
    mq_free(&t->e);
}

/* The correction from the factored half. Collective. */
static mq_status correct(const mq_run *run, trial *t)
{
    mq_tap_system *s = &t->system;
    const double *r = mq_factor_diagonal(s->factor);
    mq_row_block block = {.w = t->z, .e = t->e};
    for (int64_t j = 0; j < s->n; j++) t->pivot[j] = r[j] * r[j] / s->mean;
    for (int64_t i = 0; i < t->drift->n_rows; i++) {
        const double *from = t->drift->half->sum + i * s->n;
        for (int64_t k = 0; k < s->n; k++)
            t->e[i * s->n + k] = (float)(from[s->order[k]] / s->mean);
    }
    return mq_agree(run->comm, mq_correct_rows(&block, 1, s->n, t->pivot, mq_tap_system_panel, s));
}

/* The other half, in the order in which the first is processed. */
static mq_status held_out_entries(void *context, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
                                  double *out)
{
    const trial *t = context;
    return mq_tap_system_others(&t->system, t->h, i0, i1, j0, j1, out);
}

/* Of all samples' correction, by the tokens of both halves. */
static double share(const trial *t, int layer, double part)
{
    double pull = 0, drag = 0;
    for (int64_t i = 0; i < t->drift->n_rows; i++) {
        const float *z = t->z + i * t->system.n;
        const double *other = t->drift->held_out->sum + i * t->system.n;
        if (t->drift->layer[i] != layer) continue;
        for (int64_t k = 0; k < t->system.n; k++) pull += (double)z[k] * other[t->system.order[k]];
        drag += t->z_h_z[i];
    }
    if (!(drag > 0)) return NAN;
    double a = pull / drag;
    return a > 0 ? fmin(a / (a + part * (1 - a)), 1) : 0;
}

static void take(mq_run *run, const trial *t)
{
    double part = (double)t->half->n_tokens / (double)t->h->n_tokens;
    for (int l = 0; l < run->result->n_layers; l++) {
        double alpha = share(t, l, part);
        if (!isnan(alpha)) run->alpha[mq_linear_role(run->result->layer[l].linear)] = alpha;
    }
}

static mq_status measure(mq_run *run, mq_damping damping, trial *t)
{
    int64_t minor = 0;
    mq_status status = mq_agree(run->comm, allocate(run, t));
    if (status != MQ_OK) return status;
    status = mq_tap_system_try(run, run->comm, damping, 0, &t->system, &minor);
    if (status == MQ_E_NOT_PD) return MQ_OK;
    if (status == MQ_OK) status = correct(run, t);
    if (status != MQ_OK) return status;
    const float *z = t->z;
    status = mq_agree(run->comm, mq_quadratic_rows(&z, 1, t->system.n, t->system.mean,
                                                   held_out_entries, t, t->z_h_z));
    if (status == MQ_OK) take(run, t);
    return status;
}

mq_status mq_run_alpha_drift(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *half,
                             const mq_hessian *h, mq_sampled_drift *out)
{
    *out = (mq_sampled_drift){.n_rows = 0};
    if (!run->solver.measure_alpha || !half) return MQ_OK;
    if (half->n_tokens == 0 || half->n_tokens == h->n_tokens) return MQ_OK;
    mq_status status = mq_sampled_drift_create(run, block, tap, h, out);
    mq_timing_lap(&run->timing, MQ_T_HESSIAN);
    if (status == MQ_E_NUMERIC) return MQ_OK; /* for mq_run_cross to tell */
    if (status != MQ_OK) mq_fail_in(status, "%s", mq_tap_place(block, tap).text);
    return status;
}

mq_status mq_run_alpha_from(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *half,
                            const mq_hessian *h, mq_damping damping, const mq_sampled_drift *drift)
{
    trial t = {.h = h, .half = half, .drift = drift};
    if (!drift->half || drift->half->is_zero) return MQ_OK;
    mq_status status = measure(run, damping, &t);
    free_trial(&t);
    mq_timing_lap(&run->timing, MQ_T_DAMPING);
    if (status != MQ_OK) mq_fail_in(status, "%s", mq_tap_place(block, tap).text);
    return status;
}

mq_status mq_run_alpha(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *half,
                       const mq_hessian *h, mq_damping damping)
{
    mq_sampled_drift drift;
    mq_status status = mq_run_alpha_drift(run, block, tap, half, h, &drift);
    if (status == MQ_OK) status = mq_run_alpha_from(run, block, tap, half, h, damping, &drift);
    mq_sampled_drift_free(&drift);
    return status;
}
