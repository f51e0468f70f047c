#include "pipeline/tap_system.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/parallel.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

const char *mq_trouble_name(mq_trouble trouble)
{
    static const char *const names[] = {[MQ_TROUBLE_NONE] = "none",
                                        [MQ_TROUBLE_RANK] = "rank_deficient",
                                        [MQ_TROUBLE_NUMERICAL] = "indefinite",
                                        [MQ_TROUBLE_NOT_FINITE] = "not_finite"};
    return names[trouble];
}

void mq_tap_system_destroy(mq_tap_system *s)
{
    mq_factor_destroy(&s->factor);
    mq_free(&s->order);
    mq_free(&s->original);
    mq_free(&s->scale);
    mq_free(&s->r);
    mq_free(&s->diagonal);
    mq_free(&s->added);
    mq_free(&s->panel);
    mq_free(&s->rows);
}

mq_status mq_tap_system_create(const mq_run *run, const mq_hessian *h, mq_tap_system *s)
{
    s->h = h;
    s->n = h->n;
    s->damping = (mq_damping){.share = NAN, .shrinkage = NAN};
    MQ_TRY(mq_alloc(s->n, sizeof *s->order, "column order", &s->order));
    MQ_TRY(mq_alloc(s->n, sizeof *s->original, "column order", &s->original));
    MQ_TRY(mq_alloc(s->n, sizeof *s->scale, "scales of columns", &s->scale));
    MQ_TRY(mq_alloc(s->n, sizeof *s->r, "diagonal", &s->r));
    MQ_TRY(mq_alloc(s->n, sizeof *s->diagonal, "diagonal", &s->diagonal));
    MQ_TRY(mq_alloc(s->n, sizeof *s->added, "diagonal", &s->added));
    MQ_TRY(mq_alloc(s->n, MQ_FACTOR_PANEL * sizeof *s->panel, "panel of the factor", &s->panel));
    MQ_TRY(mq_alloc(s->n, MQ_FACTOR_PANEL * sizeof *s->rows, "rows of a Hessian", &s->rows));
    for (int64_t j = 0; j < s->n; j++) {
        s->original[j] = j;
        s->scale[j] = 1;
    }
    mq_hessian_diagonal(h, s->diagonal);
    MQ_TRY(mq_order_columns_by(run->solver.order, s->diagonal, s->n,
                               run->result->layer[0].quant.group, s->order));
    memcpy(s->added, s->diagonal, (size_t)s->n * sizeof *s->added);
    s->n_dead = mq_revive_dead(s->added, s->n);
    for (int64_t j = 0; j < s->n; j++) s->mean += s->added[j] / (double)s->n;
    return MQ_OK;
}

/* lambda = share * mean for every column. Shrinkage makes all off-diagonal entries smaller by that
 * share; here the diagonal grows instead, which is the same but for a factor of the whole. */
static void set_damping(mq_tap_system *s, mq_damping damping)
{
    for (int64_t j = 0; j < s->n; j++) {
        double own = s->diagonal[j] != 0 ? s->diagonal[j] : s->mean;
        s->added[j] = own / (1 - damping.shrinkage) + damping.share * s->mean - s->diagonal[j];
    }
}

/* Of the ordered, damped matrix, as the factorisation asks for them. */
static mq_status damped_entries(void *context, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
                                double *out)
{
    const mq_tap_system *s = context;
    const int64_t *order = s->order;
    MQ_TRY(mq_hessian_entries(s->h, order + i0, i1 - i0, order + j0, j1 - j0, out));
    for (int64_t i = mq_max_i64(i0, j0); i < mq_min_i64(i1, j1); i++) {
        out[(i - i0) * (j1 - j0) + (i - j0)] += s->added[order[i]];
    }
    return MQ_OK;
}

mq_status mq_tap_system_others(const mq_tap_system *s, const mq_hessian *all, int64_t i0,
                               int64_t i1, int64_t j0, int64_t j1, double *out)
{
    const int64_t *order = s->order;
    double *own = s->rows;
    MQ_TRY(mq_hessian_entries(all, order + i0, i1 - i0, order + j0, j1 - j0, out));
    MQ_TRY(mq_hessian_entries(s->h, order + i0, i1 - i0, order + j0, j1 - j0, own));
    for (int64_t e = 0; e < (i1 - i0) * (j1 - j0); e++) out[e] -= own[e];
    return MQ_OK;
}

void mq_tap_system_scale(mq_tap_system *s, const float *column_scale)
{
    s->scaled = column_scale != NULL;
    for (int64_t k = 0; k < s->n; k++) {
        int64_t j = s->order[k];
        double scale = column_scale ? (double)column_scale[j] : 1, change = scale / s->scale[j];
        s->scale[j] = scale;
        s->r[k] *= change;
        s->diagonal[j] *= change * change;
        s->added[j] *= change * change;
    }
}

void mq_tap_system_gather(const mq_tap_system *s, const float *row, float *to)
{
    for (int64_t k = 0; k < s->n; k++) {
        int64_t j = s->order[k];
        to[k] = (float)((double)row[j] / s->scale[j]);
    }
}

typedef struct rows_job {
    const mq_tap_system *system;
    float *out;
} rows_job;

static mq_status narrow_task(void *context, int64_t k)
{
    const rows_job *job = context;
    const mq_tap_system *s = job->system;
    double factor = 1 / s->mean;
    for (int64_t j = k * s->n; j < (k + 1) * s->n; j++) job->out[j] = (float)(s->rows[j] * factor);
    return MQ_OK;
}

mq_status mq_tap_system_rows(mq_tap_system *s, int64_t k0, int64_t k1, float *out)
{
    rows_job job = {.system = s, .out = out};
    const int64_t *columns = s->original;
    MQ_TRY(mq_hessian_entries(s->h, columns + k0, k1 - k0, columns, s->n, s->rows));
    return mq_parallel_for(k1 - k0, narrow_task, &job);
}

/* Live columns outnumber the tokens. */
static bool deficient(const mq_tap_system *s)
{
    return mq_hessian_rank_bound(s->h) < s->n - s->n_dead;
}

static void warn_not_definite(int64_t block, mq_tap_id tap, const mq_tap_system *s, double share,
                              int64_t minor)
{
    if (s->trouble == MQ_TROUBLE_RANK) {
        mq_warn("%s: the Hessian is rank-deficient (%" PRId64 " tokens for %" PRId64
                " columns) and damping %g does not make it positive "
                "definite: trying more",
                mq_tap_place(block, tap).text, s->h->n_tokens, s->n - s->n_dead, share);
        return;
    }
    mq_warn("%s: the Hessian is numerically indefinite at damping %g (leading "
            "minor %" PRId64 " of %" PRId64
            "): tokens repeat, or input columns are sums of others; "
            "trying more",
            mq_tap_place(block, tap).text, share, minor, s->n);
}

/* A sum of squares plus its mean diagonal is positive definite in f64 whatever its condition, for
 * any width that can be factored (docs/how-it-works.md): no floor could do more. */
static mq_status give_up(const mq_run *run, const mq_tap_system *s)
{
    if (run->solver.go_on) return MQ_OK;
    return mq_fail(MQ_E_NUMERIC,
                   "the Hessian (%" PRId64 " tokens, %" PRId64 " columns) is not positive definite "
                   "at any damping up to its mean diagonal; --on-failure rtn rounds the layers to "
                   "nearest instead",
                   s->h->n_tokens, s->n);
}

mq_status mq_tap_system_try(const mq_run *run, const mq_comm *comm, mq_damping damping, int root,
                            mq_tap_system *s, int64_t *minor)
{
    bool distributed = s->n > run->options->distribute_above;
    set_damping(s, damping);
    MQ_TRY(mq_factor_create(comm, s->n, distributed, root, damped_entries, s, &s->factor, minor));
    memcpy(s->r, mq_factor_diagonal(s->factor), (size_t)s->n * sizeof *s->r);
    s->damping = damping;
    return MQ_OK;
}

mq_status mq_tap_system_factor(const mq_run *run, int64_t block, mq_tap_id tap, mq_damping damping,
                               mq_tap_system *s)
{
    /* The rank that factors alone changes with the tap, so that no rank does all of it. */
    int root = (int)((block * MQ_N_TAPS + tap) % run->comm->size);
    s->trouble = deficient(s) ? MQ_TROUBLE_RANK : MQ_TROUBLE_NONE;
    if (s->h->n_tokens == 0) { /* every sample was left out */
        s->trouble = MQ_TROUBLE_NOT_FINITE;
        return MQ_OK;
    }
    for (;; s->attempts++) {
        int64_t minor = 0;
        mq_damping more = {.share = mq_damping_factor(damping.share, s->attempts),
                           .shrinkage = damping.shrinkage};
        if (more.share < 0) return give_up(run, s);
        mq_status status = mq_tap_system_try(run, run->comm, more, root, s, &minor);
        if (status != MQ_E_NOT_PD) return status;
        if (s->trouble == MQ_TROUBLE_NONE) s->trouble = MQ_TROUBLE_NUMERICAL;
        warn_not_definite(block, tap, s, more.share, minor);
    }
}

/* M_ik s_i / s_k. */
static void scale_panel(const mq_tap_system *s, int64_t k0, int64_t k1)
{
    for (int64_t i = 0; i < k1; i++) {
        float *row = s->panel + i * (k1 - k0), scale = (float)s->scale[s->order[i]];
        for (int64_t k = k0; k < k1; k++) row[k - k0] *= scale / (float)s->scale[s->order[k]];
    }
}

mq_status mq_tap_system_panel(void *context, int64_t k0, int64_t k1, const float **m)
{
    mq_tap_system *s = context;
    *m = s->panel;
    MQ_TRY(mq_factor_panel(s->factor, k0, k1, s->panel));
    if (s->scaled) scale_panel(s, k0, k1);
    return MQ_OK;
}
