#include "base/memory.h"

#include "base/cgroup.h"
#include "base/checked.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { ALIGNMENT = 64 };

static atomic_size_t bytes_now;
static atomic_size_t bytes_peak;

/* In front of every block, one alignment unit that holds its size. */
static void account(size_t bytes)
{
    size_t now = atomic_fetch_add(&bytes_now, bytes) + bytes;
    size_t peak = atomic_load(&bytes_peak);
    while (now > peak && !atomic_compare_exchange_weak(&bytes_peak, &peak, now)) {
    }
}

mq_status mq_alloc(int64_t count, size_t elem, const char *purpose, void *out)
{
    size_t bytes = 0, padded = 0;
    if (count < 0) return mq_fail(MQ_E_INTERNAL, "%s: negative count", purpose);
    MQ_TRY(mq_mul_size((size_t)count, elem, &bytes));
    MQ_TRY(mq_add_size(bytes, 2 * ALIGNMENT - 1, &padded));
    padded = padded / ALIGNMENT * ALIGNMENT;
    char *block = aligned_alloc(ALIGNMENT, padded);
    if (!block) return mq_fail(MQ_E_MEMORY, "%s: cannot allocate %zu bytes", purpose, bytes);
    memset(block, 0, padded);
    memcpy(block, &padded, sizeof padded);
    account(padded);
    char *user = block + ALIGNMENT;
    memcpy(out, &user, sizeof user);
    return MQ_OK;
}

void mq_free(void *p)
{
    char *user = NULL, *none = NULL;
    memcpy(&user, p, sizeof user);
    if (!user) return;
    char *block = user - ALIGNMENT;
    size_t padded = 0;
    memcpy(&padded, block, sizeof padded);
    atomic_fetch_sub(&bytes_now, padded);
    free(block);
    memcpy(p, &none, sizeof none);
}

void mq_memory_use(size_t *now, size_t *peak)
{
    *now = atomic_load(&bytes_now);
    *peak = atomic_load(&bytes_peak);
}

static size_t cgroup_limit(void)
{
    char membership[8192];
    FILE *f = fopen("/proc/self/cgroup", "r");
    if (!f) return SIZE_MAX;
    size_t n = fread(membership, 1, sizeof membership - 1, f);
    fclose(f);
    membership[n] = '\0';
    return mq_cgroup_memory_limit(membership, "/sys/fs/cgroup");
}

size_t mq_memory_of_node(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || page <= 0) return 0;
    size_t ram = (size_t)pages * (size_t)page, limit = cgroup_limit();
    return ram < limit ? ram : limit;
}

size_t mq_memory_peak_rss(void)
{
    struct rusage use;
    if (getrusage(RUSAGE_SELF, &use) != 0) return 0;
    return (size_t)use.ru_maxrss * 1024;
}
