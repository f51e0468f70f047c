#ifndef MQ_SOLVE_COLUMNS_H
#define MQ_SOLVE_COLUMNS_H

#include "base/status.h"

#include <stdint.h>

/* Columns of a group share a scale for each row. They would need the same step if they had weights
 * of the same size that count the same. Factors s_j = 2^e_j come close to that, with W diag(1/s) in
 * the place of W and diag(s) x in that of its input x:
 *     e_j = 1/4 log2(sum of w_j^2 over all rows / R_jj^2), less the mean of that over the group,
 * R being the factor of LDLQ: what later columns cannot make up for of an error of column j counts
 * R_jj^2. Powers of two, since they change no digit of what they multiply. */

enum { MQ_COLUMN_EXPONENT = 4 }; /* none is larger, nor below minus that */

/** scale (n): s_j in original order, for columns with sums of squares w2 (n), original order,
 *  overwritten; r (n) is the factor's diagonal in processing order, diagonal (n) that of H in
 *  original order. 1 for columns that are dead, that have no weights, or whose sums are not finite;
 *  these do not count for the mean of their group. group divides n. */
void mq_column_scales(int64_t n, int64_t group, const int64_t *order, const double *diagonal,
                      const double *r, double *w2, float *scale);

#endif
