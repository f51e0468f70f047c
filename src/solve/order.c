#include "solve/solve.h"

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

void mq_order_columns(const double *diagonal, int64_t n, int64_t *order)
{
    for (int64_t k = 0; k < n; k++) order[k] = k;
    for (int64_t root = n / 2 - 1; root >= 0; root--) sift_down(diagonal, order, root, n);
    for (int64_t end = n - 1; end > 0; end--) {
        int64_t swap = order[0];
        order[0] = order[end];
        order[end] = swap;
        sift_down(diagonal, order, 0, end);
    }
}
