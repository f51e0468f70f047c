#include "solve/quadratic.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "ops/gemm.h"

#include <string.h>

/* x H x^T = sum over k of x_k (H_kk x_k + 2 sum over j < k of x_j H_jk): the upper triangle with
 * its off-diagonal entries doubled, a panel of 128 columns at a time. */

enum { PANEL = MQ_SOLVE_PANEL, ROWS = MQ_ROW_BLOCK };

typedef struct fill_job {
    mq_entry_source source;
    void *context;
    double unit;
    int64_t k0, k1;
    float *panel; /* (k1, k1 - k0) */
} fill_job;

/* Rows [128 i, 128 (i + 1)) of the panel. */
static mq_status fill_task(void *context, int64_t i)
{
    const fill_job *job = context;
    int64_t nk = job->k1 - job->k0, end = mq_min_i64((i + 1) * ROWS, job->k1);
    for (int64_t r = i * ROWS; r < end; r++) {
        double entry[PANEL];
        float *to = job->panel + r * nk;
        int64_t first = mq_max_i64(job->k0, r);
        memset(to, 0, (size_t)nk * sizeof *to);
        job->source(job->context, r, first, job->k1, entry);
        for (int64_t k = first; k < job->k1; k++) {
            to[k - job->k0] = (float)((k == r ? 1 : 2) * entry[k - first] / job->unit);
        }
    }
    return MQ_OK;
}

static mq_status add_panel(const float *x, int64_t n, fill_job *job, float *y, double *loss)
{
    int64_t nk = job->k1 - job->k0;
    const mq_gemm_shape shape = {.m = ROWS,
                                 .n = nk,
                                 .k = job->k1,
                                 .lda = n,
                                 .ldb = nk,
                                 .ldc = nk,
                                 .in = MQ_F32,
                                 .out = MQ_F32};
    MQ_TRY(mq_parallel_for(mq_ceil_div(job->k1, ROWS), fill_task, job));
    MQ_TRY(mq_gemm(&shape, x, job->panel, y));
    for (int64_t r = 0; r < ROWS; r++) {
        for (int64_t k = 0; k < nk; k++) {
            loss[r] += (double)y[r * nk + k] * (double)x[r * n + job->k0 + k] * job->unit;
        }
    }
    return MQ_OK;
}

mq_status mq_quadratic_rows(const float *x, int64_t n, double unit, mq_entry_source source,
                            void *context, double *loss)
{
    fill_job job = {.source = source, .context = context, .unit = unit};
    float *y = NULL;
    memset(loss, 0, ROWS * sizeof *loss);
    mq_status status = mq_alloc(n, PANEL * sizeof *job.panel, "panel of a Hessian", &job.panel);
    if (status == MQ_OK) status = mq_alloc(ROWS, PANEL * sizeof *y, "panel of losses", &y);
    for (job.k0 = 0; job.k0 < n && status == MQ_OK; job.k0 = job.k1) {
        job.k1 = mq_min_i64(job.k0 + PANEL, n);
        status = add_panel(x, n, &job, y, loss);
    }
    mq_free(&y);
    mq_free(&job.panel);
    return status;
}
