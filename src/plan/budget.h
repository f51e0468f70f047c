#ifndef MQ_PLAN_BUDGET_H
#define MQ_PLAN_BUDGET_H

#include "base/status.h"

#include <stdint.h>

/* Mixed bits: which of a few widths each of many items gets, so that all of them together keep
 * within a number of bits and do the least harm. A multiple-choice knapsack. */

enum { MQ_MAX_WIDTHS = 4 };

typedef struct mq_budget_item {
    int64_t weights;            /* all of one width; 0 for an item that costs nothing */
    double harm[MQ_MAX_WIDTHS]; /* at each width; finite, at least 0 */
} mq_budget_item;

/** Chooses a width for every item: the least sum of harm with sum of weights * width <= bits.
 *  @param[in]  width  (n_widths) ascending, 1 to MQ_MAX_WIDTHS of them
 *  @param[out] choice (n_items) an index into width
 *  Equal sums: the narrower width of the item that comes last. Exact, by dynamic programming over
 *  the bits beyond the narrowest width in steps of their greatest common divisor, where that table
 *  has at most 2^26 entries (as with the layers of every known model); else in larger steps to
 *  which the bits of every item are rounded up: within the budget, and no worse than the best
 *  choice for a budget smaller by a step an item. Not collective.
 *  Cost: items * steps * widths; a byte for each item and step.
 *  Errors: MQ_E_USAGE when the narrowest width exceeds `bits`; MQ_E_INTERNAL for harm that is not
 *  finite; MQ_E_MEMORY. */
mq_status mq_budget_choose(const mq_budget_item *item, int64_t n_items, const int *width,
                           int n_widths, int64_t bits, int *choice);

#endif
