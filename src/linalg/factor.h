#ifndef MQ_LINALG_FACTOR_H
#define MQ_LINALG_FACTOR_H

#include "linalg/entries.h"
#include "par/comm.h"

#include <stdbool.h>

/* H = R R^T with R upper triangular, from one Cholesky factorisation of the reversed matrix:
 * J H J = L L^T, R = J L J (algorithms.md 2). M = R diag(R)^-1 is unit upper triangular; the solver
 * asks for its column panels. ScaLAPACK's pdpotrf on a P x 1 grid with NB = 128, padded to a
 * multiple of NB, gives the same bits for any P. The only folder that knows BLACS. */

enum { MQ_FACTOR_PANEL = 128 };

typedef struct mq_factor mq_factor;

/** Factors the n x n matrix that the source gives (already ordered and damped), asked for 128 rows
 *  at a time from their first column on, once for those that this rank holds. Collective on comm.
 * distributed: rows block-cyclic over all ranks; else pdpotrf on a 1 x 1 grid of rank `root` alone,
 * the others wait at the agreement. Whether to distribute must depend on n and settings only.
 *  Errors, the same on every rank: MQ_E_NOT_PD with *order = the leading minor (1-based, in the
 *  reversed matrix) that failed, order <= n; MQ_E_NUMERIC naming the first NaN or inf a rank saw;
 *  MQ_E_MEMORY; MQ_E_INTERNAL for a negative info. comm must outlive the factor. OpenBLAS runs with
 *  one thread meanwhile, because the bits depend on it.
 *  Cost: n^3 / 3 flops, n^2 * 8 / P bytes. Same result for any rank count: bitwise. */
mq_status mq_factor_create(const mq_comm *comm, int64_t n, bool distributed, int root,
                           mq_entry_source source, void *context, mq_factor **out, int64_t *order);

/** diag(R), (n) f64, in processing order, on every rank (held by the factor). */
const double *mq_factor_diagonal(const mq_factor *factor);

/** Columns [k0, k1) of M, rows [0, k1): m (k1, k1 - k0) row-major f32, on every rank; unit
 *  diagonal, zeros below it. k0 is a multiple of MQ_FACTOR_PANEL and k1 = min(k0 + PANEL, n).
 *  Collective: same panels in the same order on every rank. */
mq_status mq_factor_panel(mq_factor *factor, int64_t k0, int64_t k1, float *m);

/** Frees; NULL is fine. Not collective (BLACS grids end with mq_factor_create). */
void mq_factor_destroy(mq_factor **factor);

/** Refuses at plan time what ScaLAPACK 2.2 (32-bit indices) cannot hold: a local part of 2^31
 *  elements or more. MQ_E_MEMORY says how many ranks are needed. Not collective. */
mq_status mq_factor_fits(int64_t n, int size, bool distributed);

/** "ScaLAPACK 2.2.1" as far as known, for the report. */
const char *mq_linalg_describe(void);

#endif
