#ifndef MQ_TEST_STORE_FILES_H
#define MQ_TEST_STORE_FILES_H

#include "mpi/harness.h"

#include "base/memory.h"
#include "par/comm.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the tests of files share: a temporary folder known to all ranks, small files of rank 0, and
 * the check that an error is the same everywhere. */

static char test_folder[64];

/** An empty folder of this program. Collective. */
static inline void folder_start(void)
{
    if (harness.rank == 0) {
        snprintf(test_folder, sizeof test_folder, "/tmp/mq_store_XXXXXX");
        if (!mkdtemp(test_folder)) test_folder[0] = '\0';
    }
    MPI_Bcast(test_folder, sizeof test_folder, MPI_CHAR, 0, MPI_COMM_WORLD);
    CHECK(test_folder[0] != '\0');
}

static inline const char *in_folder(const char *name)
{
    static char path[4][512];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", test_folder, name);
    return path[next];
}

/** Calls `visit` for every name in the folder; returns how many there are. */
static inline int folder_names(void (*visit)(const char *path))
{
    int n = 0;
    DIR *d = opendir(test_folder);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        n++;
        if (visit) visit(in_folder(e->d_name));
    }
    if (d) closedir(d);
    return n;
}

static inline void remove_one(const char *path)
{
    if (unlink(path) != 0) rmdir(path);
}

/** How many names there are once every rank is done. Collective. */
static inline int folder_count(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
    int n = folder_names(NULL);
    MPI_Barrier(MPI_COMM_WORLD);
    return n;
}

/** Empties the folder. Collective. */
static inline void folder_empty(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
    if (harness.rank == 0) folder_names(remove_one);
    MPI_Barrier(MPI_COMM_WORLD);
}

/** Removes the folder. Collective. */
static inline void folder_end(void)
{
    folder_empty();
    if (harness.rank == 0) CHECK(rmdir(test_folder) == 0);
}

/** A file of rank 0 (path in the test folder). */
static inline void put_file(const char *name, const void *data, size_t bytes)
{
    if (harness.rank != 0) return;
    FILE *f = fopen(in_folder(name), "wb");
    if (!CHECK(f != NULL)) return;
    CHECK(fwrite(data, 1, bytes, f) == bytes);
    CHECK(fclose(f) == 0);
}

/** A safetensors file of rank 0: header text, data. */
static inline void put_safetensors(const char *name, const char *header, const void *data,
                                   size_t bytes)
{
    if (harness.rank != 0) return;
    uint64_t n = strlen(header);
    FILE *f = fopen(in_folder(name), "wb");
    if (!CHECK(f != NULL)) return;
    CHECK(fwrite(&n, 8, 1, f) == 1 && fwrite(header, 1, n, f) == n);
    CHECK(bytes == 0 || fwrite(data, 1, bytes, f) == bytes);
    CHECK(fclose(f) == 0);
}

/** A whole file (free with free), NULL when there is none. */
static inline char *get_file(const char *name, size_t *bytes)
{
    struct stat s;
    FILE *f = fopen(in_folder(name), "rb");
    if (!f) return NULL;
    char *data = fstat(fileno(f), &s) == 0 ? malloc((size_t)s.st_size + 1) : NULL;
    *bytes = data ? fread(data, 1, (size_t)s.st_size, f) : 0;
    if (data) data[*bytes] = '\0';
    fclose(f);
    return data;
}

static inline bool has_file(const char *name)
{
    struct stat s;
    return stat(in_folder(name), &s) == 0;
}

/** Every rank got `expected` and one message, which holds `part`. Collective. */
static inline void check_failure(mq_status status, mq_status expected, const char *part)
{
    char text[2048] = "";
    if (harness.rank == 0) snprintf(text, sizeof text, "%s", mq_message());
    MPI_Bcast(text, sizeof text, MPI_CHAR, 0, MPI_COMM_WORLD);
    CHECK_MSG(status == expected, "got \"%s\" (%s), expected \"%s\" about %s",
              mq_status_name(status), status == MQ_OK ? "" : mq_message(), mq_status_name(expected),
              part);
    CHECK_MSG(strcmp(text, mq_message()) == 0, "rank 0 says \"%s\", rank %d \"%s\"", text,
              harness.rank, mq_message());
    CHECK_MSG(strstr(mq_message(), part) != NULL, "no \"%s\" in \"%s\"", part, mq_message());
}

#endif
