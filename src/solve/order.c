#include "solve/order.h"

#include "base/parallel.h"
#include "ops/ops.h"

#include <inttypes.h>

enum { SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1 };

/* True when column a is processed before column b: larger diagonal first, ties by index. A total
 * order, so any sort gives the one result a stable sort would. */
static bool before(const double *diagonal, int64_t a, int64_t b)
{
    if (diagonal[a] != diagonal[b]) return diagonal[a] > diagonal[b];
    return a < b;
}

/* Restores the heap below `root`: no parent is processed before its children. */
static void sift_down(const double *diagonal, int64_t *heap, int64_t root, int64_t n)
{
    for (;;) {
        int64_t last = root, child = 2 * root + 1;
        if (child < n && before(diagonal, heap[last], heap[child])) last = child;
        if (child + 1 < n && before(diagonal, heap[last], heap[child + 1])) last = child + 1;
        if (last == root) return;
        int64_t swap = heap[root];
        heap[root] = heap[last];
        heap[last] = swap;
        root = last;
    }
}

static void sort(const double *diagonal, int64_t *heap, int64_t n)
{
    for (int64_t root = n / 2 - 1; root >= 0; root--) sift_down(diagonal, heap, root, n);
    for (int64_t end = n - 1; end > 0; end--) {
        int64_t swap = heap[0];
        heap[0] = heap[end];
        heap[end] = swap;
        sift_down(diagonal, heap, 0, end);
    }
}

void mq_order_columns(const double *diagonal, int64_t n, int64_t *order)
{
    for (int64_t k = 0; k < n; k++) order[k] = k;
    sort(diagonal, order, n);
}

/* Dead columns to the end, ascending; the others keep their order. */
static void dead_last(const double *diagonal, int64_t n, int64_t *order)
{
    int64_t live = 0;
    for (int64_t k = 0; k < n; k++) {
        if (diagonal[order[k]] != 0) order[live++] = order[k];
    }
    for (int64_t j = 0; j < n; j++) {
        if (diagonal[j] == 0) order[live++] = j;
    }
}

static mq_status order_by_group(const double *diagonal, int64_t n, int64_t group, int64_t *order)
{
    int64_t n_groups = n / group;
    double *sum = mq_scratch(SCRATCH_SLOT, (size_t)n_groups * (sizeof *sum + sizeof(int64_t)));
    if (!sum) return mq_fail(MQ_E_MEMORY, "no memory for the order of groups");
    int64_t *rank = (int64_t *)(void *)(sum + n_groups);
    for (int64_t g = 0; g < n_groups; g++) {
        sum[g] = 0;
        for (int64_t j = g * group; j < (g + 1) * group; j++) sum[g] += diagonal[j];
    }
    mq_order_columns(sum, n_groups, rank);
    for (int64_t g = 0; g < n_groups; g++) {
        int64_t *part = order + g * group;
        for (int64_t k = 0; k < group; k++) part[k] = rank[g] * group + k;
        sort(diagonal, part, group);
    }
    dead_last(diagonal, n, order);
    return MQ_OK;
}

mq_status mq_order_columns_by(mq_column_order kind, const double *diagonal, int64_t n,
                              int64_t group, int64_t *order)
{
    if (kind == MQ_ORDER_GROUPS) {
        if (n < 0 || group <= 0 || n % group != 0) {
            return mq_fail(MQ_E_INTERNAL,
                           "column order: groups of %" PRId64 " do not divide %" PRId64 " columns",
                           group, n);
        }
        return order_by_group(diagonal, n, group, order);
    }
    for (int64_t k = 0; k < n; k++) order[k] = k;
    if (kind == MQ_ORDER_DIAGONAL)
        sort(diagonal, order, n);
    else
        dead_last(diagonal, n, order);
    return MQ_OK;
}
