#ifndef MQ_SOLVE_JUDGE_H
#define MQ_SOLVE_JUDGE_H

#include "solve/solve.h"

/* The accurate scale search: candidates are judged not by the diagonal of H but as LDLQ will round
 * the group, by the part M_gg, R_kk of the layer's factor that belongs to the group's columns:
 *     loss = sum over k of (t_k - Q(t_k))^2 R_kk^2,   t_k = w_k + sum over j < k of e_j M_jk.
 * The factor already accounts for later columns, of this group and of others, which make up for a
 * part of each error. What earlier columns of other groups will have left is not known yet. */

enum { MQ_JUDGE_GROUP = 1024 }; /* larger groups keep to the weighted error */

typedef struct mq_group_judge {
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

/** Fills order, m and r2 of a judge (storage as there) from the layer's factor. columns and
 *  r_diagonal as in mq_ldlq, panels asked for as there. Errors:
 *  MQ_E_INTERNAL when the groups do not divide n, MQ_E_MEMORY, those of the source. */
mq_status mq_gather_groups(int64_t n, int64_t group, const int64_t *columns,
                           const double *r_diagonal, mq_panel_source panel, void *context,
                           int32_t *order, float *m, double *r2);

#endif
