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
 * most U sqrt(c_i c_j) <= 2^50 * 2^(e_i + e_j). Between these 2^50 steps and the 2^51 that one
 * contribution may have, and the 2^53 of a sum, lies the room for the rounding of the products
 * (f32 panels), of c itself, and to the grid (half a step per unit).
 *
 * The bound must be the maximum over units, which does not depend on who holds them, never a
 * maximum over sums of a rank. */

/** Exponent e with U * c <= 2^50 * 2^(2e); c is the largest sum of squares of the column over one
 *  unit, 0 <= c < 2^900 (finite: the caller checks), U >= 1 the number of units of all ranks.
 *  For c == 0, and where e would be lower, the smallest exponent, which keeps every grid and its
 *  constant clear of the subnormal numbers. */
static inline int mq_grid_exponent(double c, int64_t n_units)
{
    enum { LOWEST = -480 };
    if (!(c > 0)) return LOWEST;
    int e_c = 0, e_units = 0;
    frexp(frexp(c, &e_c) * (double)n_units, &e_units);
    int e2 = e_c + e_units - 50; /* U * c < 2^50 * 2^e2 */
    int e = e2 >= 0 ? (e2 + 1) / 2 : -(-e2 / 2);
    return e < LOWEST ? LOWEST : e;
}

/** The constant C = 1.5 * 2^52 * 2^exponent that rounds to multiples of 2^exponent. */
static inline double mq_grid_constant(int exponent)
{
    return ldexp(1.5, 52 + exponent);
}

/** x rounded to the nearest multiple of the grid of constant c, ties to even (|x| <= 2^51 steps;
 *  NaN and inf give NaN). Needs -ffp-contract=off and no fast-math. */
static inline double mq_grid_round(double x, double c)
{
    return (x + c) - c;
}

#endif
