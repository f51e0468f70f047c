#include "model/arch_parse.h"

#include <inttypes.h>
#include <string.h>

/* The parts of config.json that are more than one key each: rope, sliding window, quantisation. */

/* ---- rope ---------------------------------------------------------------------------------- */

typedef struct rope_kind {
    const char *name;
    mq_rope_scaling scaling;
    const char *keys[6]; /* beside rope_type, type and rope_theta; ends with NULL */
} rope_kind;

static const rope_kind rope_kinds[] = {
    {"default", MQ_ROPE_PLAIN, {NULL}},
    {"linear", MQ_ROPE_LINEAR, {"factor", NULL}},
    {"llama3",
     MQ_ROPE_LLAMA3,
     {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", NULL}},
};
enum { N_ROPE_KINDS = sizeof rope_kinds / sizeof *rope_kinds };

/* The object with the rope's parameters: rope_parameters (transformers 5) or rope_scaling (4);
 * NULL when neither is there. */
static mq_status rope_object(const mq_arch_texts *texts, const cJSON **out)
{
    mq_spec_value parameters, scaling;
    MQ_TRY(mq_spec_find(texts, "rope", "parameters", &parameters));
    MQ_TRY(mq_spec_find(texts, "rope", "scaling", &scaling));
    if (parameters.json && scaling.json) {
        return mq_fail(MQ_E_INPUT, "%s: has both \"%s\" and \"%s\"; keep the one that holds",
                       texts->where, parameters.name, scaling.name);
    }
    const mq_spec_value *value = parameters.json ? &parameters : &scaling;
    if (value->json && !cJSON_IsObject(value->json)) {
        return mq_fail(MQ_E_INPUT, "%s: \"%s\" must be an object", texts->where, value->name);
    }
    *out = value->json;
    return MQ_OK;
}

static mq_status rope_kind_of(const mq_arch_texts *texts, const cJSON *rope, const rope_kind **out)
{
    const char *name = NULL, *old_name = NULL;
    MQ_TRY(mq_json_string_or(rope, "rope_type", texts->where, &name));
    MQ_TRY(mq_json_string_or(rope, "type", texts->where, &old_name));
    if (name && old_name && strcmp(name, old_name) != 0) {
        return mq_fail(MQ_E_INPUT, "%s: rope has \"rope_type\" \"%s\" and \"type\" \"%s\"",
                       texts->where, name, old_name);
    }
    if (!name) name = old_name ? old_name : "default";
    for (int i = 0; i < N_ROPE_KINDS; i++) {
        if (strcmp(name, rope_kinds[i].name) == 0) {
            *out = &rope_kinds[i];
            return MQ_OK;
        }
    }
    return mq_fail(MQ_E_INPUT,
                   "%s: rope type \"%s\" is not supported; this version knows default, linear and "
                   "llama3",
                   texts->where, name);
}

static mq_status check_rope_keys(const mq_arch_texts *texts, const cJSON *rope,
                                 const rope_kind *kind)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, rope)
    {
        const char *key = item->string;
        bool known = strcmp(key, "rope_type") == 0 || strcmp(key, "type") == 0 ||
                     strcmp(key, "rope_theta") == 0 || mq_json_is_off(item);
        /* All of a head is rotated: 1 says so explicitly. */
        known = known || (strcmp(key, "partial_rotary_factor") == 0 && item->valuedouble == 1);
        for (int i = 0; kind->keys[i]; i++) known = known || strcmp(key, kind->keys[i]) == 0;
        if (known) continue;
        return mq_fail(MQ_E_INPUT,
                       "%s: rope of type \"%s\" has the key \"%s\", which this version cannot "
                       "interpret",
                       texts->where, kind->name, key);
    }
    return MQ_OK;
}

static mq_status parse_theta(const mq_arch_texts *texts, const cJSON *rope, mq_arch *arch)
{
    mq_spec_value outer;
    MQ_TRY(mq_spec_find(texts, "rope", "theta", &outer));
    if (!mq_json_find(rope, "rope_theta")) {
        MQ_TRY(mq_spec_double(texts, "rope", "theta", &arch->rope_theta));
    } else {
        MQ_TRY(mq_json_double(rope, "rope_theta", texts->where, &arch->rope_theta));
        if (outer.from_config && outer.json->valuedouble != arch->rope_theta) {
            return mq_fail(MQ_E_INPUT, "%s: \"rope_theta\" is %g, and %g inside the rope's object",
                           texts->where, outer.json->valuedouble, arch->rope_theta);
        }
    }
    if (arch->rope_theta > 0) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: \"rope_theta\" is %g and must be positive", texts->where,
                   arch->rope_theta);
}

static mq_status parse_llama3(const mq_arch_texts *texts, const cJSON *rope, mq_arch *arch)
{
    const char *where = texts->where;
    MQ_TRY(mq_json_double(rope, "low_freq_factor", where, &arch->rope_low_freq));
    MQ_TRY(mq_json_double(rope, "high_freq_factor", where, &arch->rope_high_freq));
    arch->rope_original_positions = arch->max_position;
    MQ_TRY(mq_json_int_or(rope, "original_max_position_embeddings", where,
                          &arch->rope_original_positions));
    if (arch->rope_original_positions < 1) {
        return mq_fail(MQ_E_INPUT, "%s: rope needs \"original_max_position_embeddings\" >= 1",
                       where);
    }
    if (arch->rope_low_freq > 0 && arch->rope_high_freq > arch->rope_low_freq) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: rope has low_freq_factor %g and high_freq_factor %g; expected "
                   "0 < low < high",
                   where, arch->rope_low_freq, arch->rope_high_freq);
}

mq_status mq_arch_parse_rope(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *rope = NULL;
    const rope_kind *kind = &rope_kinds[0];
    MQ_TRY(rope_object(texts, &rope));
    MQ_TRY(rope_kind_of(texts, rope, &kind));
    MQ_TRY(check_rope_keys(texts, rope, kind));
    MQ_TRY(parse_theta(texts, rope, arch));
    arch->rope_scaling = kind->scaling;
    arch->rope_factor = 1;
    if (kind->scaling == MQ_ROPE_PLAIN) return MQ_OK;
    MQ_TRY(mq_json_double(rope, "factor", texts->where, &arch->rope_factor));
    if (!(arch->rope_factor > 0)) {
        return mq_fail(MQ_E_INPUT, "%s: rope has factor %g, which must be positive", texts->where,
                       arch->rope_factor);
    }
    return kind->scaling == MQ_ROPE_LLAMA3 ? parse_llama3(texts, rope, arch) : MQ_OK;
}

/* ---- sliding window ------------------------------------------------------------------------ */

/* transformers 5 lists one type a block; this version computes full attention up to some block and
 * sliding attention from there on. */
static mq_status window_from_types(const mq_arch_texts *texts, const mq_spec_value *types,
                                   mq_arch *arch)
{
    const cJSON *item = NULL;
    int64_t block = 0, first = arch->n_blocks;
    cJSON_ArrayForEach(item, types->json)
    {
        const char *name = cJSON_GetStringValue(item);
        bool full = name && strcmp(name, "full_attention") == 0;
        bool sliding = name && strcmp(name, "sliding_attention") == 0;
        if ((!full && !sliding) || (full && first < block) || (sliding && arch->window == 0)) {
            return mq_fail(MQ_E_INPUT,
                           "%s: \"%s\" says \"%s\" for block %" PRId64
                           "; this version computes full_attention, and from some block on "
                           "sliding_attention where a window is set",
                           texts->where, types->name, name ? name : "?", block);
        }
        if (sliding && block < first) first = block;
        block++;
    }
    if (!cJSON_IsArray(types->json) || block != arch->n_blocks) {
        return mq_fail(MQ_E_INPUT,
                       "%s: \"%s\" must list a type for each of %" PRId64 " blocks; found "
                       "%" PRId64,
                       texts->where, types->name, arch->n_blocks, block);
    }
    arch->window_from = first;
    return MQ_OK;
}

mq_status mq_arch_parse_window(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *section = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "window");
    if (!section) return MQ_OK;
    bool enabled = false;
    MQ_TRY(mq_spec_int(texts, "window", "size", arch, &arch->window));
    MQ_TRY(mq_spec_bool(texts, "window", "enabled", &enabled));
    MQ_TRY(mq_spec_int(texts, "window", "first", arch, &arch->window_from));
    if (arch->window < 0 || arch->window_from < 0) {
        return mq_fail(MQ_E_INPUT, "%s: a sliding window of %" PRId64 " from block %" PRId64,
                       texts->where, arch->window, arch->window_from);
    }
    if (!enabled) arch->window = 0;
    if (!cJSON_GetObjectItemCaseSensitive(section, "layer_types")) return MQ_OK;
    mq_spec_value types;
    MQ_TRY(mq_spec_find(texts, "window", "layer_types", &types));
    return types.json ? window_from_types(texts, &types, arch) : MQ_OK;
}

/* ---- quantised folders --------------------------------------------------------------------- */

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
    const cJSON *q = mq_json_find(texts->config, "quantization_config");
    if (!q) return MQ_OK;
    const char *method = "";
    MQ_TRY(
        mq_json_string(texts->config, "quantization_config.quant_method", texts->where, &method));
    if (strcmp(method, "gptq") == 0) return parse_gptq(texts, q, arch);
    if (strcmp(method, "compressed-tensors") == 0) return parse_compressed(texts, q, arch);
    if (strcmp(method, "fp8") == 0) return parse_fp8(texts, q, arch);
    if (strcmp(method, "exl2") == 0) {
        arch->packed = MQ_PACKED_EXL2;
        return MQ_OK;
    }
    return mq_fail(MQ_E_INPUT,
                   "%s: the folder is quantised by \"%s\"; this version reads gptq, "
                   "compressed-tensors, exl2, fp8, or the unquantised model",
                   texts->where, method);
}
