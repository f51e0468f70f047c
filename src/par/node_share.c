#include "par/node_share.h"

#include "base/checked.h"
#include "base/memory.h"
#include "par/chunks.h"

#include <inttypes.h>
#include <stdint.h>
#include <string.h>
#include <sys/statvfs.h>

enum { ALIGNMENT = 64 };

/* MPI keeps the memory of nodes with several ranks in /dev/shm. What does not fit there is granted
 * all the same and kills the process at the first touch, so the room is looked at before. */
static mq_status check_room(const mq_comm *comm, size_t bytes, const char *purpose)
{
    struct statvfs fs;
    if (comm->node_rank != 0 || comm->node_size == 1) return MQ_OK;
    if (statvfs("/dev/shm", &fs) != 0) return MQ_OK; /* MPI falls back to its session folder */
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (bytes <= room) return MQ_OK;
    char host[MPI_MAX_PROCESSOR_NAME] = "?";
    int length = 0;
    MPI_Get_processor_name(host, &length);
    return mq_fail(
        MQ_E_MEMORY,
        "%s: node %d (%s) needs %zu bytes of shared memory and /dev/shm has %" PRIu64
        " free: make it larger (mount -o remount,size=..., or --shm-size for a container)"
        " or clear it",
        purpose, comm->node_id, host, bytes, room);
}

/* The window, and base at the same aligned byte for every rank of the node. */
static mq_status allocate(const mq_comm *comm, size_t padded, const char *purpose, mq_share *share)
{
    MPI_Aint size = comm->node_rank == 0 ? (MPI_Aint)padded : 0;
    void *mine = NULL, *first = NULL;
    int unit = 1,
        code = MPI_Win_allocate_shared(size, 1, MPI_INFO_NULL, comm->node, &mine, &share->window);
    if (code == MPI_SUCCESS) {
        MPI_Win_set_errhandler(share->window, MPI_ERRORS_RETURN);
        code = MPI_Win_shared_query(share->window, 0, &size, &unit, &first);
    }
    if (code == MPI_SUCCESS) code = MPI_Win_lock_all(MPI_MODE_NOCHECK, share->window);
    /* Ranks see the memory at different addresses: the first one's padding counts. Broadcast also
     * by a rank that has failed, since the others wait for it. */
    int64_t skip = (int64_t)((ALIGNMENT - (uintptr_t)first % ALIGNMENT) % ALIGNMENT);
    mq_status shared = mq_mpi_check(MPI_Bcast(&skip, 1, MPI_INT64_T, 0, comm->node), "MPI_Bcast");
    if (code != MPI_SUCCESS) {
        mq_mpi_check(code, "MPI_Win_allocate_shared");
        return mq_fail_in(MQ_E_MEMORY, "%s: %zu bytes of shared memory on node %d", purpose, padded,
                          comm->node_id);
    }
    share->base = (char *)first + skip;
    return shared;
}

/* Every rank clears its part, which spreads the pages over the node's memory banks. */
static mq_status clear(const mq_comm *comm, const mq_share *share)
{
    size_t part = share->bytes / (size_t)comm->node_size / ALIGNMENT * ALIGNMENT;
    size_t begin = part * (size_t)comm->node_rank;
    bool last = comm->node_rank == comm->node_size - 1;
    memset((char *)share->base + begin, 0, last ? share->bytes - begin : part);
    return mq_share_fence(comm, share);
}

mq_status mq_share_create(const mq_comm *comm, size_t bytes, const char *purpose, mq_share **out)
{
    size_t padded = 0;
    mq_share *share = NULL;
    *out = NULL;
    mq_status status = mq_add_size(bytes, 2 * ALIGNMENT, &padded);
    if (status == MQ_OK && padded > INT64_MAX) {
        status = mq_fail(MQ_E_INPUT, "%s: %zu bytes do not fit 63 bits", purpose, bytes);
    }
    if (status == MQ_OK) status = check_room(comm, padded, purpose);
    if (status == MQ_OK) status = mq_alloc(1, sizeof *share, purpose, &share);
    status = mq_agree(comm, status);
    if (status != MQ_OK) {
        mq_free(&share);
        return status;
    }
    *share = (mq_share){.bytes = bytes, .window = MPI_WIN_NULL};
    status = mq_agree(comm, allocate(comm, padded, purpose, share));
    if (status == MQ_OK) status = mq_agree(comm, clear(comm, share));
    if (status != MQ_OK) {
        /* The window is not freed: that is collective, and some rank may have none. */
        mq_free(&share);
        return status;
    }
    *out = share;
    return MQ_OK;
}

void mq_share_destroy(mq_share **share)
{
    if (!*share) return;
    MPI_Win_unlock_all((*share)->window);
    MPI_Win_free(&(*share)->window);
    mq_free(share);
}

mq_status mq_share_fence(const mq_comm *comm, const mq_share *share)
{
    /* The barrier is reached whatever the first call said: others wait in it. */
    mq_status status = mq_mpi_check(MPI_Win_sync(share->window), "MPI_Win_sync");
    mq_status met = mq_mpi_check(MPI_Barrier(comm->node), "MPI_Barrier of a node");
    if (status == MQ_OK) status = met;
    if (status != MQ_OK) return status;
    return mq_mpi_check(MPI_Win_sync(share->window), "MPI_Win_sync");
}

static mq_status check_ranges(const mq_comm *comm, const mq_share *share, const mq_range *ranges,
                              int64_t n_ranges)
{
    for (int64_t i = 0; i < n_ranges; i++) {
        const mq_range *r = &ranges[i];
        if (r->owner < 0 || r->owner >= comm->size || r->offset > share->bytes ||
            r->bytes > share->bytes - r->offset) {
            return mq_fail(MQ_E_INTERNAL,
                           "range %" PRId64 ": %zu bytes at %zu of rank %d lie outside %zu shared "
                           "bytes of %d ranks",
                           i, r->bytes, r->offset, r->owner, share->bytes, comm->size);
        }
    }
    return MQ_OK;
}

/* The leaders exchange the ranges; neighbours in memory that come from one node go together. */
static mq_status exchange(const mq_comm *comm, const mq_share *share, const mq_range *ranges,
                          int64_t n_ranges)
{
    for (int64_t i = 0; i < n_ranges;) {
        int node = comm->node_of[ranges[i].owner];
        size_t begin = ranges[i].offset, end = begin + ranges[i].bytes;
        for (i++; i < n_ranges && ranges[i].offset == end; i++) {
            if (comm->node_of[ranges[i].owner] != node) break;
            end += ranges[i].bytes;
        }
        MQ_TRY(mq_chunked_bcast(comm->leaders, comm->chunk_bytes, (char *)share->base + begin,
                                end - begin, node));
    }
    return MQ_OK;
}

mq_status mq_share_publish(const mq_comm *comm, const mq_share *share, const mq_range *ranges,
                           int64_t n_ranges)
{
    MQ_TRY(check_ranges(comm, share, ranges, n_ranges)); /* the same verdict on every rank */
    MQ_TRY(mq_share_fence(comm, share));
    if (comm->n_nodes == 1) return MQ_OK;
    mq_status status = MQ_OK;
    if (comm->leaders != MPI_COMM_NULL) status = exchange(comm, share, ranges, n_ranges);
    status = mq_agree(comm, status);
    return status == MQ_OK ? mq_share_fence(comm, share) : status;
}
