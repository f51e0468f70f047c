#ifndef MQ_LINALG_BLACS_H
#define MQ_LINALG_BLACS_H

#include <mpi.h>

/* The parts of BLACS and ScaLAPACK used here. Neither comes with a C header in Debian; Fortran
 * routines take everything by address and end in an underscore. Cblacs_exit is missing on purpose:
 * it would end MPI. */

int Csys2blacs_handle(MPI_Comm comm);
void Cfree_blacs_system_handle(int handle);
/** *context: a system handle on entry, the grid's context on return. Collective. */
void Cblacs_gridinit(int *context, const char *order, int n_rows, int n_columns);
void Cblacs_gridexit(int context);

void descinit_(int *desc, const int *m, const int *n, const int *mb, const int *nb,
               const int *row_source, const int *column_source, const int *context, const int *lld,
               int *info);
void pdpotrf_(const char *uplo, const int *n, double *a, const int *ia, const int *ja,
              const int *desc, int *info);
int numroc_(const int *n, const int *nb, const int *process, const int *source, const int *n_procs);

#endif
