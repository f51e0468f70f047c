#include "format/stored.h"

const char *mq_packed_form_name(mq_packed_form form)
{
    static const char *const names[] = {[MQ_PACKED_NONE] = "not packed",
                                        [MQ_PACKED_GPTQ] = "GPTQ",
                                        [MQ_PACKED_COMPRESSED] = "compressed-tensors",
                                        [MQ_PACKED_MXFP4] = "MXFP4",
                                        [MQ_PACKED_EXL2] = "EXL2",
                                        [MQ_PACKED_FP8] = "FP8"};
    return names[form];
}

mq_status mq_stored_dequantise(const mq_stored_layer *layer, const char *name, int64_t n0,
                               int64_t n1, float *dst)
{
    switch (layer->form) {
    case MQ_PACKED_GPTQ:
        return mq_gptq_dequantise(&layer->gptq, name, n0, n1, dst);
    case MQ_PACKED_COMPRESSED:
        return mq_compressed_dequantise(&layer->compressed, name, n0, n1, dst);
    case MQ_PACKED_MXFP4:
        return mq_mxfp4_dequantise(&layer->mxfp4, name, n0, n1, dst);
    case MQ_PACKED_EXL2:
        return mq_exl2_dequantise(&layer->exl2, name, n0, n1, dst);
    default:
        return mq_fp8_dequantise(&layer->fp8, name, n0, n1, dst);
    }
}

mq_status mq_stored_check(const mq_stored_layer *layer, const char *name)
{
    switch (layer->form) {
    case MQ_PACKED_GPTQ:
        return mq_gptq_check(&layer->gptq, name);
    case MQ_PACKED_COMPRESSED:
        return mq_compressed_check(&layer->compressed, name);
    case MQ_PACKED_MXFP4:
        return mq_mxfp4_check(&layer->mxfp4, name);
    case MQ_PACKED_EXL2:
        return mq_exl2_check(&layer->exl2, name);
    default:
        return mq_fail(MQ_E_INPUT, "%s: packed as %s, which is read but never written", name,
                       mq_packed_form_name(layer->form));
    }
}

bool mq_stored_is_symmetric(const mq_stored_layer *layer)
{
    switch (layer->form) {
    case MQ_PACKED_GPTQ:
        return mq_gptq_is_symmetric(&layer->gptq);
    case MQ_PACKED_COMPRESSED:
        return layer->compressed.zero_point == NULL;
    default:
        return true;
    }
}
