#include "store/writer.h"

#include "base/hash.h"
#include "base/memory.h"
#include "par/collectives.h"
#include "store/writer_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- life ------------------------------------------------------------------------------------ */

static void free_writer(mq_writer **writer)
{
    mq_writer *w = *writer;
    if (!w) return;
    for (int32_t s = 0; w->shard && s < w->n_shards; s++) {
        mq_free(&w->shard[s].path);
        mq_free(&w->shard[s].part);
        mq_free(&w->shard[s].header);
    }
    mq_free(&w->shard);
    mq_free(&w->slot);
    mq_free((void *)&w->by_name);
    mq_free(&w->names);
    mq_free(&w->piece);
    mq_free(&w->checksum);
    mq_free(&w->folder);
    mq_free(writer);
}

/* What the tensors go into. */
typedef struct target {
    const char *folder;
    const mq_container *container;
    uint64_t max_shard_bytes;
    const mq_gguf_pairs *pairs;
    const char *const *stored;
} target;

static mq_status local_start(const mq_comm *comm, const target *to, const mq_out_tensor *tensors,
                             int64_t n, mq_writer **out)
{
    size_t bytes = strlen(to->folder) + 1;
    MQ_TRY(mq_alloc(1, sizeof **out, "writer", out));
    mq_writer *w = *out;
    w->comm = comm;
    w->container = to->container;
    w->pairs = to->pairs;
    w->stored = to->stored;
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "path", &w->folder));
    memcpy(w->folder, to->folder, bytes);
    mq_status status = mq_writer_lay_out(w, tensors, n, to->max_shard_bytes);
    w->pairs = NULL;
    w->stored = NULL;
    return status;
}

static mq_status create(const mq_comm *comm, const target *to, const mq_out_tensor *tensors,
                        int64_t n_tensors, mq_writer **out)
{
    mq_writer *w = NULL;
    *out = NULL;
    mq_status status = mq_agree(comm, local_start(comm, to, tensors, n_tensors, &w));
    if (status == MQ_OK) {
        status = mq_agree(comm, comm->rank == 0 ? mq_writer_create_files(w) : MQ_OK);
    }
    if (status != MQ_OK) {
        free_writer(&w);
        return status;
    }
    for (int32_t s = 0; s < w->n_shards; s++) mq_free(&w->shard[s].header);
    *out = w;
    return MQ_OK;
}

mq_status mq_writer_create(const mq_comm *comm, const char *folder, const mq_out_tensor *tensors,
                           int64_t n_tensors, uint64_t max_shard_bytes, mq_writer **out)
{
    target to = {folder, &mq_container_safetensors, max_shard_bytes, NULL, NULL};
    return create(comm, &to, tensors, n_tensors, out);
}

mq_status mq_writer_create_gguf(const mq_comm *comm, const char *folder, const mq_gguf_pairs *pairs,
                                const mq_out_tensor *tensors, const char *const *stored,
                                int64_t n_tensors, mq_writer **out)
{
    target to = {folder, &mq_container_gguf, UINT64_MAX, pairs, stored};
    return create(comm, &to, tensors, n_tensors, out);
}

void mq_writer_close_files(mq_writer *w)
{
    for (int32_t s = 0; s < w->n_shards; s++) {
        mq_shard *shard = &w->shard[s];
        if (shard->file != MPI_FILE_NULL) MPI_File_close(&shard->file);
        if (shard->fd >= 0) close(shard->fd);
        shard->fd = -1;
    }
}

void mq_writer_destroy(mq_writer **writer)
{
    mq_writer *w = *writer;
    if (!w) return;
    mq_writer_close_files(w);
    /* Some network file systems keep a removed file alive for those who still have it open. */
    mq_barrier(w->comm);
    if (!w->committed && w->comm->rank == 0) mq_writer_remove_files(w);
    free_writer(writer);
}

/* ---- writing --------------------------------------------------------------------------------- */

static mq_status file_check(int code, const char *path, const char *what)
{
    return mq_mpi_check(code, what) == MQ_OK ? MQ_OK : mq_fail_in(MQ_E_IO, "%s", path);
}

/* Opens a shard on first use. Our own descriptor is opened before anything is written, so that its
 * fsync reports whatever goes wrong later: MPI_File_sync and close do not. */
static mq_status open_shard(mq_shard *shard)
{
    if (shard->fd < 0) shard->fd = open(shard->part, O_RDWR | O_CLOEXEC);
    if (shard->fd < 0) {
        return mq_fail(MQ_E_IO, "%s: cannot open: %s", shard->part, mq_errno_text(errno));
    }
    if (shard->file != MPI_FILE_NULL) return MQ_OK;
    return file_check(
        MPI_File_open(MPI_COMM_SELF, shard->part, MPI_MODE_WRONLY, MPI_INFO_NULL, &shard->file),
        shard->part, "MPI_File_open");
}

/* One write of at most comm->chunk_bytes; *done is what really went out (disk errors show only
 * there). */
static mq_status write_part(const mq_shard *shard, uint64_t offset, const void *data, int count,
                            int *done)
{
    MPI_Status state;
    *done = 0;
    MQ_TRY(file_check(
        MPI_File_write_at(shard->file, (MPI_Offset)offset, data, count, MPI_BYTE, &state),
        shard->part, "MPI_File_write_at"));
    MQ_TRY(file_check(MPI_Get_count(&state, MPI_BYTE, done), shard->part, "MPI_Get_count"));
    if (*done > 0 && *done <= count) return MQ_OK;
    return mq_fail(MQ_E_IO, "%s: nothing written at offset %" PRIu64 ": disk full or failing",
                   shard->part, offset);
}

/* Short writes go on where they ended; one that moves nothing is an error. */
static mq_status write_all(const mq_writer *w, const mq_shard *shard, uint64_t offset,
                           const char *data, size_t bytes)
{
    while (bytes > 0) {
        int done = 0;
        int count = (int)(bytes < w->comm->chunk_bytes ? bytes : w->comm->chunk_bytes);
        MQ_TRY(write_part(shard, offset, data, count, &done));
        data += done;
        offset += (uint64_t)done;
        bytes -= (size_t)done;
    }
    return MQ_OK;
}

static mq_status keep_piece(mq_writer *w, const mq_piece *piece)
{
    if (w->n_pieces == w->room) {
        int64_t room = w->room ? 2 * w->room : 1024;
        mq_piece *larger = NULL;
        MQ_TRY(mq_alloc(room, sizeof *larger, "pieces written", &larger));
        if (w->n_pieces > 0) memcpy(larger, w->piece, (size_t)w->n_pieces * sizeof *larger);
        mq_free(&w->piece);
        w->piece = larger;
        w->room = room;
    }
    w->piece[w->n_pieces++] = *piece;
    return MQ_OK;
}

static int compare_name_with_slot(const void *name, const void *slot)
{
    return strcmp(name, (*(const mq_slot *const *)slot)->name);
}

static mq_status find_slot(const mq_writer *w, const char *name, uint64_t begin, size_t bytes,
                           const mq_slot **slot)
{
    const mq_slot **at = w->n_slots == 0 ? NULL
                                         : bsearch(name, w->by_name, (size_t)w->n_slots,
                                                   sizeof *w->by_name, compare_name_with_slot);
    if (!at) return mq_fail(MQ_E_INTERNAL, "tensor \"%.200s\" is not part of the output", name);
    *slot = *at;
    if (begin <= (*slot)->bytes && bytes <= (*slot)->bytes - begin) return MQ_OK;
    return mq_fail(MQ_E_INTERNAL,
                   "tensor \"%.200s\": %zu bytes at %" PRIu64 " do not fit its %" PRIu64, name,
                   bytes, begin, (*slot)->bytes);
}

mq_status mq_writer_put(mq_writer *writer, const char *name, uint64_t begin, const void *data,
                        size_t bytes)
{
    const mq_slot *slot = NULL;
    if (writer->committed) return mq_fail(MQ_E_INTERNAL, "the output is complete already");
    MQ_TRY(find_slot(writer, name, begin, bytes, &slot));
    if (bytes == 0) return MQ_OK;
    mq_shard *shard = &writer->shard[slot->shard];
    uint64_t offset = shard->data_start + slot->begin + begin;
    mq_status status = open_shard(shard);
    if (status == MQ_OK) status = write_all(writer, shard, offset, data, bytes);
    if (status != MQ_OK) return mq_fail_in(status, "tensor \"%.200s\"", name);
    mq_piece piece = {.slot = slot - writer->slot,
                      .rank = writer->comm->rank,
                      .begin = begin,
                      .bytes = bytes,
                      .hash = mq_hash(data, bytes)};
    return keep_piece(writer, &piece);
}

/* ---- questions ------------------------------------------------------------------------------- */

int64_t mq_writer_count(const mq_writer *writer)
{
    return writer->n_slots;
}

const char *mq_writer_name(const mq_writer *writer, int64_t i)
{
    return writer->slot[i].stored;
}

uint64_t mq_writer_checksum(const mq_writer *writer, int64_t i)
{
    return writer->checksum[i];
}

uint64_t mq_writer_total_bytes(const mq_writer *writer)
{
    return writer->total_bytes;
}

int32_t mq_writer_shards(const mq_writer *writer)
{
    return writer->n_shards;
}
