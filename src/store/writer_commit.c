#include "base/memory.h"
#include "par/collectives.h"
#include "store/writer_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { READ_BYTES = 8 << 20 };

/* All pieces of all ranks, sorted by tensor and offset; the same on every rank. */
typedef struct record {
    mq_piece *piece;
    int64_t n;
} record;

/* ---- closing --------------------------------------------------------------------------------- */

static mq_status sync_shard(mq_shard *shard)
{
    mq_status status = MQ_OK;
    if (shard->file != MPI_FILE_NULL) {
        status = mq_mpi_check(MPI_File_close(&shard->file), "MPI_File_close");
        if (status != MQ_OK) status = mq_fail_in(MQ_E_IO, "%s", shard->part);
    }
    if (shard->fd >= 0 && fsync(shard->fd) != 0 && status == MQ_OK) {
        status = mq_fail(MQ_E_IO, "%s: fsync: %s", shard->part, mq_errno_text(errno));
    }
    if (shard->fd >= 0 && close(shard->fd) != 0 && status == MQ_OK) {
        status = mq_fail(MQ_E_IO, "%s: close: %s", shard->part, mq_errno_text(errno));
    }
    shard->fd = -1;
    return status;
}

static mq_status sync_all(mq_writer *w)
{
    mq_status first = MQ_OK;
    for (int32_t s = 0; s < w->n_shards; s++) {
        mq_status status = sync_shard(&w->shard[s]);
        if (first == MQ_OK) first = status;
    }
    return first;
}

/* ---- the record of pieces -------------------------------------------------------------------- */

static int compare_pieces(const void *a, const void *b)
{
    const mq_piece *x = a, *y = b;
    if (x->slot != y->slot) return x->slot < y->slot ? -1 : 1;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* Collective; leaves together. */
static mq_status gather_pieces(const mq_writer *w, record *all)
{
    const mq_comm *comm = w->comm;
    size_t *offset = NULL, mine = (size_t)w->n_pieces * sizeof *w->piece;
    mq_status status =
        mq_agree(comm, mq_alloc(comm->size + 1, sizeof *offset, "sizes of pieces", &offset));
    if (status == MQ_OK) status = mq_agree(comm, mq_gather_sizes(comm, mine, offset));
    if (status == MQ_OK) {
        all->n = (int64_t)(offset[comm->size] / sizeof *all->piece);
        status = mq_agree(comm, mq_alloc(all->n, sizeof *all->piece, "all pieces", &all->piece));
    }
    if (status == MQ_OK) {
        status = mq_agree(comm, mq_allgather(comm, w->piece, mine, all->piece, offset));
    }
    if (status == MQ_OK) qsort(all->piece, (size_t)all->n, sizeof *all->piece, compare_pieces);
    mq_free(&offset);
    return status;
}

/* The pieces of every tensor must follow each other from its first byte to its last. */
static mq_status check_cover(const mq_writer *w, const record *all)
{
    int64_t p = 0;
    for (int64_t i = 0; i < w->n_slots; i++) {
        const mq_slot *slot = &w->slot[i];
        uint64_t at = 0;
        for (; p < all->n && all->piece[p].slot == i && all->piece[p].begin == at; p++) {
            at += all->piece[p].bytes;
        }
        bool stray = p < all->n && all->piece[p].slot == i;
        if (stray && all->piece[p].begin < at) {
            return mq_fail(MQ_E_INTERNAL,
                           "tensor \"%.200s\": rank %" PRId64 " wrote from byte %" PRIu64
                           ", which was written up to %" PRIu64 " already",
                           slot->name, all->piece[p].rank, all->piece[p].begin, at);
        }
        if (stray || at != slot->bytes) {
            return mq_fail(MQ_E_INTERNAL,
                           "tensor \"%.200s\": no rank wrote its bytes from %" PRIu64
                           " of %" PRIu64,
                           slot->name, at, slot->bytes);
        }
    }
    return MQ_OK;
}

/* ---- reading back ---------------------------------------------------------------------------- */

/* What one rank needs to read back its share. */
typedef struct reading {
    mq_writer *w;
    const record *all;
    char *buffer;        /* READ_BYTES */
    int64_t *last_wrote; /* per rank: 1 + the last tensor for which it was seen as a writer */
    XXH3_state_t *whole, *part;
} reading;

/* Fresh pages, not the ones that were just written through this node's cache. */
static mq_status open_for_reading(mq_shard *shard)
{
    if (shard->fd >= 0) return MQ_OK;
    shard->fd = open(shard->part, O_RDONLY | O_CLOEXEC);
    if (shard->fd < 0) {
        return mq_fail(MQ_E_IO, "%s: cannot open to read it back: %s", shard->part,
                       mq_errno_text(errno));
    }
    posix_fadvise(shard->fd, 0, 0, POSIX_FADV_DONTNEED); /* advice: no failure matters */
    return MQ_OK;
}

/* Like mq_pread_all, but a file that ends early is a failing disk here, not bad input. */
static mq_status read_some(const mq_shard *shard, char *dst, size_t bytes, uint64_t offset)
{
    while (bytes > 0) {
        ssize_t got = pread(shard->fd, dst, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            return mq_fail(MQ_E_IO, "%s: cannot read back %zu bytes at %" PRIu64 ": %s",
                           shard->part, bytes, offset,
                           got == 0 ? "the file is too short" : mq_errno_text(errno));
        }
        dst += got;
        bytes -= (size_t)got;
        offset += (uint64_t)got;
    }
    return MQ_OK;
}

/* Re-reads a piece and compares; its bytes also go into the hash of the whole tensor. */
static mq_status read_piece(const reading *r, const mq_piece *piece, bool hash_whole)
{
    const mq_slot *slot = &r->w->slot[piece->slot];
    mq_shard *shard = &r->w->shard[slot->shard];
    uint64_t offset = shard->data_start + slot->begin + piece->begin, left = piece->bytes;
    MQ_TRY(open_for_reading(shard));
    XXH3_64bits_reset(r->part);
    while (left > 0) {
        size_t n = left < READ_BYTES ? (size_t)left : READ_BYTES;
        MQ_TRY(read_some(shard, r->buffer, n, offset));
        XXH3_64bits_update(r->part, r->buffer, n);
        if (hash_whole) XXH3_64bits_update(r->whole, r->buffer, n);
        offset += n;
        left -= n;
    }
    if (XXH3_64bits_digest(r->part) == piece->hash) return MQ_OK;
    return mq_fail(MQ_E_IO,
                   "%s: tensor \"%.200s\": bytes %" PRIu64 " to %" PRIu64 " read back on rank %d "
                   "are not those that rank %" PRId64 " wrote: the storage lost or changed them",
                   shard->part, slot->name, piece->begin, piece->begin + piece->bytes,
                   r->w->comm->rank, piece->rank);
}

/* The rank that reads tensor i as a whole: the first from i mod P that wrote none of it, else
 * i mod P. */
static int64_t reader_of(const reading *r, int64_t i, int64_t first, int64_t end)
{
    int64_t size = r->w->comm->size;
    for (int64_t p = first; p < end; p++) r->last_wrote[r->all->piece[p].rank] = i + 1;
    for (int64_t k = 0; k < size; k++) {
        if (r->last_wrote[(i + k) % size] != i + 1) return (i + k) % size;
    }
    return i % size;
}

/* This rank's part in tensor i, whose pieces are [first, end): all of it as its reader, or those
 * pieces of which the reader itself is the writer. */
static mq_status read_tensor(const reading *r, int64_t i, int64_t first, int64_t end)
{
    const mq_comm *comm = r->w->comm;
    int64_t reader = reader_of(r, i, first, end);
    XXH3_64bits_reset(r->whole);
    for (int64_t p = first; p < end; p++) {
        const mq_piece *piece = &r->all->piece[p];
        bool second = piece->rank == reader && comm->rank == (reader + 1) % comm->size;
        if (comm->rank == reader || second) MQ_TRY(read_piece(r, piece, comm->rank == reader));
    }
    if (comm->rank == reader) r->w->checksum[i] = XXH3_64bits_digest(r->whole);
    return MQ_OK;
}

/* Shard s is opened like any reader would by a rank other than 0, which wrote the header. */
static mq_status read_headers(const mq_writer *w)
{
    for (int32_t s = 0; s < w->n_shards; s++) {
        mq_header header = {0};
        if ((s + 1) % w->comm->size != w->comm->rank) continue;
        mq_status status = w->container->read(w->shard[s].part, &header);
        bool same =
            header.n_tensors == w->shard[s].n && header.data_start == w->shard[s].data_start;
        mq_header_clear(&header);
        if (status != MQ_OK) return mq_fail_in(MQ_E_IO, "reading back");
        if (!same) return mq_fail(MQ_E_IO, "%s: another header than was written", w->shard[s].part);
    }
    return MQ_OK;
}

static mq_status read_share(const reading *r)
{
    int64_t p = 0;
    MQ_TRY(read_headers(r->w));
    for (int64_t i = 0; i < r->w->n_slots; i++) {
        int64_t first = p;
        while (p < r->all->n && r->all->piece[p].slot == i) p++;
        MQ_TRY(read_tensor(r, i, first, p));
    }
    return MQ_OK;
}

static mq_status read_back(mq_writer *w, const record *all)
{
    reading r = {.w = w, .all = all, .whole = XXH3_createState(), .part = XXH3_createState()};
    mq_status status = r.whole && r.part ? MQ_OK : mq_fail(MQ_E_MEMORY, "no memory for XXH3");
    if (status == MQ_OK) status = mq_alloc(READ_BYTES, 1, "buffer to read back", &r.buffer);
    if (status == MQ_OK) {
        status = mq_alloc(w->comm->size, sizeof *r.last_wrote, "writers", &r.last_wrote);
    }
    if (status == MQ_OK) status = read_share(&r);
    mq_writer_close_files(w);
    mq_free(&r.buffer);
    mq_free(&r.last_wrote);
    XXH3_freeState(r.whole);
    XXH3_freeState(r.part);
    return status;
}

/* Each checksum is known to one rank and 0 on the others, so that their sum is exact. */
static mq_status share_checksums(const mq_writer *w)
{
    return mq_sum_i64(w->comm, (int64_t *)w->checksum, w->n_slots);
}

/* ---- commit ---------------------------------------------------------------------------------- */

mq_status mq_writer_commit(mq_writer *writer)
{
    const mq_comm *comm = writer->comm;
    record all = {0};
    if (writer->committed) return mq_fail(MQ_E_INTERNAL, "the output is complete already");
    mq_status status = mq_agree(comm, sync_all(writer));
    if (status == MQ_OK) status = gather_pieces(writer, &all);
    if (status == MQ_OK) status = mq_agree(comm, check_cover(writer, &all));
    if (status == MQ_OK) status = mq_agree(comm, read_back(writer, &all));
    if (status == MQ_OK) status = mq_agree(comm, share_checksums(writer));
    if (status == MQ_OK) {
        status = mq_agree(comm, comm->rank == 0 ? mq_writer_publish(writer) : MQ_OK);
    }
    writer->committed = status == MQ_OK;
    mq_free(&all.piece);
    return status;
}
