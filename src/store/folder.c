#include "store/folder.h"

#include "base/file.h"
#include "base/memory.h"
#include "par/collectives.h"
#include "store/folder_private.h"
#include "store/folder_scan.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/* ---- what rank 0 sends ------------------------------------------------------------------------
 * Bytes one after the other: counts, then per shard its data_start and name, then per tensor its
 * numbers and name (both with their NUL). All ranks of a run have one byte order. */

/* base NULL: only counts. */
typedef struct cursor {
    char *base;
    size_t at;
} cursor;

static void put(cursor *c, const void *data, size_t bytes)
{
    if (c->base) memcpy(c->base + c->at, data, bytes);
    c->at += bytes;
}

static void take(cursor *c, void *data, size_t bytes)
{
    memcpy(data, c->base + c->at, bytes);
    c->at += bytes;
}

static char *take_text(cursor *c)
{
    char *text = c->base + c->at;
    c->at += strlen(text) + 1;
    return text;
}

static void put_scan(cursor *c, const mq_folder_scan *scan)
{
    put(c, &scan->n_shards, sizeof scan->n_shards);
    put(c, &scan->n_tensors, sizeof scan->n_tensors);
    for (int32_t s = 0; s < scan->n_shards; s++) {
        put(c, &scan->header[s].data_start, sizeof scan->header[s].data_start);
        put(c, scan->shard[s], strlen(scan->shard[s]) + 1);
    }
    for (int64_t i = 0; i < scan->n_tensors; i++) {
        const mq_tensor *t = &scan->tensor[i];
        put(c, &t->dtype, sizeof t->dtype);
        put(c, &t->n_dims, sizeof t->n_dims);
        put(c, t->dim, (size_t)t->n_dims * sizeof t->dim[0]);
        put(c, &t->begin, sizeof t->begin);
        put(c, &t->end, sizeof t->end);
        put(c, &t->shard, sizeof t->shard);
        put(c, t->name, strlen(t->name) + 1);
    }
}

typedef mq_status scanner(const char *path, mq_folder_scan *out);

static mq_status scan_to_bytes(const char *path, scanner *scan_files, char **bytes, int64_t *n)
{
    mq_folder_scan scan;
    cursor c = {0};
    mq_status status = scan_files(path, &scan);
    if (status == MQ_OK) {
        put_scan(&c, &scan);
        *n = (int64_t)c.at;
        status = mq_alloc(*n, 1, "headers of a model folder", bytes);
    }
    if (status == MQ_OK) {
        c = (cursor){.base = *bytes};
        put_scan(&c, &scan);
    }
    mq_folder_scan_clear(&scan);
    return status;
}

static mq_status folder_from_bytes(mq_folder *f)
{
    cursor c = {.base = f->storage};
    int32_t n_shards = 0;
    take(&c, &n_shards, sizeof n_shards);
    take(&c, &f->n_tensors, sizeof f->n_tensors);
    MQ_TRY(mq_alloc(n_shards, sizeof *f->shard, "shard names", &f->shard));
    MQ_TRY(mq_alloc(n_shards, sizeof *f->data_start, "shard offsets", &f->data_start));
    MQ_TRY(mq_alloc(n_shards, sizeof *f->fd, "shard files", &f->fd));
    MQ_TRY(mq_alloc(f->n_tensors, sizeof *f->tensor, "tensors of a folder", &f->tensor));
    for (; f->n_shards < n_shards; f->n_shards++) {
        f->fd[f->n_shards] = -1;
        take(&c, &f->data_start[f->n_shards], sizeof f->data_start[0]);
        f->shard[f->n_shards] = take_text(&c);
    }
    for (int64_t i = 0; i < f->n_tensors; i++) {
        mq_tensor *t = &f->tensor[i];
        take(&c, &t->dtype, sizeof t->dtype);
        take(&c, &t->n_dims, sizeof t->n_dims);
        take(&c, t->dim, (size_t)t->n_dims * sizeof t->dim[0]);
        take(&c, &t->begin, sizeof t->begin);
        take(&c, &t->end, sizeof t->end);
        take(&c, &t->shard, sizeof t->shard);
        t->name = take_text(&c);
    }
    return MQ_OK;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Rank 0's bytes to every rank. */
static mq_status share_bytes(const mq_comm *comm, mq_folder *f, int64_t n)
{
    mq_status status = mq_agree(comm, mq_bcast(comm, &n, sizeof n, 0));
    if (status != MQ_OK) return status;
    if (comm->rank != 0) status = mq_alloc(n, 1, "headers of a model folder", &f->storage);
    status = mq_agree(comm, status);
    if (status != MQ_OK) return status;
    status = mq_agree(comm, mq_bcast(comm, f->storage, (size_t)n, 0));
    if (status != MQ_OK) return status;
    return mq_agree(comm, folder_from_bytes(f));
}

static mq_status local_start(const mq_comm *comm, const char *path, scanner *scan_files,
                             mq_folder **f, int64_t *n)
{
    size_t bytes = strlen(path) + 1;
    MQ_TRY(mq_alloc(1, sizeof **f, "model folder", f));
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "path", &(*f)->path));
    memcpy((*f)->path, path, bytes);
    return comm->rank == 0 ? scan_to_bytes(path, scan_files, &(*f)->storage, n) : MQ_OK;
}

static mq_status open_folder(const mq_comm *comm, const char *path, scanner *scan_files,
                             mq_folder **out)
{
    mq_folder *f = NULL;
    int64_t n = 0;
    *out = NULL;
    mq_status status = mq_agree(comm, local_start(comm, path, scan_files, &f, &n));
    if (status == MQ_OK) status = share_bytes(comm, f, n);
    if (status != MQ_OK) {
        mq_folder_close(&f);
        return status;
    }
    *out = f;
    return MQ_OK;
}

mq_status mq_folder_open(const mq_comm *comm, const char *path, mq_folder **out)
{
    return open_folder(comm, path, mq_folder_scan_files, out);
}

mq_status mq_folder_open_gguf(const mq_comm *comm, const char *path, mq_folder **out)
{
    return open_folder(comm, path, mq_folder_scan_gguf, out);
}

mq_status mq_folder_open_any(const mq_comm *comm, const char *path, mq_folder **out)
{
    return open_folder(comm, path, mq_folder_scan_any, out);
}

void mq_folder_close(mq_folder **folder)
{
    mq_folder *f = *folder;
    if (!f) return;
    for (int32_t s = 0; s < f->n_shards; s++) {
        if (f->fd[s] >= 0) close(f->fd[s]);
    }
    mq_free(&f->path);
    mq_free(&f->shard);
    mq_free(&f->data_start);
    mq_free(&f->fd);
    mq_free(&f->tensor);
    mq_free(&f->storage);
    mq_free(folder);
}

const mq_tensor *mq_folder_find(const mq_folder *folder, const char *name)
{
    return mq_tensor_find(folder->tensor, folder->n_tensors, name);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* A shard's file, opened on first use. */
typedef struct shard_file {
    char *path; /* to be freed */
    int fd;
} shard_file;

static mq_status open_shard(mq_folder *f, const mq_tensor *t, shard_file *out)
{
    int *fd = &f->fd[t->shard];
    MQ_TRY(mq_path_join(f->path, f->shard[t->shard], &out->path));
    if (*fd < 0) *fd = open(out->path, O_RDONLY | O_CLOEXEC);
    out->fd = *fd;
    if (*fd >= 0) return MQ_OK;
    return mq_fail(MQ_E_IO, "%s: cannot open: %s", out->path, mq_errno_text(errno));
}

/* Ends the use of a shard's file; the status of that use, with the tensor's name where it failed.
 */
static mq_status done_with(shard_file *file, const mq_tensor *t, mq_status status)
{
    mq_free(&file->path);
    return status == MQ_OK ? MQ_OK : mq_fail_in(status, "tensor \"%.200s\"", t->name);
}

static int64_t offset_of(const mq_folder *f, const mq_tensor *t, uint64_t begin)
{
    return (int64_t)(f->data_start[t->shard] + t->begin + begin);
}

mq_status mq_folder_read(mq_folder *folder, const mq_tensor *tensor, uint64_t begin, size_t bytes,
                         void *dst)
{
    shard_file file = {NULL, -1};
    uint64_t size = tensor->end - tensor->begin;
    if (begin > size || bytes > size - begin) {
        return mq_fail(MQ_E_INTERNAL,
                       "tensor \"%.200s\": asked for %zu bytes at %" PRIu64 " of %" PRIu64,
                       tensor->name, bytes, begin, size);
    }
    mq_status status = open_shard(folder, tensor, &file);
    if (status == MQ_OK) {
        status = mq_pread_all(file.fd, file.path, dst, bytes, offset_of(folder, tensor, begin));
    }
    return done_with(&file, tensor, status);
}

/* ---- mapping --------------------------------------------------------------------------------- */

mq_status mq_folder_map(mq_folder *folder)
{
    folder->mapped = mq_view_possible();
    if (folder->mapped) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: reading through mmap needs Linux 5.14: leave out --mmap",
                   folder->path);
}

mq_status mq_folder_view_open(mq_folder *folder, const mq_tensor *tensor, int64_t first, int64_t n,
                              mq_view *view)
{
    shard_file file = {NULL, -1};
    size_t size = mq_dtype_size(tensor->dtype);
    mq_status status = open_shard(folder, tensor, &file);
    if (status == MQ_OK) {
        status = mq_view_open(file.fd, file.path, offset_of(folder, tensor, (uint64_t)first * size),
                              (size_t)n * size, view);
    }
    return done_with(&file, tensor, status);
}

mq_status mq_folder_view_close(const mq_folder *folder, const mq_tensor *tensor, mq_view *view)
{
    mq_status status = mq_view_close(view, folder->shard[tensor->shard]);
    return status == MQ_OK ? MQ_OK : mq_fail_in(status, "tensor \"%.200s\"", tensor->name);
}
