#ifndef MQ_LINALG_LAYOUT_H
#define MQ_LINALG_LAYOUT_H

#include "linalg/factor.h"

/* Private to linalg: where the rows of the reversed matrix A = J H J lie.
 *
 * A is padded at its end to a multiple of NB = 128 with ones on the diagonal. Blocks of NB rows go
 * to the processes of the grid in turn, all columns of a row stay together; the local part is
 * column-major as Fortran wants it. Row a of A is row n - 1 - a of H. */

enum { NB = MQ_FACTOR_PANEL };

struct mq_factor {
    const mq_comm *comm; /* borrowed */
    int64_t n, n_padded;
    bool distributed;
    int root;           /* the one rank with data when not distributed */
    int n_procs;        /* processes of the grid: comm's size, or 1 */
    int process;        /* this rank's place in the grid, -1 outside */
    int64_t local_rows; /* leading dimension of local */
    double *local;    /* (local_rows, n_padded) column-major: A, then its factor L; NULL outside */
    double *diagonal; /* (n) diag(R), processing order */
    float *send;      /* this rank's rows of a panel */
    float *received;  /* all ranks' rows of a panel; NULL when not distributed */
    size_t *offset;   /* (n_procs + 1) bytes of each rank's rows in `received` */
};

/** Rows of A before row a that process p holds: the local index of row a on its owner. */
static inline int64_t rows_before(const mq_factor *f, int64_t a, int p)
{
    int64_t block = a / NB, turn = block / f->n_procs, owner = block % f->n_procs;
    return turn * NB + (p < owner ? NB : p == owner ? a % NB : 0);
}

/** The process that holds row a. */
static inline int row_owner(const mq_factor *f, int64_t a)
{
    return (int)(a / NB % f->n_procs);
}

/** Row of A that local row l of this process is. */
static inline int64_t global_row(const mq_factor *f, int64_t l)
{
    return (l / NB * f->n_procs + f->process) * NB + l % NB;
}

#endif
