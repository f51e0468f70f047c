#include "hessian/hessian.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "hessian/grid.h"
#include "ops/gemm.h"
#include "ops/ops.h"
#include "par/collectives.h"
#include "par/ordered_sum.h"

#include <math.h>

enum { PANEL = 512, SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1 };

static int64_t row_start(int64_t n, int64_t i)
{
    return i * n - i * (i - 1) / 2;
}

mq_status mq_hessian_bytes(int64_t n, size_t *bytes)
{
    int64_t twice = 0;
    MQ_TRY(mq_mul_i64(n, n + 1, &twice));
    return mq_mul_size((size_t)(twice / 2), sizeof(double), bytes);
}

mq_status mq_hessian_create(int64_t n, mq_hessian **out)
{
    size_t bytes = 0;
    *out = NULL;
    MQ_TRY(mq_hessian_bytes(n, &bytes));
    mq_hessian *h = NULL;
    MQ_TRY(mq_alloc(1, sizeof *h, "Hessian", &h));
    h->n = n;
    mq_status status =
        mq_alloc((int64_t)(bytes / sizeof(double)), sizeof(double), "Hessian", &h->packed);
    if (status == MQ_OK) status = mq_alloc(n, sizeof(int), "grid of a Hessian", &h->exponent);
    if (status != MQ_OK) mq_hessian_destroy(&h);
    *out = h;
    return status;
}

void mq_hessian_destroy(mq_hessian **h)
{
    if (!*h) return;
    mq_free(&(*h)->packed);
    mq_free(&(*h)->exponent);
    mq_free(h);
}

mq_status mq_hessian_set_grid(mq_hessian *h, const mq_comm *comm, const double *largest,
                              int64_t n_units)
{
    MQ_TRY(mq_grid_of_columns(comm, largest, h->n, n_units, h->exponent));
    h->has_grid = true;
    return MQ_OK;
}

typedef struct gram {
    mq_hessian *h;
    const void *x;
    mq_dtype dtype;
    int64_t n_tok, n_panels;
} gram;

/* Panel pair number t of the upper triangle, pairs counted by rows: (0,0) (0,1) ... (1,1) ... */
static mq_status gram_task(void *context, int64_t t)
{
    const gram *p = context;
    mq_hessian *h = p->h;
    int64_t pi = 0, pj = t;
    for (; pj >= p->n_panels - pi; pi++) pj -= p->n_panels - pi;
    pj += pi;
    int64_t i0 = pi * PANEL, n_i = mq_min_i64(PANEL, h->n - i0);
    int64_t j0 = pj * PANEL, n_j = mq_min_i64(PANEL, h->n - j0);
    float *g = mq_scratch(SCRATCH_SLOT, (size_t)PANEL * PANEL * sizeof *g);
    if (!g) return mq_fail(MQ_E_MEMORY, "no memory for a panel of a Hessian");
    MQ_TRY(mq_gram_panel(p->x, p->dtype, p->n_tok, h->n, i0, n_i, j0, n_j, g));
    double c_j[PANEL];
    for (int64_t j = 0; j < n_j; j++) c_j[j] = ldexp(1, h->exponent[j0 + j]);
    for (int64_t i = 0; i < n_i; i++) {
        int64_t first = pi == pj ? i : 0; /* a diagonal panel: j >= i only */
        double *row = h->packed + row_start(h->n, i0 + i) + (j0 + first - i0 - i);
        mq_grid_add(row, g + i * n_j + first, mq_grid_constant(h->exponent[i0 + i]), c_j + first,
                    n_j - first);
    }
    return MQ_OK;
}

mq_status mq_hessian_add(mq_hessian *h, const void *x, mq_dtype dtype, int64_t n_tok)
{
    if (!h->has_grid) return mq_fail(MQ_E_INTERNAL, "a Hessian needs its grid before its units");
    if (n_tok == 0) return MQ_OK;
    int64_t n_panels = mq_ceil_div(h->n, PANEL);
    gram p = {.h = h, .x = x, .dtype = dtype, .n_tok = n_tok, .n_panels = n_panels};
    MQ_TRY(mq_parallel_for(n_panels * (n_panels + 1) / 2, gram_task, &p));
    h->n_tokens += n_tok;
    return MQ_OK;
}

mq_status mq_hessian_reduce(mq_hessian *h, const mq_comm *comm)
{
    MQ_TRY(mq_sum_i64(comm, &h->n_tokens, 1));
    return mq_sum_f64(comm, h->packed, row_start(h->n, h->n));
}

mq_status mq_hessian_merge(mq_hessian *h, const mq_hessian *part)
{
    bool same = h->n == part->n && h->has_grid && part->has_grid;
    for (int64_t j = 0; j < h->n && same; j++) same = h->exponent[j] == part->exponent[j];
    if (!same) return mq_fail(MQ_E_INTERNAL, "two Hessians of different grids cannot be merged");
    for (int64_t i = 0; i < row_start(h->n, h->n); i++) h->packed[i] += part->packed[i];
    h->n_tokens += part->n_tokens;
    return MQ_OK;
}

typedef struct entries_job {
    const mq_hessian *h;
    const int64_t *rows, *columns;
    int64_t n_rows, n_columns;
    double *out;
} entries_job;

/* Entry (i, j) is at_row(h, i)[j] for j >= i. For j < i that is another entry of the triangle. */
static const double *at_row(const mq_hessian *h, int64_t i)
{
    return h->packed + row_start(h->n, i) - i;
}

/* Row k of the output right of the diagonal; left of it anything. */
static mq_status right_task(void *context, int64_t k)
{
    const entries_job *p = context;
    const double *row = at_row(p->h, p->rows[k]);
    double *to = p->out + k * p->n_columns;
    for (int64_t c = 0; c < p->n_columns; c++) to[c] = row[p->columns[c]];
    return MQ_OK;
}

enum { TILE = 8 }; /* columns of the output: a cache line */

/* Columns [c0, c0 + some) left of the diagonal: from the rows of H that are those columns. */
static inline void fill_left(const entries_job *p, int64_t c0, int some)
{
    int64_t column[TILE];
    const double *row[TILE];
    for (int c = 0; c < some; c++) {
        column[c] = p->columns[c0 + c];
        row[c] = at_row(p->h, column[c]);
    }
    for (int64_t k = 0; k < p->n_rows; k++) {
        int64_t i = p->rows[k];
        double *to = p->out + k * p->n_columns + c0;
        for (int c = 0; c < some; c++) to[c] = i > column[c] ? row[c][i] : to[c];
    }
}

static mq_status left_task(void *context, int64_t t)
{
    const entries_job *p = context;
    int64_t c0 = t * TILE, rest = p->n_columns - c0;
    if (rest >= TILE) {
        fill_left(p, c0, TILE);
    } else {
        fill_left(p, c0, (int)rest);
    }
    return MQ_OK;
}

mq_status mq_hessian_entries(const mq_hessian *h, const int64_t *rows, int64_t n_rows,
                             const int64_t *columns, int64_t n_columns, double *out)
{
    entries_job job = {h, rows, columns, n_rows, n_columns, out};
    MQ_TRY(mq_parallel_for(n_rows, right_task, &job));
    return mq_parallel_for(mq_ceil_div(n_columns, TILE), left_task, &job);
}

void mq_hessian_diagonal(const mq_hessian *h, double *out)
{
    for (int64_t j = 0; j < h->n; j++) out[j] = h->packed[row_start(h->n, j)];
}

int64_t mq_hessian_rank_bound(const mq_hessian *h)
{
    int64_t live = 0;
    for (int64_t j = 0; j < h->n; j++) live += h->packed[row_start(h->n, j)] != 0;
    return mq_min_i64(live, h->n_tokens);
}
