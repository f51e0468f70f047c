#ifndef MQ_STORE_SAFETENSORS_H
#define MQ_STORE_SAFETENSORS_H

#include "base/dtype.h"

#include <stddef.h>
#include <stdint.h>

/* The header of one safetensors file, by a strict scanner that takes and refuses what the reference
 * reader takes and refuses (docs/formats.md). cJSON cannot: it loses 64-bit numbers and accepts
 * texts that are not JSON. */

enum { MQ_MAX_DIMS = 8 };
#define MQ_HEADER_LIMIT ((uint64_t)100000000)

typedef struct mq_tensor {
    char *name; /* UTF-8, NUL-terminated; may be empty; names holding U+0000 are refused */
    mq_dtype dtype;
    int n_dims;
    int64_t dim[MQ_MAX_DIMS];
    uint64_t begin, end; /* bytes, relative to the start of the data */
    int32_t shard;       /* index of the file, filled by the folder reader */
} mq_tensor;

typedef struct mq_header {
    mq_tensor *tensor; /* sorted by name */
    int64_t n_tensors;
    uint64_t data_start; /* 8 + header length */
} mq_header;

/** Scans `length` bytes of header text (the N bytes after the length word) of a file whose data
 *  part is data_bytes long. `path` is for messages. Not collective.
 *  Errors: MQ_E_INPUT naming file, tensor and what is wrong (overlap, hole, trailing byte, shape
 *  x dtype against range, overflow, unknown dtype, ...). */
mq_status mq_header_scan(const char *path, const char *text, size_t length, uint64_t data_bytes,
                         mq_header *out);

/** Opens a file, reads its length word and header, scans it. */
mq_status mq_header_read(const char *path, mq_header *out);

void mq_header_clear(mq_header *header);

/** The tensor of that name, or NULL. */
const mq_tensor *mq_header_find(const mq_header *header, const char *name);

/** Elements and bytes of a tensor, checked. */
mq_status mq_tensor_count(const mq_tensor *tensor, int64_t *count);

/** "BF16 [256000, 12288]" into text. */
const char *mq_tensor_describe(const mq_tensor *tensor, char *text, size_t bytes);

#endif
