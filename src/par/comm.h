#ifndef MQ_PAR_COMM_H
#define MQ_PAR_COMM_H

#include "base/status.h"

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The ranks of a run. Every collective call of the program goes through this header and
 * collectives.h, in the order: local work -> mq_agree -> next collective.
 *
 * When MPI itself fails on a rank (MQ_E_INTERNAL), the others may be inside the call still, and no
 * further collective can be trusted: the caller reports the message and ends with MPI_Abort. */

typedef struct mq_comm {
    MPI_Comm world;   /* a private duplicate, errors returned */
    MPI_Comm node;    /* the ranks of this node */
    MPI_Comm leaders; /* node rank 0 of every node, ranked by node_id; MPI_COMM_NULL elsewhere */
    int rank, size;   /* in world */
    int node_rank, node_size;
    int node_id, n_nodes; /* nodes are numbered in the order of their lowest ranks */
    int *node_of;         /* (size) node of each rank */
    size_t chunk_bytes;   /* largest single MPI message, 8 .. 2^31 - 1; the same on every rank */
} mq_comm;

/** Duplicates `parent` and finds the nodes. Collective on parent.
 *  MQ_CHUNK_BYTES and MQ_RANKS_PER_NODE in the environment of rank 0 make tests harsher: a tiny
 *  chunk, and nodes of that many ranks that share no memory between them.
 *  Errors, the same on every rank: MQ_E_USAGE for a senseless value of those; MQ_E_MEMORY;
 *  MQ_E_INTERNAL. */
mq_status mq_comm_create(MPI_Comm parent, mq_comm **out);

/** Collective on comm. *comm may be NULL and becomes NULL. */
void mq_comm_destroy(mq_comm **comm);

/** The worst status of all ranks, on every rank; when it is a failure every rank gets the message
 *  of the lowest rank that had it, with "rank R: " in front when more than one rank runs and not
 *  every rank failed with the same status and message. Collective. This is how ranks leave
 *  together. Cost: one reduction of 32 bytes when all is well. */
mq_status mq_agree(const mq_comm *comm, mq_status local);

/** Translates the return code of an MPI call; `what` names the operation: MQ_E_MEMORY and MQ_E_IO
 *  for the error classes of memory and files, else MQ_E_INTERNAL. Not collective. */
mq_status mq_mpi_check(int code, const char *what);

#endif
