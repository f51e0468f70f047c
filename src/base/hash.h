#ifndef MQ_BASE_HASH_H
#define MQ_BASE_HASH_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/** XXH3-64 of a buffer, and of a whole file read once from start to end. Errors: MQ_E_IO. */
uint64_t mq_hash(const void *data, size_t bytes);
mq_status mq_hash_file(const char *path, uint64_t *out);

/** "xxh3:0123456789abcdef" + NUL. */
void mq_hash_text(uint64_t hash, char text[22]);

#endif
