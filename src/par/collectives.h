#ifndef MQ_PAR_COLLECTIVES_H
#define MQ_PAR_COLLECTIVES_H

#include "par/comm.h"

/* Collectives on 64-bit counts, cut into chunks of comm->chunk_bytes (Open MPI 4.1 has no
 * large-count calls). All are collective on comm, take the same counts on every rank unless said
 * otherwise, and return MQ_E_INTERNAL when MPI fails. Any n >= 0 and any bytes; pointers to no
 * bytes may be NULL. Cost: the bytes given, and no copy of them beside MPI's own buffers of one
 * chunk. */

/** In place: x[i] = sum over ranks. Exact, hence the same for any number of ranks, when the values
 *  lie on a common grid (ordered_sum.h). n may be 0. */
mq_status mq_sum_f64(const mq_comm *comm, double *x, int64_t n);
mq_status mq_sum_i64(const mq_comm *comm, int64_t *x, int64_t n);

/** In place: the largest or smallest of the ranks' x[i]. A NaN on any rank gives NaN (the default
 *  one), and +0 is above -0, so that the bits do not depend on the number of ranks. n may be 0. */
mq_status mq_max_f64(const mq_comm *comm, double *x, int64_t n);
mq_status mq_highest_i64(const mq_comm *comm, int64_t *x, int64_t n);
mq_status mq_lowest_i64(const mq_comm *comm, int64_t *x, int64_t n);

/** root's bytes to all. */
mq_status mq_bcast(const mq_comm *comm, void *data, size_t bytes, int root);

/** A text of root to all; *text is in at root (NULL allowed) and out elsewhere (its old value is
 *  overwritten; NULL on failure or where root's is NULL; free with mq_free).
 *  Errors: MQ_E_MEMORY on every rank. */
mq_status mq_bcast_text(const mq_comm *comm, char **text, int root);

/** root's send[offset[r] .. offset[r + 1]) to rank r's recv; offset (size + 1) bytes, significant
 *  at root only; every rank says how many bytes it expects (equal to its slice, else MQ_E_INTERNAL
 *  on every rank). At root recv may be its own slice of send. */
mq_status mq_scatter(const mq_comm *comm, const void *send, const size_t *offset, void *recv,
                     size_t recv_bytes, int root);

/** Every rank's send (send_bytes, may differ, may be 0) to root's recv, in rank order; recv is
 *  offset[r] .. offset[r + 1) with offset (size + 1) as from mq_gather_sizes, known on all ranks.
 *  At root send may be its own slice of recv. Errors: MQ_E_INTERNAL on every rank when send_bytes
 *  is not the slice's size. */
mq_status mq_gather(const mq_comm *comm, const void *send, size_t send_bytes, void *recv,
                    const size_t *offset, int root);

/** The same to every rank; send may be this rank's own slice of recv. */
mq_status mq_allgather(const mq_comm *comm, const void *send, size_t send_bytes, void *recv,
                       const size_t *offset);

/** offset (size + 1): running sums of every rank's bytes, the same on every rank.
 *  Errors: MQ_E_INPUT on every rank when they pass 64 bits. */
mq_status mq_gather_sizes(const mq_comm *comm, size_t bytes, size_t *offset);

mq_status mq_barrier(const mq_comm *comm);

#endif
