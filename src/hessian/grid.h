#ifndef MQ_HESSIAN_GRID_H
#define MQ_HESSIAN_GRID_H

#include "par/comm.h"
#include "par/ordered_sum.h"

/* Private to the sums over tokens: the grid of their entries (par/ordered_sum.h). */

/** exponent (n) of the columns. largest[j] (n): the largest sum of squares of column j over any one
 *  of this rank's units. Collective. Errors, the same everywhere: MQ_E_NUMERIC naming a column that
 *  is not finite or past what the f32 products of a unit can hold; MQ_E_MEMORY. */
mq_status mq_grid_of_columns(const mq_comm *comm, const double *largest, int64_t n, int64_t n_units,
                             int *exponent);

/** Adds n entries g of one row of a unit's product to dst, rounded to the grid 2^(e_i + e_j).
 *  Powers of two multiply exactly, so the constant of an entry is a product of two factors: c_i =
 *  mq_grid_constant(e_i) and c_j[j] = 2^e_j. The exponents' range (-480 up to half of f64's) keeps
 *  it a normal number. */
static inline void mq_grid_add(double *dst, const float *g, double c_i, const double *c_j,
                               int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        dst[j] += mq_grid_round((double)g[j], c_i * c_j[j]);
    }
}

#endif
