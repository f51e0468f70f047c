#include "model/arch_parse.h"

#include <string.h>

/* Rope: its theta, how it is scaled, and the parameters of that, where transformers 4 and 5 have
 * them. */

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
        MQ_TRY(mq_spec_double(texts, "rope", "theta", &arch->rope.theta));
    } else {
        MQ_TRY(mq_json_double(rope, "rope_theta", texts->where, &arch->rope.theta));
        if (outer.from_config && outer.json->valuedouble != arch->rope.theta) {
            return mq_fail(MQ_E_INPUT, "%s: \"rope_theta\" is %g, and %g inside the rope's object",
                           texts->where, outer.json->valuedouble, arch->rope.theta);
        }
    }
    if (arch->rope.theta > 0) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: \"rope_theta\" is %g and must be positive", texts->where,
                   arch->rope.theta);
}

static mq_status parse_llama3(const mq_arch_texts *texts, const cJSON *rope, mq_arch *arch)
{
    const char *where = texts->where;
    MQ_TRY(mq_json_double(rope, "low_freq_factor", where, &arch->rope.low_freq));
    MQ_TRY(mq_json_double(rope, "high_freq_factor", where, &arch->rope.high_freq));
    arch->rope.original_positions = arch->max_position;
    MQ_TRY(mq_json_int_or(rope, "original_max_position_embeddings", where,
                          &arch->rope.original_positions));
    if (arch->rope.original_positions < 1) {
        return mq_fail(MQ_E_INPUT, "%s: rope needs \"original_max_position_embeddings\" >= 1",
                       where);
    }
    if (arch->rope.low_freq > 0 && arch->rope.high_freq > arch->rope.low_freq) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: rope has low_freq_factor %g and high_freq_factor %g; expected "
                   "0 < low < high",
                   where, arch->rope.low_freq, arch->rope.high_freq);
}

mq_status mq_arch_parse_rope(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *rope = NULL;
    const rope_kind *kind = &rope_kinds[0];
    MQ_TRY(rope_object(texts, &rope));
    MQ_TRY(rope_kind_of(texts, rope, &kind));
    MQ_TRY(check_rope_keys(texts, rope, kind));
    MQ_TRY(parse_theta(texts, rope, arch));
    arch->rope.scaling = kind->scaling;
    arch->rope.factor = 1;
    arch->rope.dim = arch->head_dim;
    if (kind->scaling == MQ_ROPE_PLAIN) return MQ_OK;
    MQ_TRY(mq_json_double(rope, "factor", texts->where, &arch->rope.factor));
    if (!(arch->rope.factor > 0)) {
        return mq_fail(MQ_E_INPUT, "%s: rope has factor %g, which must be positive", texts->where,
                       arch->rope.factor);
    }
    return kind->scaling == MQ_ROPE_LLAMA3 ? parse_llama3(texts, rope, arch) : MQ_OK;
}
