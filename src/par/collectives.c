#include "par/collectives.h"

#include "base/checked.h"
#include "base/memory.h"
#include "par/chunks.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

_Static_assert(sizeof(size_t) == 8, "sizes travel as 64-bit integers");

/* x[i] = op over the ranks, for elements of 8 bytes. */
static mq_status reduce(const mq_comm *comm, void *x, int64_t n, MPI_Datatype type, MPI_Op op,
                        const char *what)
{
    char *at = x;
    int64_t step = (int64_t)(comm->chunk_bytes / 8);
    for (int64_t begin = 0; begin < n; begin += step) {
        int count = (int)mq_min_i64(step, n - begin); /* chunk_bytes < 2^31 */
        MQ_TRY(mq_mpi_check(
            MPI_Allreduce(MPI_IN_PLACE, at + begin * 8, count, type, op, comm->world), what));
    }
    return MQ_OK;
}

mq_status mq_sum_f64(const mq_comm *comm, double *x, int64_t n)
{
    return reduce(comm, x, n, MPI_DOUBLE, MPI_SUM, "sum over ranks");
}

mq_status mq_sum_i64(const mq_comm *comm, int64_t *x, int64_t n)
{
    return reduce(comm, x, n, MPI_INT64_T, MPI_SUM, "sum over ranks");
}

mq_status mq_highest_i64(const mq_comm *comm, int64_t *x, int64_t n)
{
    return reduce(comm, x, n, MPI_INT64_T, MPI_MAX, "maximum over ranks");
}

mq_status mq_lowest_i64(const mq_comm *comm, int64_t *x, int64_t n)
{
    return reduce(comm, x, n, MPI_INT64_T, MPI_MIN, "minimum over ranks");
}

/* The bits of a double as an integer of the same order: negative numbers turn round. Its own
 * inverse. MPI_MAX itself gives with NaN, and with zeros of both signs, what the order of the ranks
 * makes it. */
static void swap_order(double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t bits = 0;
        memcpy(&bits, &x[i], sizeof bits);
        if (bits < 0) bits ^= INT64_MAX;
        memcpy(&x[i], &bits, sizeof bits);
    }
}

mq_status mq_max_f64(const mq_comm *comm, double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (isnan(x[i])) x[i] = (double)NAN; /* one NaN for all, above everything */
    }
    swap_order(x, n);
    mq_status status = reduce(comm, x, n, MPI_INT64_T, MPI_MAX, "maximum over ranks");
    swap_order(x, n);
    return status;
}

mq_status mq_chunked_bcast(MPI_Comm comm, size_t chunk_bytes, void *data, size_t bytes, int root)
{
    char *at = data;
    for (size_t begin = 0; begin < bytes; begin += chunk_bytes) {
        size_t left = bytes - begin;
        int count = (int)(left < chunk_bytes ? left : chunk_bytes);
        MQ_TRY(mq_mpi_check(MPI_Bcast(at + begin, count, MPI_BYTE, root, comm), "broadcast"));
    }
    return MQ_OK;
}

mq_status mq_bcast(const mq_comm *comm, void *data, size_t bytes, int root)
{
    return mq_chunked_bcast(comm->world, comm->chunk_bytes, data, bytes, root);
}

mq_status mq_bcast_text(const mq_comm *comm, char **text, int root)
{
    bool here = comm->rank == root;
    int64_t bytes = here && *text ? (int64_t)strlen(*text) + 1 : 0;
    if (!here) *text = NULL;
    MQ_TRY(mq_bcast(comm, &bytes, sizeof bytes, root));
    if (bytes == 0) return MQ_OK;
    mq_status status = here ? MQ_OK : mq_alloc(bytes, 1, "text from another rank", text);
    status = mq_agree(comm, status);
    if (status == MQ_OK) status = mq_bcast(comm, *text, (size_t)bytes, root);
    if (status != MQ_OK && !here) mq_free(text);
    return status;
}

mq_status mq_gather_sizes(const mq_comm *comm, size_t bytes, size_t *offset)
{
    uint64_t mine = bytes;
    offset[0] = 0;
    MQ_TRY(mq_mpi_check(
        MPI_Allgather(&mine, 1, MPI_UINT64_T, offset + 1, 1, MPI_UINT64_T, comm->world),
        "gathering sizes"));
    for (int r = 0; r < comm->size; r++)
        MQ_TRY(mq_add_size(offset[r], offset[r + 1], &offset[r + 1]));
    return MQ_OK;
}

mq_status mq_barrier(const mq_comm *comm)
{
    return mq_mpi_check(MPI_Barrier(comm->world), "barrier");
}

/* Scatter and gather go in rounds: round k moves the bytes [k, k + 1) * chunk of all ranks' slices
 * laid end to end, so that counts and displacements are ints relative to the round. A large slice
 * takes many rounds, and many small ones share a round. */
typedef struct rounds {
    const mq_comm *comm;
    const size_t *offset;
    size_t begin, mine; /* first byte of the round; and of this rank's part inside its slice */
    int *count, *displacement;
} rounds;

/* Checks this rank's slice and takes the memory; the ranks leave together. */
static mq_status rounds_start(rounds *r, const mq_comm *comm, const size_t *offset, size_t bytes,
                              const char *what)
{
    size_t slice = offset[comm->rank + 1] - offset[comm->rank];
    mq_status status = MQ_OK;
    *r = (rounds){.comm = comm, .offset = offset};
    if (slice != bytes) {
        status = mq_fail(MQ_E_INTERNAL, "%s: rank %d has %zu bytes, its slice %zu", what,
                         comm->rank, bytes, slice);
    }
    if (status == MQ_OK) status = mq_alloc((int64_t)2 * comm->size, sizeof(int), what, &r->count);
    if (status == MQ_OK) r->displacement = r->count + comm->size;
    return mq_agree(comm, status);
}

/* Fills counts and displacements of the round at r->begin; false when all is moved. */
static bool rounds_next(rounds *r)
{
    const size_t *offset = r->offset;
    int size = r->comm->size;
    if (r->begin >= offset[size]) return false;
    size_t left = offset[size] - r->begin;
    size_t end = r->begin + (left < r->comm->chunk_bytes ? left : r->comm->chunk_bytes);
    for (int i = 0; i < size; i++) {
        size_t low = offset[i] > r->begin ? offset[i] : r->begin;
        size_t high = offset[i + 1] < end ? offset[i + 1] : end;
        r->count[i] = low < high ? (int)(high - low) : 0;
        r->displacement[i] = low < high ? (int)(low - r->begin) : 0;
        if (i == r->comm->rank) r->mine = low < high ? low - offset[i] : 0;
    }
    return true;
}

/* A rank's own slice; to and from may be the same place, and NULL where there are no bytes. */
static void copy_slice(void *to, size_t to_offset, const void *from, size_t from_offset,
                       size_t bytes)
{
    if (bytes == 0) return;
    char *target = (char *)to + to_offset;
    const char *source = (const char *)from + from_offset;
    if (target != source) memmove(target, source, bytes);
}

mq_status mq_scatter(const mq_comm *comm, const void *send, const size_t *offset, void *recv,
                     size_t recv_bytes, int root)
{
    size_t *slices = NULL, n = (size_t)comm->size + 1;
    bool here = comm->rank == root;
    rounds r = {0};
    mq_status status =
        mq_agree(comm, mq_alloc((int64_t)n, sizeof *slices, "slices of a scatter", &slices));
    if (status == MQ_OK && here) memcpy(slices, offset, n * sizeof *slices);
    if (status == MQ_OK) status = mq_bcast(comm, slices, n * sizeof *slices, root);
    if (status == MQ_OK) status = rounds_start(&r, comm, slices, recv_bytes, "scatter");
    if (status == MQ_OK && here) copy_slice(recv, 0, send, slices[root], recv_bytes);
    for (; status == MQ_OK && rounds_next(&r); r.begin += comm->chunk_bytes) {
        int count = r.count[comm->rank];
        const void *from = here ? (const char *)send + r.begin : NULL;
        void *to = here ? MPI_IN_PLACE : count ? (char *)recv + r.mine : NULL;
        status = mq_mpi_check(MPI_Scatterv(from, r.count, r.displacement, MPI_BYTE, to, count,
                                           MPI_BYTE, root, comm->world),
                              "scatter");
    }
    mq_free(&r.count);
    mq_free(&slices);
    return status;
}

mq_status mq_gather(const mq_comm *comm, const void *send, size_t send_bytes, void *recv,
                    const size_t *offset, int root)
{
    bool here = comm->rank == root;
    rounds r;
    mq_status status = rounds_start(&r, comm, offset, send_bytes, "gather");
    if (status == MQ_OK && here) copy_slice(recv, offset[root], send, 0, send_bytes);
    for (; status == MQ_OK && rounds_next(&r); r.begin += comm->chunk_bytes) {
        int count = r.count[comm->rank];
        const void *from = here ? MPI_IN_PLACE : count ? (const char *)send + r.mine : NULL;
        void *to = here ? (char *)recv + r.begin : NULL;
        status = mq_mpi_check(MPI_Gatherv(from, count, MPI_BYTE, to, r.count, r.displacement,
                                          MPI_BYTE, root, comm->world),
                              "gather");
    }
    mq_free(&r.count);
    return status;
}

mq_status mq_allgather(const mq_comm *comm, const void *send, size_t send_bytes, void *recv,
                       const size_t *offset)
{
    rounds r;
    mq_status status = rounds_start(&r, comm, offset, send_bytes, "allgather");
    if (status == MQ_OK) copy_slice(recv, offset[comm->rank], send, 0, send_bytes);
    for (; status == MQ_OK && rounds_next(&r); r.begin += comm->chunk_bytes) {
        status = mq_mpi_check(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, (char *)recv + r.begin,
                                             r.count, r.displacement, MPI_BYTE, comm->world),
                              "allgather");
    }
    mq_free(&r.count);
    return status;
}
