#ifndef MQ_SOLVE_JUDGE_H
#define MQ_SOLVE_JUDGE_H

#include "solve/solve.h"

/* The accurate scale search: candidates are judged by the whole block of H that a group has, not by
 * its diagonal. With H_gg = R R^T, M = R diag(R)^-1 (algorithms.md 2, for the group alone),
 *     loss = sum over k of (t_k - w_hat_k)^2 R_kk^2,   t_k = w_k + sum over j < k of e_j M_jk,
 * is the loss e H_gg e^T of whatever w_hat is. What differs is how w_hat is rounded:
 * MQ_JUDGE_PLAIN from w, MQ_JUDGE_LDLQ from t, as LDLQ does it. */
typedef enum mq_judge_rounding { MQ_JUDGE_PLAIN, MQ_JUDGE_LDLQ } mq_judge_rounding;

enum { MQ_JUDGE_GROUP = 1024 }; /* larger groups keep to the weighted error */

typedef struct mq_group_judge {
    mq_judge_rounding rounding;
    int n_keep;           /* candidates that the weighted error lets through; 0: all of them */
    const int32_t *order; /* (n_in) column k of group g: g * group + order[g * group + k] */
    const float *m;   /* (G, group, group) M transposed: row k is column k of M, k entries used */
    const double *r2; /* (n_in) R_kk^2, k as in order */
} mq_group_judge;

/** mq_search_scales with its candidates judged so. The weighted error only chooses the n_keep that
 *  are judged (measured: R_kk^2 of the layer's factor is a better weight for that than the
 *  diagonal of H, and few kept candidates lose much of the gain).
 *  Falls back to mq_search_scales for groups of more than MQ_JUDGE_GROUP columns and for grids with
 *  zero points.
 *  Equal losses: the first in the order of mq_search_scales. A group without any weight, where
 *  nothing is known, is judged by its block like all others: the caller damps it.
 *  Cost: a weight takes candidates * group / 2 products: measured, all 144 of them 150 ns in groups
 *  of 32, 260 ns of 64, 500 ns of 128; 16 of them, with the weighted search, 75 to 100 ns. Serial.
 *  Errors and bits as mq_search_scales. */
mq_status mq_judge_scales(const float *w, int64_t n_rows, int64_t n_in, const double *weight,
                          const mq_quant *quant, const mq_group_judge *judge, float *scales,
                          uint8_t *zeros);

/** Row i of the damped matrix in original order, columns [j0, j1), f64. */
typedef void (*mq_block_source)(void *context, int64_t i, int64_t j0, int64_t j1, double *out);

/** The factors of all groups' blocks: fills order, m and r2 of a judge (storage as there) for the
 *  processing order `columns` (n). Threads over groups; not collective.
 *  Cost: n * group^2 / 3 flops. Errors: MQ_E_NOT_PD naming the columns of the group, MQ_E_INTERNAL
 *  when the groups do not divide n, MQ_E_MEMORY. */
mq_status mq_factor_groups(int64_t n, int64_t group, const int64_t *columns, mq_block_source source,
                           void *context, int32_t *order, float *m, double *r2);

/** The same storage filled from the layer's own factor, M_gg and R_kk^2 of the group's columns: the
 *  later columns of other groups, which make up for a part of the errors, are then accounted for.
 *  columns and r_diagonal as in mq_ldlq, panels asked for as there. Errors: MQ_E_INTERNAL when the
 * groups do not divide n, MQ_E_MEMORY, those of the source. */
mq_status mq_gather_groups(int64_t n, int64_t group, const int64_t *columns,
                           const double *r_diagonal, mq_panel_source panel, void *context,
                           int32_t *order, float *m, double *r2);

#endif
