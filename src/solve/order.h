#ifndef MQ_SOLVE_ORDER_H
#define MQ_SOLVE_ORDER_H

#include "solve/solve.h"

/* Column orders besides the default of mq_order_columns. In all of them dead columns (diagonal 0)
 * come last, among themselves by index: what the rest of the solver relies on. */

typedef enum mq_column_order {
    MQ_ORDER_DIAGONAL, /* descending diagonal: mq_order_columns */
    MQ_ORDER_GROUPS,   /* groups by descending mean of the diagonal, descending diagonal inside */
    MQ_ORDER_ORIGINAL,
} mq_column_order;

/** order[k] = original column processed k-th; ties by index. diagonal (n) >= 0; group: columns of a
 *  group, read by MQ_ORDER_GROUPS alone. A total order: the same on every machine.
 *  Errors: MQ_E_INTERNAL when groups do not divide n, MQ_E_MEMORY. Source: GPTQModel's "GAR". */
mq_status mq_order_columns_by(mq_column_order kind, const double *diagonal, int64_t n,
                              int64_t group, int64_t *order);

#endif
