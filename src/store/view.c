#define _DEFAULT_SOURCE /* madvise */
#include "store/view.h"

#include "base/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ /* glibc before 2.35 */
#define MADV_POPULATE_READ 22
#endif

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

bool mq_view_possible(void)
{
    void *page = mmap(NULL, page_bytes(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return false;
    bool possible = madvise(page, page_bytes(), MADV_POPULATE_READ) == 0;
    munmap(page, page_bytes());
    return possible;
}

static mq_status check_length(int fd, const char *path, int64_t offset, size_t bytes)
{
    struct stat s;
    if (fstat(fd, &s) != 0) {
        return mq_fail(MQ_E_IO, "%s: cannot tell its length: %s", path, mq_errno_text(errno));
    }
    if (offset <= s.st_size && bytes <= (uint64_t)(s.st_size - offset)) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: has %" PRId64 " bytes, too few to read %zu at %" PRId64
                   ": the file is truncated, copy it again",
                   path, (int64_t)s.st_size, bytes, offset);
}

static mq_status populate(void *base, size_t length, const char *path)
{
    int code = 0;
    do {
        code = madvise(base, length, MADV_POPULATE_READ);
    } while (code != 0 && errno == EINTR);
    if (code == 0) return MQ_OK;
    return mq_fail(MQ_E_IO, "%s: cannot read mapped pages: %s", path, mq_errno_text(errno));
}

mq_status mq_view_open(int fd, const char *path, int64_t offset, size_t bytes, mq_view *out)
{
    size_t before = (size_t)(offset % (int64_t)page_bytes()), length = before + bytes;
    *out = (mq_view){.data = NULL};
    MQ_TRY(check_length(fd, path, offset, bytes));
    void *base = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)(offset - (int64_t)before));
    if (base == MAP_FAILED) {
        return mq_fail(MQ_E_IO, "%s: cannot map %zu bytes at %" PRId64 ": %s", path, bytes, offset,
                       mq_errno_text(errno));
    }
    mq_status status = populate(base, length, path);
    if (status != MQ_OK) {
        munmap(base, length);
        return status;
    }
    *out = (mq_view){(const char *)base + before, bytes, offset, base, fd};
    return MQ_OK;
}

mq_status mq_view_close(mq_view *view, const char *path)
{
    if (!view->data) return MQ_OK;
    mq_view v = *view;
    munmap(v.base, v.bytes + (size_t)(v.data - (const char *)v.base));
    *view = (mq_view){.data = NULL};
    return check_length(v.fd, path, v.offset, v.bytes);
}
