#include "format/gguf_pairs.h"

#include "base/memory.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "values are written as they lie in memory");

void mq_gguf_pairs_clear(mq_gguf_pairs *pairs)
{
    mq_free(&pairs->bytes);
    *pairs = (mq_gguf_pairs){.n_bytes = 0};
}

static void make_room(mq_gguf_pairs *p, size_t bytes)
{
    if (p->status != MQ_OK || bytes <= p->room - p->n_bytes) return;
    size_t room = 2 * (p->n_bytes + bytes);
    char *larger = NULL;
    p->status = mq_alloc((int64_t)room, 1, "header of a GGUF file", &larger);
    if (p->status != MQ_OK) return;
    if (p->n_bytes > 0) memcpy(larger, p->bytes, p->n_bytes);
    mq_free(&p->bytes);
    p->bytes = larger;
    p->room = room;
}

void mq_gguf_put(mq_gguf_pairs *pairs, const void *data, size_t bytes)
{
    make_room(pairs, bytes);
    if (pairs->status != MQ_OK || bytes == 0) return;
    memcpy(pairs->bytes + pairs->n_bytes, data, bytes);
    pairs->n_bytes += bytes;
}

void mq_gguf_put_u32(mq_gguf_pairs *pairs, uint32_t value)
{
    mq_gguf_put(pairs, &value, sizeof value);
}

void mq_gguf_put_u64(mq_gguf_pairs *pairs, uint64_t value)
{
    mq_gguf_put(pairs, &value, sizeof value);
}

void mq_gguf_put_string(mq_gguf_pairs *pairs, const char *text)
{
    size_t length = strlen(text);
    mq_gguf_put_u64(pairs, length);
    mq_gguf_put(pairs, text, length);
}

static void begin_pair(mq_gguf_pairs *pairs, const char *key, mq_gguf_kind kind)
{
    mq_gguf_put_string(pairs, key);
    mq_gguf_put_u32(pairs, kind);
    pairs->n_pairs++;
}

void mq_gguf_add_u32(mq_gguf_pairs *pairs, const char *key, uint32_t value)
{
    begin_pair(pairs, key, MQ_GGUF_U32);
    mq_gguf_put_u32(pairs, value);
}

void mq_gguf_add_f32(mq_gguf_pairs *pairs, const char *key, float value)
{
    begin_pair(pairs, key, MQ_GGUF_F32);
    mq_gguf_put(pairs, &value, sizeof value);
}

void mq_gguf_add_bool(mq_gguf_pairs *pairs, const char *key, bool value)
{
    uint8_t byte = value;
    begin_pair(pairs, key, MQ_GGUF_BOOL);
    mq_gguf_put(pairs, &byte, sizeof byte);
}

void mq_gguf_add_string(mq_gguf_pairs *pairs, const char *key, const char *text)
{
    begin_pair(pairs, key, MQ_GGUF_STRING);
    mq_gguf_put_string(pairs, text);
}

void mq_gguf_add_array(mq_gguf_pairs *pairs, const char *key, mq_gguf_kind kind, uint64_t n)
{
    begin_pair(pairs, key, MQ_GGUF_ARRAY);
    mq_gguf_put_u32(pairs, kind);
    mq_gguf_put_u64(pairs, n);
}
