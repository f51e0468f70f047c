#include "base/file.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Linux moves at most 0x7ffff000 bytes a call; 256 MiB keeps calls large and interruptible. */
static const size_t io_chunk = (size_t)256 << 20;

mq_status mq_path_join(const char *folder, const char *name, char **out)
{
    size_t bytes = strlen(folder) + strlen(name) + 2;
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "path", out));
    snprintf(*out, bytes, "%s/%s", folder, name);
    return MQ_OK;
}

bool mq_file_exists(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0;
}

bool mq_is_folder(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

mq_status mq_pread_all(int fd, const char *path, void *dst, size_t bytes, int64_t offset)
{
    char *at = dst;
    while (bytes > 0) {
        ssize_t got = pread(fd, at, bytes < io_chunk ? bytes : io_chunk, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            return mq_fail(MQ_E_IO, "%s: cannot read %zu bytes at %" PRId64 ": %s", path, bytes,
                           offset, mq_errno_text(errno));
        }
        if (got == 0) {
            return mq_fail(MQ_E_INPUT,
                           "%s: ends %zu bytes too early (read at %" PRId64
                           "): the file is truncated, copy it again",
                           path, bytes, offset);
        }
        at += got;
        bytes -= (size_t)got;
        offset += got;
    }
    return MQ_OK;
}

mq_status mq_read_text(const char *path, size_t limit, char **out, size_t *length)
{
    struct stat s;
    mq_status status = MQ_OK;
    *out = NULL;
    /* A named pipe would wait for a writer; without blocking it is opened and then refused. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return mq_fail(MQ_E_IO, "%s: cannot open: %s", path, mq_errno_text(errno));
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        status = mq_fail(MQ_E_IO, "%s: not a regular file", path);
    } else if ((uint64_t)s.st_size > limit) {
        status =
            mq_fail(MQ_E_INPUT, "%s: %" PRId64 " bytes, more than the %zu such a file may have",
                    path, (int64_t)s.st_size, limit);
    }
    if (status == MQ_OK) status = mq_alloc(s.st_size + 1, 1, "text of a file", out);
    if (status == MQ_OK) status = mq_pread_all(fd, path, *out, (size_t)s.st_size, 0);
    if (status == MQ_OK && length) *length = (size_t)s.st_size;
    if (status != MQ_OK) mq_free(out);
    close(fd);
    return status;
}

static mq_status write_all(int fd, const char *path, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t put = write(fd, data, bytes < io_chunk ? bytes : io_chunk);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            return mq_fail(MQ_E_IO, "%s: cannot write %zu bytes: %s", path, bytes,
                           mq_errno_text(put == 0 ? ENOSPC : errno));
        }
        data += put;
        bytes -= (size_t)put;
    }
    return MQ_OK;
}

mq_status mq_rename(const char *from, const char *to)
{
    if (rename(from, to) == 0) return MQ_OK;
    int why = errno;
    bool never = why == EXDEV || why == EPERM || why == ENOSYS || why == EOPNOTSUPP;
    return mq_fail(MQ_E_IO, "%s: cannot rename to %s: %s%s", from, to, mq_errno_text(why),
                   never ? ": this storage does not rename files within a folder; choose another"
                         : "");
}

mq_status mq_write_file(const char *path, const void *data, size_t bytes)
{
    char temporary[4096];
    int n = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    if (n < 0 || (size_t)n >= sizeof temporary) return mq_fail(MQ_E_IO, "%s: name too long", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return mq_fail(MQ_E_IO, "%s: cannot create: %s", temporary, mq_errno_text(errno));
    mq_status status = write_all(fd, temporary, data, bytes);
    if (status == MQ_OK && fsync(fd) != 0) {
        status = mq_fail(MQ_E_IO, "%s: fsync: %s", temporary, mq_errno_text(errno));
    }
    if (close(fd) != 0 && status == MQ_OK) {
        status = mq_fail(MQ_E_IO, "%s: close: %s", temporary, mq_errno_text(errno));
    }
    if (status == MQ_OK) status = mq_rename(temporary, path);
    if (status != MQ_OK) unlink(temporary);
    return status;
}

mq_status mq_sync_folder(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return mq_fail(MQ_E_IO, "%s: cannot open: %s", path, mq_errno_text(errno));
    /* Some network file systems cannot fsync a folder and say EINVAL: names are durable there. */
    mq_status status = MQ_OK;
    if (fsync(fd) != 0 && errno != EINVAL) {
        status = mq_fail(MQ_E_IO, "%s: fsync of the folder: %s", path, mq_errno_text(errno));
    }
    close(fd);
    return status;
}

static mq_status digest_stream(FILE *f, const char *path, EVP_MD_CTX *ctx, unsigned char digest[32])
{
    unsigned char buffer[1 << 16];
    size_t got = 0;
    unsigned int digest_bytes = 0;
    bool good = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;
    while (good && (got = fread(buffer, 1, sizeof buffer, f)) > 0) {
        good = EVP_DigestUpdate(ctx, buffer, got) == 1;
    }
    if (ferror(f)) return mq_fail(MQ_E_IO, "%s: cannot read: %s", path, mq_errno_text(errno));
    if (!good || EVP_DigestFinal_ex(ctx, digest, &digest_bytes) != 1) {
        return mq_fail(MQ_E_INTERNAL, "%s: SHA-256 failed", path);
    }
    return MQ_OK;
}

mq_status mq_sha256_file(const char *path, char hex[65])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    FILE *f = fopen(path, "rb");
    if (!f) return mq_fail(MQ_E_IO, "%s: cannot open: %s", path, mq_errno_text(errno));
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    mq_status status = ctx ? digest_stream(f, path, ctx, digest)
                           : mq_fail(MQ_E_MEMORY, "%s: no memory for SHA-256", path);
    EVP_MD_CTX_free(ctx);
    fclose(f);
    if (status == MQ_OK) {
        for (int i = 0; i < 32; i++) snprintf(hex + (ptrdiff_t)2 * i, 3, "%02x", digest[i]);
    }
    return status;
}
