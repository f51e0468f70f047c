#ifndef MQ_BENCH_FILES_H
#define MQ_BENCH_FILES_H

#include "base/file.h"
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* Plain system calls on the files of a model folder: what the store is measured against. */

enum { BENCH_BLOCK = 8 << 20 }; /* bytes a call */

/** Forgets a file's pages, which must be on the disk already. A cache below this system, such as a
 *  virtual machine's host, stays warm. */
static inline void forget_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

/** Reads a whole file with preads of a block, and adds its length to *bytes. */
static inline mq_status read_file(const char *path, char *block, int64_t *bytes)
{
    struct stat s;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mq_fail(MQ_E_IO, "%s: %s", path, mq_errno_text(errno));
    mq_status status = fstat(fd, &s) == 0 ? MQ_OK : mq_fail(MQ_E_IO, "%s: no length", path);
    for (int64_t at = 0; status == MQ_OK && at < s.st_size; at += BENCH_BLOCK) {
        int64_t left = s.st_size - at;
        status =
            mq_pread_all(fd, path, block, (size_t)(left < BENCH_BLOCK ? left : BENCH_BLOCK), at);
    }
    if (status == MQ_OK) *bytes += s.st_size;
    close(fd);
    return status;
}

#endif
