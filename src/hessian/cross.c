#include "hessian/cross.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "hessian/grid.h"
#include "ops/gemm.h"
#include "ops/ops.h"
#include "par/collectives.h"

#include <math.h>
#include <string.h>

enum { PANEL = 512, SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1 };

mq_status mq_cross_bytes(int64_t m, int64_t n, size_t *bytes)
{
    int64_t count = 0;
    MQ_TRY(mq_mul_i64(m, n, &count));
    return mq_mul_size((size_t)count, sizeof(double), bytes);
}

mq_status mq_cross_create(int64_t m, int64_t n, mq_cross **out)
{
    int64_t count = 0;
    mq_cross *c = NULL;
    *out = NULL;
    MQ_TRY(mq_mul_i64(m, n, &count));
    MQ_TRY(mq_alloc(1, sizeof *c, "cross sum", &c));
    c->m = m;
    c->n = n;
    mq_status status = mq_alloc(count, sizeof *c->sum, "cross sum", &c->sum);
    if (status == MQ_OK) status = mq_alloc(m, sizeof(int), "grid of a cross sum", &c->row_exponent);
    if (status == MQ_OK) {
        status = mq_alloc(n, sizeof(int), "grid of a cross sum", &c->column_exponent);
    }
    if (status != MQ_OK) mq_cross_destroy(&c);
    *out = c;
    return status;
}

void mq_cross_destroy(mq_cross **cross)
{
    if (!*cross) return;
    mq_free(&(*cross)->sum);
    mq_free(&(*cross)->row_exponent);
    mq_free(&(*cross)->column_exponent);
    mq_free(cross);
}

mq_status mq_cross_set_grid(mq_cross *cross, const mq_comm *comm, const double *largest,
                            const int *x_exponent, int64_t n_units)
{
    MQ_TRY(mq_grid_of_columns(comm, largest, cross->m, n_units, cross->row_exponent));
    memcpy(cross->column_exponent, x_exponent, (size_t)cross->n * sizeof *x_exponent);
    cross->has_grid = true;
    cross->is_zero = true;
    for (int64_t i = 0; i < cross->m; i++) {
        if (cross->row_exponent[i] > mq_grid_exponent(0, 1)) cross->is_zero = false;
    }
    return MQ_OK;
}

typedef struct cross_job {
    mq_cross *cross;
    const void *a, *x;
    mq_dtype dtype;
    int64_t n_tok, panel_width;
} cross_job;

static mq_status cross_task(void *context, int64_t t)
{
    const cross_job *p = context;
    mq_cross *c = p->cross;
    int64_t width = p->panel_width, across = mq_ceil_div(c->n, width);
    int64_t i0 = t / across * PANEL, n_i = mq_min_i64(PANEL, c->m - i0);
    int64_t j0 = t % across * width, n_j = mq_min_i64(width, c->n - j0);
    float *g = mq_scratch(SCRATCH_SLOT, (size_t)PANEL * PANEL * sizeof *g);
    if (!g) return mq_fail(MQ_E_MEMORY, "no memory for a panel of a cross sum");
    MQ_TRY(mq_cross_panel(p->a, c->m, i0, n_i, p->x, c->n, j0, n_j, p->dtype, p->n_tok, g));
    double c_j[PANEL];
    for (int64_t j = 0; j < n_j; j++) c_j[j] = ldexp(1, c->column_exponent[j0 + j]);
    for (int64_t i = 0; i < n_i; i++) {
        mq_grid_add(c->sum + (i0 + i) * c->n + j0, g + i * n_j,
                    mq_grid_constant(c->row_exponent[i0 + i]), c_j, n_j);
    }
    return MQ_OK;
}

mq_status mq_cross_add(mq_cross *cross, const void *a, const void *x, mq_dtype dtype, int64_t n_tok)
{
    if (!cross->has_grid) return mq_fail(MQ_E_INTERNAL, "a cross sum needs its grid first");
    if (n_tok == 0 || cross->is_zero) return MQ_OK;
    int64_t width = cross->m < PANEL / 4 ? PANEL / 4 : PANEL; /* more tasks where there are few */
    cross_job job = {cross, a, x, dtype, n_tok, width};
    return mq_parallel_for(mq_ceil_div(cross->m, PANEL) * mq_ceil_div(cross->n, width), cross_task,
                           &job);
}

mq_status mq_cross_reduce(mq_cross *cross, const mq_comm *comm)
{
    if (cross->is_zero) return MQ_OK;
    return mq_sum_f64(comm, cross->sum, cross->m * cross->n);
}
