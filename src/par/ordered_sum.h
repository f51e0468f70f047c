#ifndef MQ_PAR_ORDERED_SUM_H
#define MQ_PAR_ORDERED_SUM_H

#include <math.h>
#include <stdint.h>

/* Order-free sums. Every contribution is rounded to a grid before it is added in f64; as long as
 * all partial sums stay below 2^53 grid steps every addition is exact, so the result does not
 * depend on the order and hence not on the number of ranks.
 *
 * An entry (i, j) of a Hessian has the grid 2^(e_i + e_j): one exponent per column, from a bound
 * on that column's sum of squares over any one unit, so that weak channels keep their digits
 * beside massive ones. By Cauchy-Schwarz |x_ij| <= sqrt(c_i c_j) for a unit, and U units sum to at
 * most U sqrt(c_i c_j) <= 2^50 * 2^(e_i + e_j). */

/** Exponent e with U * c <= 2^50 * 2^(2e); c >= 0 is the largest sum of squares of the column over
 *  one unit, U the number of units of all ranks. For c == 0 the smallest exponent. */
static inline int mq_grid_exponent(double c, int64_t n_units)
{
    enum { LOWEST = -480 };
    if (!(c > 0)) return LOWEST;
    int e2 = 0;
    frexp(c * (double)n_units, &e2); /* U * c < 2^e2 */
    int e = (e2 - 50) >= 0 ? (e2 - 50 + 1) / 2 : -((50 - e2) / 2);
    return e < LOWEST ? LOWEST : e;
}

/** The constant C = 1.5 * 2^52 * 2^exponent that rounds to multiples of 2^exponent. */
static inline double mq_grid_constant(int exponent)
{
    return ldexp(1.5, 52 + exponent);
}

/** x rounded to the grid of constant c (|x| <= 2^51 steps). Needs -ffp-contract=off and no
 *  fast-math. */
static inline double mq_grid_round(double x, double c)
{
    return (x + c) - c;
}

#endif
