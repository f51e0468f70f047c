#ifndef MQ_HESSIAN_HESSIAN_H
#define MQ_HESSIAN_HESSIAN_H

#include "base/dtype.h"
#include "par/comm.h"

#include <stdbool.h>

/* H = sum over all calibration tokens of x x^T, as an upper triangle packed by rows in f64: entry
 * (i, j), j >= i, at i * n - i * (i - 1) / 2 + (j - i). The sum is order-free (par/ordered_sum.h).
 */

typedef struct mq_hessian {
    int64_t n;
    double *packed;   /* n (n + 1) / 2 */
    int *exponent;    /* (n) of the grid */
    bool has_grid;    /* set_grid was called */
    int64_t n_tokens; /* after reduce: of all ranks */
} mq_hessian;

/** Bytes of a packed triangle, checked. Errors: MQ_E_INPUT when they do not fit 64 bits. */
mq_status mq_hessian_bytes(int64_t n, size_t *bytes);

/** H = 0. Not collective. Errors: MQ_E_MEMORY, MQ_E_INPUT. Destroy takes NULL. */
mq_status mq_hessian_create(int64_t n, mq_hessian **out);
void mq_hessian_destroy(mq_hessian **h);

/** Fixes the grid. largest[j] (n): the largest sum of squares of column j over any one of this
 *  rank's units (0 for a rank without units), from mq_column_sumsq; n_units: units of all ranks.
 *  Collective. Errors, the same everywhere: MQ_E_NUMERIC when an entry is not finite or past what
 *  the f32 products of a unit can hold, naming the column; MQ_E_MEMORY. */
mq_status mq_hessian_set_grid(mq_hessian *h, const mq_comm *comm, const double *largest,
                              int64_t n_units);

/** Adds one unit: x (n_tok, n) BF16 or F32. Products per unit in f32 panels of 512 columns, upper
 *  triangle only, rounded to the grid and added in f64. Threads over panel pairs. Not collective.
 *  Errors: MQ_E_INTERNAL before set_grid, those of mq_gram_panel, MQ_E_MEMORY; h is undefined
 *  then. */
mq_status mq_hessian_add(mq_hessian *h, const void *x, mq_dtype dtype, int64_t n_tok);

/** Sums over ranks, in place, chunked. Collective. Afterwards every rank holds the same H.
 *  Bytes sent: n (n + 1) / 2 * 8 per rank. Same result for any rank count: bitwise. */
mq_status mq_hessian_reduce(mq_hessian *h, const mq_comm *comm);

/** h += part, entry by entry and in tokens; both have the same grid, so that the sum is exact and
 *  h less part is the old h again. Not collective. Errors: MQ_E_INTERNAL when the grids differ. */
mq_status mq_hessian_merge(mq_hessian *h, const mq_hessian *part);

/** out (n_rows, n_columns) row-major: entries (rows[i], columns[j]), in any order of indices. Reads
 *  H by rows, so that it is fast for a hundred rows at once, whatever their order. Not collective.
 *  Threads over rows and columns. */
mq_status mq_hessian_entries(const mq_hessian *h, const int64_t *rows, int64_t n_rows,
                             const int64_t *columns, int64_t n_columns, double *out);

/** out (n): the diagonal. */
void mq_hessian_diagonal(const mq_hessian *h, double *out);

/** An upper bound of rank(H): the smaller of n_tokens and the columns that are not zero. Below n,
 *  H is singular whatever its values. */
int64_t mq_hessian_rank_bound(const mq_hessian *h);

#endif
