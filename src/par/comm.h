#ifndef MQ_PAR_COMM_H
#define MQ_PAR_COMM_H

#include "base/status.h"

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The ranks of a run. Every collective call of the program goes through this header and
 * collectives.h, in the order: local work -> mq_agree -> next collective. */

typedef struct mq_comm {
    MPI_Comm world;   /* a private duplicate, errors returned */
    MPI_Comm node;    /* the ranks of this node */
    MPI_Comm leaders; /* node rank 0 of every node; MPI_COMM_NULL elsewhere */
    int rank, size;   /* in world */
    int node_rank, node_size;
    int node_id, n_nodes;
    int *node_of;       /* (size) node of each rank */
    size_t chunk_bytes; /* largest single MPI message; counts stay below 2^31 */
} mq_comm;

/** Duplicates `parent` and finds the nodes. Collective on parent.
 *  MQ_CHUNK_BYTES and MQ_RANKS_PER_NODE in the environment make tests harsher: a tiny chunk, and
 *  nodes of that many ranks that share no memory between them.
 *  Errors: MQ_E_INTERNAL, the same on every rank. */
mq_status mq_comm_create(MPI_Comm parent, mq_comm **out);

/** Collective on comm. *comm may be NULL and becomes NULL. */
void mq_comm_destroy(mq_comm **comm);

/** The worst status of all ranks, on every rank; when it is a failure every rank gets the message
 *  of the lowest rank that had it, with "rank R: " in front when more than one rank runs and not
 *  every rank failed in the same way. Collective. This is how ranks leave together. */
mq_status mq_agree(const mq_comm *comm, mq_status local);

/** Translates the return code of an MPI call; `what` names the operation. Not collective. */
mq_status mq_mpi_check(int code, const char *what);

#endif
