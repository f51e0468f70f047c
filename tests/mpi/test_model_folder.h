#ifndef MQ_TEST_MODEL_FOLDER_H
#define MQ_TEST_MODEL_FOLDER_H

#include "base/dtype.h"
#include "base/file.h"
#include "harness.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Small model folders for tests, written without the program's own writer: all ranks hold the same
 * tensors in memory and rank 0 writes them. */

enum { FILE_TENSORS = 96 };

typedef struct file_tensor {
    char name[96];
    mq_dtype dtype;
    int n_dims;
    int64_t dim[2];
    size_t bytes;
    void *data; /* malloc'ed */
} file_tensor;

typedef struct file_model {
    char path[64]; /* of the folder */
    file_tensor tensor[FILE_TENSORS];
    int n;
} file_model;

/** Adds a tensor with zeroed data; returns it. */
static inline file_tensor *file_add(file_model *m, const char *name, mq_dtype dtype, int64_t d0,
                                    int64_t d1)
{
    file_tensor *t = &m->tensor[m->n++];
    *t = (file_tensor){.dtype = dtype, .n_dims = d1 > 0 ? 2 : 1, .dim = {d0, d1}};
    snprintf(t->name, sizeof t->name, "%s", name);
    t->bytes = (size_t)(d0 * (d1 > 0 ? d1 : 1)) * mq_dtype_size(dtype);
    t->data = calloc(t->bytes ? t->bytes : 1, 1);
    return t;
}

static inline file_tensor *file_find(file_model *m, const char *name)
{
    for (int i = 0; i < m->n; i++) {
        if (strcmp(m->tensor[i].name, name) == 0) return &m->tensor[i];
    }
    return NULL;
}

static inline void file_free(file_model *m)
{
    for (int i = 0; i < m->n; i++) free(m->tensor[i].data);
    m->n = 0;
}

static inline void file_write_tensors(const file_model *m, FILE *f)
{
    static char header[65536];
    uint64_t begin = 0, length = 0;
    length = (uint64_t)snprintf(header, sizeof header, "{");
    for (int i = 0; i < m->n; i++) {
        const file_tensor *t = &m->tensor[i];
        char shape[64];
        snprintf(shape, sizeof shape, t->n_dims == 2 ? "%" PRId64 ",%" PRId64 : "%" PRId64,
                 t->dim[0], t->dim[1]);
        length += (uint64_t)snprintf(
            header + length, sizeof header - length,
            "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
            i ? "," : "", t->name, mq_dtype_name(t->dtype), shape, begin, begin + t->bytes);
        begin += t->bytes;
    }
    length += (uint64_t)snprintf(header + length, sizeof header - length, "}");
    fwrite(&length, sizeof length, 1, f);
    fwrite(header, 1, length, f);
    for (int i = 0; i < m->n; i++) fwrite(m->tensor[i].data, 1, m->tensor[i].bytes, f);
}

/** Writes config.json, and model.safetensors when the model has tensors, on rank 0; a new folder
 *  on first use. Collective. */
static inline void file_write(file_model *m, const char *config)
{
    char path[128];
    if (!m->path[0]) {
        snprintf(m->path, sizeof m->path, "/tmp/mpiquant-model-XXXXXX");
        if (harness.rank == 0) CHECK(mkdtemp(m->path) != NULL);
        MPI_Bcast(m->path, sizeof m->path, MPI_CHAR, 0, MPI_COMM_WORLD);
    }
    if (harness.rank == 0) {
        snprintf(path, sizeof path, "%s/config.json", m->path);
        CHECK(mq_write_file(path, config, strlen(config)) == MQ_OK);
        snprintf(path, sizeof path, "%s/model.safetensors", m->path);
        FILE *f = m->n > 0 ? fopen(path, "wb") : NULL;
        CHECK(m->n == 0 || f);
        if (f) {
            file_write_tensors(m, f);
            fclose(f);
        }
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

/** Removes the folder. Collective. */
static inline void file_remove(file_model *m)
{
    char path[128];
    MPI_Barrier(MPI_COMM_WORLD);
    if (harness.rank == 0) {
        snprintf(path, sizeof path, "%s/config.json", m->path);
        unlink(path);
        snprintf(path, sizeof path, "%s/model.safetensors", m->path);
        unlink(path);
        rmdir(m->path);
    }
    m->path[0] = '\0';
}

#endif
