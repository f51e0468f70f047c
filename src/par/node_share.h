#ifndef MQ_PAR_NODE_SHARE_H
#define MQ_PAR_NODE_SHARE_H

#include "par/comm.h"

/* One buffer per node that all its ranks see (MPI_Win_allocate_shared): the weights of the current
 * block, the codes and scales of the current tap. */

typedef struct mq_share {
    void *base; /* the same memory for all ranks of a node; 64-byte aligned */
    size_t bytes;
    MPI_Win window;
} mq_share;

/** Zeroed memory of `bytes` (0 allowed) on every node. Collective; same bytes everywhere.
 *  Errors: MQ_E_MEMORY on every rank, naming `purpose`, the node and the room in /dev/shm. */
mq_status mq_share_create(const mq_comm *comm, size_t bytes, const char *purpose, mq_share **out);

/** Collective. *share may be NULL and becomes NULL. */
void mq_share_destroy(mq_share **share);

/** Makes writes of this node's ranks visible to each other. Collective on the node's ranks.
 *  Cost: one barrier of the node. */
mq_status mq_share_fence(const mq_comm *comm, const mq_share *share);

/** A range that one rank wrote. */
typedef struct mq_range {
    size_t offset, bytes;
    int owner; /* world rank */
} mq_range;

/** Fence, then copies every range from its owner's node to all other nodes, then fence: afterwards
 *  all nodes hold the same bytes. Collective; same ranges on every rank, in the same order.
 *  Neighbours in memory from one node travel together, so ranges in ascending order are cheapest.
 *  Cost: on one node nothing but a barrier; else every byte once to every other node.
 *  Errors: MQ_E_INTERNAL for a range outside the memory or of no rank, before anything moves. */
mq_status mq_share_publish(const mq_comm *comm, const mq_share *share, const mq_range *ranges,
                           int64_t n_ranges);

#endif
