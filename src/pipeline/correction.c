#include "pipeline/correction.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "ops/gemm.h"

/* B of every block goes into its e, columns in processing order, divided by the mean of the
 * diagonal, so that nothing leaves f32. */
typedef struct fill_job {
    const mq_cross *cross;
    mq_row_work *work;
    double factor;
    const double *alpha; /* by linear */
    float *panel;        /* (n, nk): rows and columns of C in processing order */
    int64_t k0, nk;
} fill_job;

/* Rows [128 i, 128 (i + 1)) of the panel. */
static mq_status gather_task(void *context, int64_t i)
{
    const fill_job *job = context;
    const mq_tap_system *s = job->work->system;
    int64_t end = mq_min_i64((i + 1) * MQ_ROW_BLOCK, s->n);
    for (int64_t r = i * MQ_ROW_BLOCK; r < end; r++) {
        const double *from = job->cross->sum + s->order[r] * s->n;
        double factor = job->factor * s->scale[s->order[r]];
        for (int64_t k = 0; k < job->nk; k++) {
            int64_t j = s->order[job->k0 + k];
            job->panel[r * job->nk + k] = (float)(from[j] * s->scale[j] * factor);
        }
    }
    return MQ_OK;
}

static mq_status multiply_task(void *context, int64_t i)
{
    const fill_job *job = context;
    const mq_row_block *b = &job->work->block[i];
    int64_t n = job->work->system->n;
    const mq_gemm_shape shape = {.m = MQ_ROW_BLOCK,
                                 .n = job->nk,
                                 .k = n,
                                 .lda = n,
                                 .ldb = job->nk,
                                 .ldc = n,
                                 .in = MQ_F32,
                                 .out = MQ_F32};
    return mq_gemm(&shape, b->w, job->panel, b->e + job->k0);
}

/* B = W C: the drift is that of the inputs. */
static mq_status fill_from_inputs(fill_job *job)
{
    int64_t n = job->work->system->n;
    mq_status status =
        mq_alloc(n, MQ_SOLVE_PANEL * sizeof *job->panel, "panel of a cross sum", &job->panel);
    for (job->k0 = 0; job->k0 < n && status == MQ_OK; job->k0 += MQ_SOLVE_PANEL) {
        job->nk = mq_min_i64(MQ_SOLVE_PANEL, n - job->k0);
        status = mq_parallel_for(mq_ceil_div(n, MQ_ROW_BLOCK), gather_task, job);
        if (status == MQ_OK) status = mq_parallel_for(job->work->n_blocks, multiply_task, job);
    }
    mq_free(&job->panel);
    return status;
}

/* B = C: the drift is that of the outputs, a row of C for each row of the layer. */
static mq_status copy_task(void *context, int64_t i)
{
    const fill_job *job = context;
    const mq_row_work *work = job->work;
    const mq_tap_system *s = work->system;
    int64_t rows = mq_min_i64(MQ_ROW_BLOCK, work->layer[i]->n_out - work->first_row[i]);
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
        const double *from = job->cross->sum + (work->first_row[i] + r) * s->n;
        float *to = work->block[i].e + r * s->n;
        for (int64_t k = 0; k < s->n; k++) {
            int64_t j = s->order[k];
            to[k] = r < rows ? (float)(from[j] * s->scale[j] * job->factor) : 0;
        }
    }
    return MQ_OK;
}

static mq_status weaken_task(void *context, int64_t i)
{
    const fill_job *job = context;
    float alpha = (float)job->alpha[mq_linear_role(job->work->layer[i]->linear)];
    float *e = job->work->block[i].e;
    for (int64_t k = 0; k < MQ_ROW_BLOCK * job->work->system->n; k++) e[k] *= alpha;
    return MQ_OK;
}

mq_status mq_correct_tap(const mq_run *run, mq_tap_id tap, const mq_cross *cross, mq_row_work *work)
{
    const mq_tap_system *s = work->system;
    const double *r = s->r;
    double *pivot = NULL;
    mq_linear_id linear;
    mq_status status = mq_alloc(s->n, sizeof *pivot, "pivots", &pivot);
    for (int64_t j = 0; j < s->n && status == MQ_OK; j++) pivot[j] = r[j] * r[j] / s->mean;
    fill_job job = {.cross = cross, .work = work, .factor = 1 / s->mean, .alpha = run->alpha};
    if (status == MQ_OK && mq_tap_writes_residual(tap, &linear)) {
        status = mq_parallel_for(work->n_blocks, copy_task, &job);
    } else if (status == MQ_OK) {
        status = fill_from_inputs(&job);
    }
    if (status == MQ_OK) status = mq_parallel_for(work->n_blocks, weaken_task, &job);
    status = mq_agree(run->comm, status);
    if (status == MQ_OK) {
        status = mq_agree(run->comm, mq_correct_rows(work->block, work->n_blocks, s->n, pivot,
                                                     mq_tap_system_panel, work->system));
    }
    mq_free(&pivot);
    return status;
}
