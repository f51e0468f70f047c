#ifndef MQ_PAR_CHUNKS_H
#define MQ_PAR_CHUNKS_H

#include "base/status.h"

#include <mpi.h>
#include <stddef.h>

/* Inside par only: a broadcast of any length on any communicator. */

/** root's bytes to all ranks of comm, in messages of at most chunk_bytes. Collective on comm.
 *  Errors: MQ_E_INTERNAL when MPI fails. */
mq_status mq_chunked_bcast(MPI_Comm comm, size_t chunk_bytes, void *data, size_t bytes, int root);

#endif
