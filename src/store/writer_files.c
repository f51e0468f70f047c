#define _GNU_SOURCE /* fallocate: it never falls back to writing every block, posix_fallocate does \
                     */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/writer_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Rank 0's work on files: create with reserved space, remove, publish. */

static uint64_t file_bytes(const mq_shard *shard)
{
    return shard->data_start + shard->data_bytes;
}

static uint64_t all_files_bytes(const mq_writer *w)
{
    uint64_t sum = 0;
    for (int32_t s = 0; s < w->n_shards; s++) sum += file_bytes(&w->shard[s]);
    return sum;
}

/* Bytes the file system of the output has left for us; 0 when it cannot tell. */
static uint64_t bytes_free(const char *folder)
{
    struct statvfs s;
    return statvfs(folder, &s) == 0 ? (uint64_t)s.f_bavail * (uint64_t)s.f_frsize : 0;
}

/* ---- creating -------------------------------------------------------------------------------- */

/* Disk space before the first file is reserved. */
typedef struct room {
    const char *folder;
    uint64_t needed, free; /* by all files together; 0 when the file system does not tell */
    bool warned;           /* that the file system cannot reserve */
} room;

static mq_status no_room(const room *r, const mq_shard *shard, const char *why)
{
    return mq_fail(MQ_E_IO,
                   "%s: cannot reserve %" PRIu64 " bytes (%s): the output needs %" PRIu64
                   " bytes in all, %" PRIu64 " were free: make room or choose another folder",
                   shard->part, file_bytes(shard), why, r->needed, r->free);
}

/* Where the file system cannot reserve: a file of the right length, which promises nothing. */
static mq_status reserve_weakly(room *r, const mq_shard *shard, int fd)
{
    if (ftruncate(fd, (off_t)file_bytes(shard)) != 0) {
        return no_room(r, shard, mq_errno_text(errno));
    }
    if (!r->warned) {
        mq_warn("%s: this file system cannot reserve space; the output needs %" PRIu64
                " bytes, and nothing guarantees that it will find them",
                r->folder, r->needed);
    }
    r->warned = true;
    return MQ_OK;
}

static mq_status reserve(room *r, const mq_shard *shard, int fd)
{
    int code = 0;
    do {
        code = fallocate(fd, 0, 0, (off_t)file_bytes(shard));
    } while (code != 0 && errno == EINTR);
    if (code == 0) return MQ_OK;
    if (errno == EOPNOTSUPP || errno == ENOSYS) return reserve_weakly(r, shard, fd);
    return no_room(r, shard, mq_errno_text(errno));
}

static mq_status write_start(int fd, const char *path, const char *data, size_t bytes)
{
    off_t offset = 0;
    while (bytes > 0) {
        ssize_t put = pwrite(fd, data, bytes, offset);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            return mq_fail(MQ_E_IO, "%s: cannot write the header: %s", path,
                           mq_errno_text(put == 0 ? ENOSPC : errno));
        }
        data += put;
        offset += put;
        bytes -= (size_t)put;
    }
    return MQ_OK;
}

static mq_status write_header(const mq_shard *shard, int fd)
{
    MQ_TRY(write_start(fd, shard->part, shard->header, (size_t)shard->data_start));
    if (fsync(fd) == 0) return MQ_OK;
    return mq_fail(MQ_E_IO, "%s: fsync: %s", shard->part, mq_errno_text(errno));
}

static mq_status create_file(room *r, const mq_shard *shard)
{
    int fd = open(shard->part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        return mq_fail(MQ_E_IO, "%s: cannot create: %s", shard->part, mq_errno_text(errno));
    }
    mq_status status = reserve(r, shard, fd);
    if (status == MQ_OK) status = write_header(shard, fd);
    if (close(fd) != 0 && status == MQ_OK) {
        status = mq_fail(MQ_E_IO, "%s: close: %s", shard->part, mq_errno_text(errno));
    }
    if (status != MQ_OK) unlink(shard->part);
    return status;
}

void mq_writer_remove_files(const mq_writer *w)
{
    for (int32_t s = 0; s < w->n_shards; s++) unlink(w->shard[s].part);
}

/* What an interrupted run left behind goes first, then what is free is looked at: fallocate would
 * fill the disk up to its last byte, under everybody's feet, before it failed. */
mq_status mq_writer_create_files(const mq_writer *w)
{
    mq_writer_remove_files(w);
    room r = {w->folder, all_files_bytes(w), bytes_free(w->folder), false};
    if (r.free > 0 && r.free < r.needed) return no_room(&r, &w->shard[0], "too little is free");
    for (int32_t s = 0; s < w->n_shards; s++) {
        mq_status status = create_file(&r, &w->shard[s]);
        if (status == MQ_OK) continue;
        for (int32_t made = 0; made < s; made++) unlink(w->shard[made].part);
        return status;
    }
    return MQ_OK;
}

/* ---- publishing ------------------------------------------------------------------------------ */

static mq_status fill_index(const mq_writer *w, cJSON *index)
{
    cJSON *metadata = cJSON_CreateObject(), *map = cJSON_CreateObject();
    mq_status status = mq_json_add(index, "metadata", metadata);
    if (status == MQ_OK) {
        status = mq_json_add_int(metadata, "total_size", (int64_t)w->total_bytes);
    }
    if (status != MQ_OK) {
        cJSON_Delete(map);
        return status;
    }
    MQ_TRY(mq_json_add(index, "weight_map", map));
    for (int64_t i = 0; i < w->n_slots; i++) {
        const mq_slot *s = w->by_name[i];
        MQ_TRY(mq_json_add_string(map, s->name, w->shard[s->shard].name));
    }
    return MQ_OK;
}

static mq_status write_index(const mq_writer *w)
{
    char *path = NULL, *text = NULL;
    cJSON *index = cJSON_CreateObject();
    mq_status status = fill_index(w, index);
    if (status == MQ_OK) {
        text = mq_json_print(index);
        if (!text) status = mq_fail(MQ_E_MEMORY, "no memory for the index of the output");
    }
    if (status == MQ_OK) status = mq_path_join(w->folder, "model.safetensors.index.json", &path);
    if (status == MQ_OK) {
        status = mq_write_file(path, text, strlen(text));
        if (status == MQ_OK) status = mq_sync_folder(w->folder);
        if (status != MQ_OK) unlink(path);
    }
    mq_free(&path);
    cJSON_free(text);
    cJSON_Delete(index);
    return status;
}

static mq_status rename_all(const mq_writer *w, int32_t *renamed)
{
    for (*renamed = 0; *renamed < w->n_shards; (*renamed)++) {
        const mq_shard *shard = &w->shard[*renamed];
        MQ_TRY(mq_rename(shard->part, shard->path));
    }
    return mq_sync_folder(w->folder);
}

mq_status mq_writer_publish(const mq_writer *w)
{
    int32_t renamed = 0;
    mq_status status = rename_all(w, &renamed);
    if (status == MQ_OK && w->n_shards > 1) status = write_index(w);
    if (status == MQ_OK) return MQ_OK;
    for (int32_t s = 0; s < renamed; s++) {
        if (rename(w->shard[s].path, w->shard[s].part) != 0) unlink(w->shard[s].path);
    }
    return status;
}
