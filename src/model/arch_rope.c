#include "model/arch_parse.h"

#include <string.h>

/* Rope: its theta, how it is scaled, and the parameters of that, where transformers 4 and 5 have
 * them. */

typedef struct rope_form {
    const char *name;
    mq_rope_scaling scaling;
    const char *keys[6]; /* beside rope_type, type and rope_theta; ends with NULL */
} rope_form;

static const rope_form rope_forms[] = {
    {"default", MQ_ROPE_PLAIN, {NULL}},
    {"linear", MQ_ROPE_LINEAR, {"factor", NULL}},
    {"llama3",
     MQ_ROPE_LLAMA3,
     {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", NULL}},
};
enum { N_ROPE_FORMS = sizeof rope_forms / sizeof *rope_forms };

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

static mq_status form_of(const mq_arch_texts *texts, const cJSON *rope, const rope_form **out)
{
    const char *name = NULL, *old_name = NULL;
    MQ_TRY(mq_json_string_or(rope, "rope_type", texts->where, &name));
    MQ_TRY(mq_json_string_or(rope, "type", texts->where, &old_name));
    if (name && old_name && strcmp(name, old_name) != 0) {
        return mq_fail(MQ_E_INPUT, "%s: rope has \"rope_type\" \"%s\" and \"type\" \"%s\"",
                       texts->where, name, old_name);
    }
    if (!name) name = old_name ? old_name : "default";
    for (int i = 0; i < N_ROPE_FORMS; i++) {
        if (strcmp(name, rope_forms[i].name) == 0) {
            *out = &rope_forms[i];
            return MQ_OK;
        }
    }
    return mq_fail(MQ_E_INPUT,
                   "%s: rope type \"%s\" is not supported; this version knows default, linear and "
                   "llama3",
                   texts->where, name);
}

static mq_status check_rope_keys(const mq_arch_texts *texts, const cJSON *rope,
                                 const rope_form *form)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, rope)
    {
        const char *key = item->string;
        bool known = strcmp(key, "rope_type") == 0 || strcmp(key, "type") == 0 ||
                     strcmp(key, "rope_theta") == 0 || mq_json_is_off(item);
        /* All of a head is rotated: 1 says so explicitly. */
        known = known || (strcmp(key, "partial_rotary_factor") == 0 && item->valuedouble == 1);
        for (int i = 0; form->keys[i]; i++) known = known || strcmp(key, form->keys[i]) == 0;
        if (known) continue;
        return mq_fail(MQ_E_INPUT,
                       "%s: rope of type \"%s\" has the key \"%s\", which this version cannot "
                       "interpret",
                       texts->where, form->name, key);
    }
    return MQ_OK;
}

static mq_status parse_theta(const mq_arch_texts *texts, const char *section, const cJSON *rope,
                             mq_rope_kind *out)
{
    mq_spec_value outer;
    MQ_TRY(mq_spec_find(texts, section, "theta", &outer));
    if (!mq_json_find(rope, "rope_theta")) {
        MQ_TRY(mq_spec_double(texts, section, "theta", &out->theta));
    } else {
        MQ_TRY(mq_json_double(rope, "rope_theta", texts->where, &out->theta));
        if (outer.from_config && outer.json->valuedouble != out->theta) {
            return mq_fail(MQ_E_INPUT, "%s: \"rope_theta\" is %g, and %g inside the rope's object",
                           texts->where, outer.json->valuedouble, out->theta);
        }
    }
    if (out->theta > 0) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: \"rope_theta\" is %g and must be positive", texts->where,
                   out->theta);
}

static mq_status parse_llama3(const mq_arch_texts *texts, const cJSON *rope, const mq_arch *arch,
                              mq_rope_kind *out)
{
    const char *where = texts->where;
    MQ_TRY(mq_json_double(rope, "low_freq_factor", where, &out->low_freq));
    MQ_TRY(mq_json_double(rope, "high_freq_factor", where, &out->high_freq));
    out->original_positions = arch->max_position;
    MQ_TRY(
        mq_json_int_or(rope, "original_max_position_embeddings", where, &out->original_positions));
    if (out->original_positions < 1) {
        return mq_fail(MQ_E_INPUT, "%s: rope needs \"original_max_position_embeddings\" >= 1",
                       where);
    }
    if (out->low_freq > 0 && out->high_freq > out->low_freq) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: rope has low_freq_factor %g and high_freq_factor %g; expected "
                   "0 < low < high",
                   where, out->low_freq, out->high_freq);
}

/* The rope that `section` of the descriptor and the object of parameters describe. */
static mq_status parse_kind(const mq_arch_texts *texts, const char *section, const cJSON *rope,
                            const mq_arch *arch, mq_rope_kind *out)
{
    const rope_form *form = &rope_forms[0];
    MQ_TRY(form_of(texts, rope, &form));
    MQ_TRY(check_rope_keys(texts, rope, form));
    MQ_TRY(parse_theta(texts, section, rope, out));
    out->scaling = form->scaling;
    out->factor = 1;
    out->dim = arch->head_dim;
    if (form->scaling == MQ_ROPE_PLAIN) return MQ_OK;
    MQ_TRY(mq_json_double(rope, "factor", texts->where, &out->factor));
    if (!(out->factor > 0)) {
        return mq_fail(MQ_E_INPUT, "%s: rope has factor %g, which must be positive", texts->where,
                       out->factor);
    }
    return form->scaling == MQ_ROPE_LLAMA3 ? parse_llama3(texts, rope, arch, out) : MQ_OK;
}

/* Families whose sliding blocks turn in their own way: transformers 5 has an object for each type
 * of block; what transformers 4 says of scaling is for the others. */
static mq_status parse_two(const mq_arch_texts *texts, const cJSON *rope, mq_arch *arch)
{
    const cJSON *full = mq_json_find(rope, "full_attention");
    const cJSON *sliding = mq_json_find(rope, "sliding_attention"), *item = NULL;
    arch->own_sliding_rope = true;
    if (!full && !sliding) {
        MQ_TRY(parse_kind(texts, "rope", rope, arch, &arch->rope));
        return parse_kind(texts, "sliding_rope", NULL, arch, &arch->sliding_rope);
    }
    cJSON_ArrayForEach(item, rope)
    {
        if (item == full || item == sliding) continue;
        return mq_fail(MQ_E_INPUT, "%s: rope has \"%s\" beside its types of attention",
                       texts->where, item->string);
    }
    MQ_TRY(parse_kind(texts, "rope", full, arch, &arch->rope));
    return parse_kind(texts, "sliding_rope", sliding, arch, &arch->sliding_rope);
}

mq_status mq_arch_parse_rope(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *rope = NULL;
    MQ_TRY(rope_object(texts, &rope));
    if (cJSON_GetObjectItemCaseSensitive(texts->descriptor, "sliding_rope")) {
        return parse_two(texts, rope, arch);
    }
    return parse_kind(texts, "rope", rope, arch, &arch->rope);
}
