#ifndef MQ_STORE_GGUF_H
#define MQ_STORE_GGUF_H

#include "format/gguf_pairs.h"
#include "store/safetensors.h"

/* The header of a GGUF file, as strict as llama.cpp's reader and stricter where this program never
 * writes what that takes: types other than F32, F16, BF16, Q4_0, Q4_1 and Q8_0, arrays of arrays,
 * another alignment than 32. */

enum { MQ_GGUF_DIMS = 4 };

extern const char mq_gguf_magic[]; /* 4 bytes */
extern const char mq_gguf_file[];  /* its name in a folder */

/** Reads and checks the header of a file. Tensors as in safetensors: shapes row-major, with
 * elements of the type (blocks), places from the start of the data. Not collective. Errors: MQ_E_IO
 * when it cannot be opened or read; MQ_E_INPUT naming file and tensor or key: not GGUF 3,
 * truncated, a key or name twice or not UTF-8, an unknown type, a tensor that does not begin where
 * the one before ended, filled up to 32 bytes, bytes too many. */
mq_status mq_gguf_read(const char *path, mq_header *out);

#endif
