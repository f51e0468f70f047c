#include "format/stored.h"

mq_status mq_stored_dequantise(const mq_stored_layer *layer, const char *name, int64_t n0,
                               int64_t n1, float *dst)
{
    if (layer->form == MQ_PACKED_GPTQ) {
        return mq_gptq_dequantise(&layer->gptq, name, n0, n1, dst);
    }
    return mq_compressed_dequantise(&layer->compressed, name, n0, n1, dst);
}

bool mq_stored_is_symmetric(const mq_stored_layer *layer)
{
    if (layer->form == MQ_PACKED_GPTQ) return mq_gptq_is_symmetric(&layer->gptq);
    return layer->compressed.zero_point == NULL;
}
