#include "base/checked.h"
#include "base/memory.h"
#include "linalg/blacs.h"
#include "linalg/layout.h"
#include "par/collectives.h"

#include <cblas.h>
#include <inttypes.h>
#include <math.h>

/* Elements of a local part that ScaLAPACK 2.2 can index: it multiplies in 32 bits. */
static const int64_t local_limit = (int64_t)1 << 31;

static int64_t padded(int64_t n)
{
    return mq_ceil_div(n, NB) * NB;
}

/* Rows of the fullest process among n_procs. */
static int64_t most_rows(int64_t n, int64_t n_procs)
{
    return mq_ceil_div(mq_ceil_div(n, NB), n_procs) * NB;
}

static bool indexable(int64_t n, int64_t n_procs)
{
    return most_rows(n, n_procs) <= (local_limit - 1) / padded(n);
}

mq_status mq_factor_fits(int64_t n, int size, bool distributed)
{
    /* 2^24 columns: even one block of rows a process is too much, and n^2 stays in 64 bits. */
    if (n <= 0 || n >= (int64_t)1 << 24) {
        return mq_fail(MQ_E_MEMORY, "a matrix of %" PRId64 " columns cannot be factored", n);
    }
    if (indexable(n, distributed ? size : 1)) return MQ_OK;
    int64_t needed = size;
    while (!indexable(n, needed)) needed++;
    if (!distributed) {
        return mq_fail(MQ_E_MEMORY,
                       "a matrix of %" PRId64 " columns is too large to be factored by one rank "
                       "(ScaLAPACK counts local elements in 32 bits): distribute it over at least "
                       "%" PRId64 " ranks (--distribute-above)",
                       n, needed);
    }
    return mq_fail(MQ_E_MEMORY,
                   "a matrix of %" PRId64 " columns over %d ranks has local parts of 2^31 elements "
                   "or more, which ScaLAPACK cannot index: use at least %" PRId64 " ranks",
                   n, size, needed);
}

static mq_status allocate(mq_factor *f)
{
    MQ_TRY(mq_alloc(f->n, sizeof(double), "diagonal of a factor", &f->diagonal));
    MQ_TRY(mq_alloc(f->n_procs + 1, sizeof(size_t), "layout of a factor", &f->offset));
    if (f->process < 0) return MQ_OK;
    int64_t count = 0;
    MQ_TRY(mq_mul_i64(f->local_rows, f->n_padded, &count));
    MQ_TRY(mq_alloc(count, sizeof(double), "factor of a Hessian", &f->local));
    MQ_TRY(mq_alloc(f->local_rows * NB, sizeof(float), "panel of a factor", &f->send));
    if (!f->distributed) return MQ_OK;
    return mq_alloc(f->n * NB, sizeof(float), "panel of a factor", &f->received);
}

/* The blocks of NB rows that this process holds: rows [i0, i1) of H are local rows from l0 on. */
typedef struct row_block {
    int64_t l0, i0, i1;
    double *rows; /* (i1 - i0, n - i0) */
} row_block;

/* pdpotrf compares pivots with zero only, so a NaN or inf would go through it unseen. */
static mq_status check_finite(const mq_factor *f, const row_block *b)
{
    int64_t width = f->n - b->i0;
    for (int64_t e = 0; e < (b->i1 - b->i0) * width; e++) {
        if (isfinite(b->rows[e])) continue;
        return mq_fail(MQ_E_NUMERIC,
                       "the matrix to factor holds %g in row %" PRId64 ", column %" PRId64
                       " (processing order): look for NaN or inf in the activations",
                       b->rows[e], b->i0 + e / width, b->i0 + e % width);
    }
    return MQ_OK;
}

/* Rows of H from right to left are rows of A, reversed: the block's part of the lower triangle, and
 * the ones of the padding past n. */
static void store_rows(mq_factor *f, const row_block *b)
{
    int64_t some = b->i1 - b->i0, width = f->n - b->i0, a0 = f->n - b->i1;
    for (int64_t a = 0; a < width; a++) {
        double *column = f->local + a * f->local_rows + b->l0;
        const double *from = b->rows + (width - 1 - a);
        for (int64_t t = mq_max_i64(0, a - a0); t < some; t++) {
            column[t] = from[(some - 1 - t) * width];
        }
    }
    for (int64_t t = some; t < NB; t++) f->local[(a0 + t) * f->local_rows + b->l0 + t] = 1;
}

/* Fills the lower triangle of this process's rows of A. */
static mq_status fill(mq_factor *f, mq_entry_source source, void *context)
{
    row_block b = {0};
    MQ_TRY(mq_alloc(NB * f->n, sizeof *b.rows, "rows of a Hessian", &b.rows));
    mq_status status = MQ_OK;
    for (; b.l0 < f->local_rows && status == MQ_OK; b.l0 += NB) {
        b.i1 = f->n - global_row(f, b.l0);
        b.i0 = mq_max_i64(0, b.i1 - NB);
        status = source(context, b.i0, b.i1, b.i0, f->n, b.rows);
        if (status == MQ_OK) status = check_finite(f, &b);
        if (status == MQ_OK) store_rows(f, &b);
    }
    mq_free(&b.rows);
    return status;
}

static mq_status call_pdpotrf(mq_factor *f, int context, int *info)
{
    int n = 0, lld = 0, desc[9], zero = 0, one = 1, nb = NB;
    MQ_TRY(mq_to_int(f->n_padded, "order of a matrix", &n));
    MQ_TRY(mq_to_int(mq_max_i64(1, f->local_rows), "local rows", &lld));
    int rows = numroc_(&n, &nb, &f->process, &zero, &f->n_procs);
    if (rows != f->local_rows) {
        return mq_fail(MQ_E_INTERNAL, "ScaLAPACK expects %d local rows, the layout has %" PRId64,
                       rows, f->local_rows);
    }
    descinit_(desc, &n, &n, &nb, &nb, &zero, &zero, &context, &lld, info);
    if (*info != 0) return mq_fail(MQ_E_INTERNAL, "descinit gave info = %d", *info);
    /* One BLAS thread: the bits of a factor depend on their number. */
    int threads = openblas_get_num_threads();
    openblas_set_num_threads(1);
    pdpotrf_("L", &n, f->local, &one, &one, desc, info);
    openblas_set_num_threads(threads);
    return MQ_OK;
}

/* Factors A in place. Collective over the processes of the grid; *order is set when not positive
 * definite. */
static mq_status factor(mq_factor *f, int64_t *order)
{
    int info = 0, handle = Csys2blacs_handle(f->distributed ? f->comm->world : MPI_COMM_SELF);
    int context = handle;
    Cblacs_gridinit(&context, "R", f->n_procs, 1);
    mq_status status = context < 0
                           ? mq_fail(MQ_E_INTERNAL, "BLACS cannot make a %d x 1 grid", f->n_procs)
                           : call_pdpotrf(f, context, &info);
    if (context >= 0) Cblacs_gridexit(context);
    Cfree_blacs_system_handle(handle);
    if (status != MQ_OK) return status;
    if (info < 0) return mq_fail(MQ_E_INTERNAL, "pdpotrf gave info = %d", info);
    if (info == 0) return MQ_OK;
    *order = info;
    return mq_fail(MQ_E_NOT_PD,
                   "the leading minor of order %d of %" PRId64
                   " (last processed column first) is not positive definite: raise the damping or "
                   "calibrate with more tokens",
                   info, f->n);
}

static mq_status share_diagonal(mq_factor *f)
{
    for (int64_t l = 0; f->process >= 0 && l < f->local_rows; l++) {
        int64_t a = global_row(f, l);
        if (a < f->n) f->diagonal[f->n - 1 - a] = f->local[a * f->local_rows + l];
    }
    if (f->distributed) return mq_sum_f64(f->comm, f->diagonal, f->n); /* the others hold 0 */
    return mq_bcast(f->comm, f->diagonal, (size_t)f->n * sizeof(double), f->root);
}

/* Collective. Fills and factors; on failure every rank has the same status. */
static mq_status fill_and_factor(mq_factor *f, mq_entry_source source, void *context,
                                 int64_t *order)
{
    mq_status status = allocate(f);
    if (status == MQ_OK && f->process >= 0) status = fill(f, source, context);
    status = mq_agree(f->comm, status);
    if (status != MQ_OK) return status;
    if (f->process >= 0) status = factor(f, order);
    status = mq_agree(f->comm, status);
    if (status == MQ_E_NOT_PD) {
        mq_status shared = mq_highest_i64(f->comm, order, 1); /* the others hold 0 */
        return shared == MQ_OK ? status : shared;
    }
    return status == MQ_OK ? mq_agree(f->comm, share_diagonal(f)) : status;
}

mq_status mq_factor_create(const mq_comm *comm, int64_t n, bool distributed, int root,
                           mq_entry_source source, void *context, mq_factor **out, int64_t *order)
{
    *out = NULL;
    *order = 0;
    MQ_TRY(mq_factor_fits(n, comm->size, distributed)); /* the same on every rank */
    mq_factor *f = NULL;
    mq_status status = mq_agree(comm, mq_alloc(1, sizeof *f, "factor", &f));
    if (status == MQ_OK) {
        f->comm = comm;
        f->n = n;
        f->n_padded = padded(n);
        f->distributed = distributed;
        f->root = root;
        f->n_procs = distributed ? comm->size : 1;
        f->process = distributed ? comm->rank : comm->rank == root ? 0 : -1;
        f->local_rows = f->process < 0 ? 0 : rows_before(f, f->n_padded, f->process);
        status = fill_and_factor(f, source, context, order);
    }
    if (status != MQ_OK) mq_factor_destroy(&f);
    *out = f;
    return status;
}

const double *mq_factor_diagonal(const mq_factor *factor)
{
    return factor->diagonal;
}

void mq_factor_destroy(mq_factor **factor)
{
    mq_factor *f = *factor;
    if (!f) return;
    mq_free(&f->local);
    mq_free(&f->diagonal);
    mq_free(&f->send);
    mq_free(&f->received);
    mq_free(&f->offset);
    mq_free(factor);
}
