#include "base/checked.h"
#include "linalg/layout.h"
#include "par/collectives.h"

#include <string.h>

/* Panels of M. M[i][j] = R[i][j] / R[j][j] and R[i][j] = L[n-1-i][n-1-j], so columns [k0, k1) of M
 * are rows n - k1 .. n - 1 of L. Every rank packs the rows it holds, in ascending order of L; who
 * holds which follows from the layout, so nothing but the numbers is sent. */

/* This process's rows of the panel: send (rows, k1 - k0) row-major. */
static void pack(mq_factor *f, int64_t k0, int64_t k1)
{
    enum { TILE = 16 }; /* rows between two passes over the columns, for the cache */
    int64_t n = k1 - k0;
    int64_t first = rows_before(f, f->n - k1, f->process), end = rows_before(f, f->n, f->process);
    for (int64_t l0 = first; l0 < end; l0 += TILE) {
        int64_t l1 = mq_min_i64(l0 + TILE, end);
        for (int64_t c = 0; c < n; c++) {
            int64_t j = k0 + c;
            const double *column = f->local + (f->n - 1 - j) * f->local_rows;
            double pivot = f->diagonal[j];
            for (int64_t l = l0; l < l1; l++) {
                f->send[(l - first) * n + c] = (float)(column[l] / pivot);
            }
        }
    }
}

/* Bytes of each process's rows of the panel, as running sums. */
static void find_offsets(mq_factor *f, int64_t k0, int64_t k1)
{
    f->offset[0] = 0;
    for (int p = 0; p < f->n_procs; p++) {
        int64_t rows = rows_before(f, f->n, p) - rows_before(f, f->n - k1, p);
        f->offset[p + 1] = f->offset[p] + (size_t)(rows * (k1 - k0)) * sizeof(float);
    }
}

/* From the processes' rows to m (k1, k1 - k0): reversed, unit diagonal, zeros below it. */
static void unpack(const mq_factor *f, int64_t k0, int64_t k1, const float *rows, float *m)
{
    int64_t n = k1 - k0;
    for (int64_t i = 0; i < k1; i++) {
        int64_t a = f->n - 1 - i;
        int p = row_owner(f, a);
        int64_t at = rows_before(f, a, p) - rows_before(f, f->n - k1, p);
        memcpy(m + i * n, rows + f->offset[p] / sizeof(float) + (size_t)(at * n),
               (size_t)n * sizeof(float));
        for (int64_t j = k0; j < i; j++) m[i * n + (j - k0)] = 0;
        if (i >= k0) m[i * n + (i - k0)] = 1;
    }
}

mq_status mq_factor_panel(mq_factor *f, int64_t k0, int64_t k1, float *m)
{
    find_offsets(f, k0, k1);
    if (f->process >= 0) pack(f, k0, k1);
    if (f->distributed) {
        size_t mine = f->offset[f->process + 1] - f->offset[f->process];
        MQ_TRY(mq_allgather(f->comm, f->send, mine, f->received, f->offset));
        unpack(f, k0, k1, f->received, m);
        return MQ_OK;
    }
    if (f->process >= 0) unpack(f, k0, k1, f->send, m);
    return mq_bcast(f->comm, m, (size_t)(k1 * (k1 - k0)) * sizeof(float), f->root);
}
