#include "model/arch_parse.h"

#include <string.h>

/* quantization_config: how the linears of a quantised folder are stored. */

static mq_status parse_gptq(const mq_arch_texts *texts, const cJSON *q, mq_arch *arch)
{
    const char *format = "gptq";
    MQ_TRY(mq_json_string_or(q, "checkpoint_format", texts->where, &format));
    if (strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0) {
        return mq_fail(MQ_E_INPUT,
                       "%s: checkpoint_format \"%s\" is not supported; this version reads gptq "
                       "and gptq_v2",
                       texts->where, format);
    }
    arch->packed = MQ_PACKED_GPTQ;
    arch->gptq_zero_offset = strcmp(format, "gptq") == 0;
    return MQ_OK;
}

/* [rows, columns]; nothing without it. */
static mq_status parse_fp8_block(const mq_arch_texts *texts, const cJSON *block, mq_arch *arch)
{
    if (!block || cJSON_IsNull(block)) return MQ_OK;
    for (int i = 0; i < 2; i++) {
        const cJSON *size = cJSON_GetArrayItem(block, i);
        bool right = cJSON_GetArraySize(block) == 2 && cJSON_IsNumber(size) &&
                     size->valuedouble >= 1 && size->valuedouble <= INT32_MAX;
        if (!right) {
            return mq_fail(MQ_E_INPUT,
                           "%s: blocks of FP8 weights are given by two whole numbers, such as "
                           "[128, 128]",
                           texts->where);
        }
        arch->fp8_block[i] = (int64_t)size->valuedouble;
    }
    return MQ_OK;
}

static mq_status parse_fp8(const mq_arch_texts *texts, const cJSON *q, mq_arch *arch)
{
    const char *format = "e4m3";
    MQ_TRY(mq_json_string_or(q, "fmt", texts->where, &format));
    if (strcmp(format, "e4m3") != 0) {
        return mq_fail(MQ_E_INPUT,
                       "%s: FP8 weights of format \"%s\" are not supported; this "
                       "version reads e4m3",
                       texts->where, format);
    }
    arch->packed = MQ_PACKED_FP8;
    return parse_fp8_block(texts, mq_json_find(q, "weight_block_size"), arch);
}

/* Weights of compressed-tensors in 8-bit floats, by the first of its groups of layers. */
static mq_status parse_float_quantized(const mq_arch_texts *texts, const cJSON *q, mq_arch *arch)
{
    const cJSON *groups = mq_json_find(q, "config_groups");
    const cJSON *weights = groups ? mq_json_find(groups->child, "weights") : NULL;
    arch->packed = MQ_PACKED_FP8;
    return parse_fp8_block(texts, mq_json_find(weights, "block_structure"), arch);
}

static mq_status parse_compressed(const mq_arch_texts *texts, const cJSON *q, mq_arch *arch)
{
    const char *format = "";
    MQ_TRY(mq_json_string_or(q, "format", texts->where, &format));
    if (strcmp(format, "float-quantized") == 0) return parse_float_quantized(texts, q, arch);
    bool mxfp4 = strcmp(format, "mxfp4-pack-quantized") == 0;
    if (!mxfp4 && strcmp(format, "pack-quantized") != 0) {
        return mq_fail(MQ_E_INPUT,
                       "%s: compressed-tensors of format \"%s\" are not supported; this version "
                       "reads pack-quantized, float-quantized and mxfp4-pack-quantized",
                       texts->where, format);
    }
    arch->packed = mxfp4 ? MQ_PACKED_MXFP4 : MQ_PACKED_COMPRESSED;
    return MQ_OK;
}

mq_status mq_arch_parse_quantization(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *q = mq_json_find(texts->root, "quantization_config");
    if (!q) return MQ_OK;
    const char *method = "";
    MQ_TRY(mq_json_string(texts->root, "quantization_config.quant_method", texts->where, &method));
    if (strcmp(method, "gptq") == 0) return parse_gptq(texts, q, arch);
    if (strcmp(method, "compressed-tensors") == 0) return parse_compressed(texts, q, arch);
    if (strcmp(method, "fp8") == 0) return parse_fp8(texts, q, arch);
    if (strcmp(method, "mxfp4") == 0) {
        arch->packed = MQ_PACKED_MXFP4;
        return MQ_OK;
    }
    if (strcmp(method, "exl2") == 0) {
        arch->packed = MQ_PACKED_EXL2;
        return MQ_OK;
    }
    return mq_fail(MQ_E_INPUT,
                   "%s: the folder is quantised by \"%s\"; this version reads gptq, "
                   "compressed-tensors, exl2, fp8, mxfp4, or the unquantised model",
                   texts->where, method);
}
