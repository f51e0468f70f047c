#ifndef MQ_FORMAT_GGUF_PAIRS_H
#define MQ_FORMAT_GGUF_PAIRS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The key-value pairs of a GGUF file as its bytes, little-endian, and the pieces that they and the
 * names of tensors are made of. Source: the GGUF specification, version 3.
 *
 * A failure sticks: what is added after it is dropped, and `status` is looked at once, at the end.
 */

enum { MQ_GGUF_VERSION = 3, MQ_GGUF_ALIGNMENT = 32, MQ_GGUF_NAME_LIMIT = 64 };

typedef enum mq_gguf_kind {
    MQ_GGUF_U8,
    MQ_GGUF_I8,
    MQ_GGUF_U16,
    MQ_GGUF_I16,
    MQ_GGUF_U32,
    MQ_GGUF_I32,
    MQ_GGUF_F32,
    MQ_GGUF_BOOL,
    MQ_GGUF_STRING,
    MQ_GGUF_ARRAY,
    MQ_GGUF_U64,
    MQ_GGUF_I64,
    MQ_GGUF_F64,
    MQ_GGUF_N_KINDS
} mq_gguf_kind;

typedef struct mq_gguf_pairs {
    char *bytes;
    size_t n_bytes, room;
    uint64_t n_pairs;
    mq_status status; /* the first failure: MQ_E_MEMORY */
} mq_gguf_pairs;

void mq_gguf_pairs_clear(mq_gguf_pairs *pairs);

void mq_gguf_add_u32(mq_gguf_pairs *pairs, const char *key, uint32_t value);
void mq_gguf_add_f32(mq_gguf_pairs *pairs, const char *key, float value);
void mq_gguf_add_bool(mq_gguf_pairs *pairs, const char *key, bool value);
void mq_gguf_add_string(mq_gguf_pairs *pairs, const char *key, const char *text);

/** Begins an array of n values of one kind, which follow through mq_gguf_put_*. */
void mq_gguf_add_array(mq_gguf_pairs *pairs, const char *key, mq_gguf_kind kind, uint64_t n);

/** Bare values. A string is its length in 64 bits and its bytes. */
void mq_gguf_put(mq_gguf_pairs *pairs, const void *data, size_t bytes);
void mq_gguf_put_u32(mq_gguf_pairs *pairs, uint32_t value);
void mq_gguf_put_u64(mq_gguf_pairs *pairs, uint64_t value);
void mq_gguf_put_string(mq_gguf_pairs *pairs, const char *text);

#endif
