#ifndef MQ_STORE_SAFETENSORS_H
#define MQ_STORE_SAFETENSORS_H

#include "base/dtype.h"

#include <stddef.h>
#include <stdint.h>

/* The header of one safetensors file, by a strict scanner that takes and refuses what the reference
 * reader takes and refuses (docs/formats.md). cJSON cannot: it loses 64-bit numbers and accepts
 * texts that are not JSON.
 *
 * Stricter than the reference in what no writer produces: a tensor entry spelled as an array, a
 * dtype spelled as an object, a name holding U+0000, more than MQ_MAX_DIMS dimensions, and a
 * dimension past 2^63 - 1 (possible only beside a dimension of 0). */

enum { MQ_MAX_DIMS = 8 };
#define MQ_HEADER_LIMIT ((uint64_t)100000000) /* bytes of header text */

typedef struct mq_tensor {
    char *name; /* UTF-8, NUL-terminated; may be empty; names holding U+0000 are refused */
    mq_dtype dtype;
    int n_dims;
    int64_t dim[MQ_MAX_DIMS];
    uint64_t begin, end; /* bytes, relative to the start of the data */
    int32_t shard;       /* index of the file, filled by the folder reader */
} mq_tensor;

typedef struct mq_header {
    mq_tensor *tensor; /* sorted by name (bytes) */
    int64_t n_tensors;
    uint64_t data_start; /* 8 + header length */
    char *names;         /* storage behind tensor[].name */
} mq_header;

/** Scans `length` bytes of header text (the N bytes after the length word) of a file whose data
 *  part is data_bytes long. `path` is for messages. Not collective.
 *  Cost: linear in length, n log n in tensors. On failure *out is empty.
 *  Errors: MQ_E_INPUT naming file, tensor and what is wrong (overlap, hole, trailing byte, shape
 *  x dtype against range, overflow, unknown dtype, ...). */
mq_status mq_header_scan(const char *path, const char *text, size_t length, uint64_t data_bytes,
                         mq_header *out);

/** Opens a file, reads its length word and header, scans it.
 *  Errors: as above; MQ_E_IO when it cannot be opened or read. */
mq_status mq_header_read(const char *path, mq_header *out);

void mq_header_clear(mq_header *header);

/** The tensor of that name in an array sorted by name, or NULL. */
const mq_tensor *mq_tensor_find(const mq_tensor *sorted, int64_t n, const char *name);

/** The tensor of that name, or NULL. */
const mq_tensor *mq_header_find(const mq_header *header, const char *name);

/** Elements of a tensor, checked: MQ_E_INPUT past 2^63 - 1. */
mq_status mq_tensor_count(const mq_tensor *tensor, int64_t *count);

/** "BF16 [256000, 12288]" into text. */
const char *mq_tensor_describe(const mq_tensor *tensor, char *text, size_t bytes);

#endif
