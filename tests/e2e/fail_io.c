/* Preloaded into a process: its FAIL_AT-th call (from 1) that writes to a file under FAIL_IN, makes
 * it durable, reserves room for it or renames it fails with the error number FAIL_WITH. With
 * OMPI_COMM_WORLD_RANK only the rank FAIL_RANK counts. FAIL_RENAME instead of FAIL_AT: every rename
 * to a path that begins with FAIL_IN fails with that error number, as on storage that cannot
 * rename. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_due(const char *path)
{
    static long count;
    const char *at = getenv("FAIL_AT"), *in = getenv("FAIL_IN"), *rank = getenv("FAIL_RANK");
    const char *mine = getenv("OMPI_COMM_WORLD_RANK");
    if (!at || !in || strncmp(path, in, strlen(in)) != 0) return 0;
    if (rank && mine && strcmp(rank, mine) != 0) return 0;
    if (__atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST) != atol(at)) return 0;
    errno = atoi(getenv("FAIL_WITH"));
    return 1;
}

static int fd_is_due(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = '\0';
    return is_due(path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t n)
{
    return fd_is_due(fd) ? -1 : NEXT(write)(fd, data, n);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    return fd_is_due(fd) ? -1 : NEXT(pwrite)(fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
    return fd_is_due(fd) ? -1 : NEXT(pwrite64)(fd, data, n, at);
}

ssize_t writev(int fd, const struct iovec *v, int n)
{
    return fd_is_due(fd) ? -1 : NEXT(writev)(fd, v, n);
}

int fsync(int fd)
{
    return fd_is_due(fd) ? -1 : NEXT(fsync)(fd);
}

int ftruncate(int fd, off_t n)
{
    return fd_is_due(fd) ? -1 : NEXT(ftruncate)(fd, n);
}

int ftruncate64(int fd, off64_t n)
{
    return fd_is_due(fd) ? -1 : NEXT(ftruncate64)(fd, n);
}

int fallocate(int fd, int mode, off_t at, off_t n);
int fallocate(int fd, int mode, off_t at, off_t n)
{
    return fd_is_due(fd) ? -1 : NEXT(fallocate)(fd, mode, at, n);
}

int fallocate64(int fd, int mode, off64_t at, off64_t n);
int fallocate64(int fd, int mode, off64_t at, off64_t n)
{
    return fd_is_due(fd) ? -1 : NEXT(fallocate64)(fd, mode, at, n);
}

int rename(const char *from, const char *to)
{
    const char *why = getenv("FAIL_RENAME"), *in = getenv("FAIL_IN");
    if (why && in && strncmp(to, in, strlen(in)) == 0) {
        errno = atoi(why);
        return -1;
    }
    return is_due(to) ? -1 : NEXT(rename)(from, to);
}
