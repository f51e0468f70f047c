#include "base/cgroup.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { PATH_BYTES = 4096 };

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t read_limit(const char *path)
{
    unsigned long long limit = 0;
    FILE *f = fopen(path, "r");
    if (!f) return SIZE_MAX;
    int got = fscanf(f, "%llu", &limit); /* "max" gives 0 fields */
    fclose(f);
    return got == 1 && limit > 0 ? (size_t)limit : SIZE_MAX;
}

/* From the group itself up to the mount. In a container the path may be the host's, of which only
 * the top exists here. */
static size_t limit_of_branch(const char *mount, const char *folder, const char *group, int length,
                              const char *file)
{
    char path[PATH_BYTES];
    size_t limit = SIZE_MAX;
    for (;;) {
        while (length > 0 && group[length - 1] == '/') length--;
        int n = snprintf(path, sizeof path, "%s%s%.*s/%s", mount, folder, length, group, file);
        if (n > 0 && n < PATH_BYTES) limit = smaller(limit, read_limit(path));
        if (length == 0) return limit;
        while (length > 0 && group[length - 1] != '/') length--;
    }
}

/* Whether "memory" is one of the names in a list like "cpu,memory". */
static bool names_memory(const char *list, const char *end)
{
    while (list < end) {
        size_t n = strcspn(list, ",:");
        if (n == 6 && memcmp(list, "memory", n) == 0) return true;
        list += n + 1;
    }
    return false;
}

/* A line is ID:CONTROLLERS:GROUP; version 2 has no controllers. */
static size_t limit_of_line(const char *line, int length, const char *mount)
{
    const char *end = line + length, *list = memchr(line, ':', (size_t)length);
    if (!list) return SIZE_MAX;
    list++;
    const char *colon = memchr(list, ':', (size_t)(end - list));
    if (!colon) return SIZE_MAX;
    int n = (int)(end - colon - 1);
    if (colon == list) return limit_of_branch(mount, "", colon + 1, n, "memory.max");
    if (!names_memory(list, colon)) return SIZE_MAX;
    return limit_of_branch(mount, "/memory", colon + 1, n, "memory.limit_in_bytes");
}

size_t mq_cgroup_memory_limit(const char *membership, const char *mount)
{
    size_t limit = SIZE_MAX;
    while (*membership) {
        int n = (int)strcspn(membership, "\n");
        limit = smaller(limit, limit_of_line(membership, n, mount));
        membership += n + (membership[n] == '\n');
    }
    return limit;
}
