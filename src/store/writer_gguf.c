/* GGUF: magic, version, counts, key-value pairs, then name, shape, type and place of every tensor.
 */
#include "base/memory.h"
#include "format/gguf.h"
#include "store/gguf.h"
#include "store/writer_private.h"

#include <inttypes.h>
#include <string.h>

/* Dimensions the other way round: the first is that along a row. */
static void put_shape(mq_gguf_pairs *out, const mq_slot *s)
{
    mq_gguf_put_u32(out, (uint32_t)s->n_dims);
    for (int d = s->n_dims - 1; d >= 0; d--) {
        bool along = d == s->n_dims - 1;
        uint64_t weights = along ? (uint64_t)mq_dtype_weights(s->dtype) : 1;
        mq_gguf_put_u64(out, (uint64_t)s->dim[d] * weights);
    }
}

static mq_status put_tensor(mq_gguf_pairs *out, const mq_slot *s)
{
    uint32_t number = 0;
    if (!mq_gguf_type_number(s->dtype, &number)) {
        return mq_fail(MQ_E_INPUT, "tensor \"%.200s\": %s is not written to GGUF", s->stored,
                       mq_dtype_name(s->dtype));
    }
    if (strlen(s->stored) >= MQ_GGUF_NAME_LIMIT || s->n_dims < 1 || s->n_dims > MQ_GGUF_DIMS) {
        return mq_fail(MQ_E_INPUT,
                       "tensor \"%.200s\": GGUF holds names of less than %d bytes and 1 to %d "
                       "dimensions",
                       s->stored, MQ_GGUF_NAME_LIMIT, MQ_GGUF_DIMS);
    }
    mq_gguf_put_string(out, s->stored);
    put_shape(out, s);
    mq_gguf_put_u32(out, number);
    mq_gguf_put_u64(out, s->begin);
    return MQ_OK;
}

static mq_status fill(mq_gguf_pairs *out, const mq_writer *w, const mq_shard *shard)
{
    static const char zeros[MQ_GGUF_ALIGNMENT];
    mq_gguf_put(out, mq_gguf_magic, strlen(mq_gguf_magic));
    mq_gguf_put_u32(out, MQ_GGUF_VERSION);
    mq_gguf_put_u64(out, (uint64_t)shard->n);
    mq_gguf_put_u64(out, w->pairs->n_pairs);
    mq_gguf_put(out, w->pairs->bytes, w->pairs->n_bytes);
    for (int64_t i = 0; i < shard->n; i++) MQ_TRY(put_tensor(out, &w->slot[shard->first + i]));
    mq_gguf_put(out, zeros,
                (MQ_GGUF_ALIGNMENT - out->n_bytes % MQ_GGUF_ALIGNMENT) % MQ_GGUF_ALIGNMENT);
    return out->status;
}

static mq_status header(const mq_writer *w, const mq_shard *shard, char **bytes, size_t *length)
{
    mq_gguf_pairs out = {.n_bytes = 0};
    mq_status status = fill(&out, w, shard);
    if (status != MQ_OK) {
        mq_gguf_pairs_clear(&out);
        return status;
    }
    *bytes = out.bytes;
    *length = out.n_bytes;
    return MQ_OK;
}

const mq_container mq_container_gguf = {
    .extension = "gguf", .alignment = MQ_GGUF_ALIGNMENT, .header = header, .read = mq_gguf_read};
