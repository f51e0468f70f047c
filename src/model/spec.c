#include "model/arch_parse.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static mq_status lacks(const mq_arch_texts *texts, const char *section, const char *field)
{
    return mq_fail(MQ_E_INPUT, "descriptor \"%s\": \"%s\" lacks \"%s\"", texts->family, section,
                   field);
}

mq_status mq_spec_find(const mq_arch_texts *texts, const char *section, const char *field,
                       mq_spec_value *out)
{
    const cJSON *in = cJSON_GetObjectItemCaseSensitive(texts->descriptor, section);
    const cJSON *spec = cJSON_GetObjectItemCaseSensitive(in, field);
    *out = (mq_spec_value){.json = spec, .name = field};
    if (!spec) return lacks(texts, section, field);
    if (!cJSON_IsObject(spec)) return MQ_OK;
    const cJSON *key = cJSON_GetObjectItemCaseSensitive(spec, "key");
    if (!cJSON_IsString(key)) return lacks(texts, field, "key");
    const cJSON *value = mq_arch_key(texts, key->valuestring);
    const cJSON *other = cJSON_GetObjectItemCaseSensitive(spec, "or");
    if (!value && cJSON_IsString(other)) {
        value = mq_arch_key(texts, other->valuestring);
        if (value) key = other;
    }
    const cJSON *null_value = cJSON_GetObjectItemCaseSensitive(spec, "null");
    out->name = key->valuestring;
    out->from_config = value && !cJSON_IsNull(value);
    if (out->from_config) {
        out->json = value;
    } else if (value && null_value) {
        out->json = null_value;
    } else {
        out->json = cJSON_GetObjectItemCaseSensitive(spec, "default");
    }
    /* Of a list the value at a place. */
    const cJSON *at = cJSON_GetObjectItemCaseSensitive(spec, "at");
    if (cJSON_IsNumber(at) && cJSON_IsArray(out->json)) {
        out->json = cJSON_GetArrayItem(out->json, at->valueint);
    }
    return MQ_OK;
}

/* As mq_spec_find, for a value that must be there. */
static mq_status find_value(const mq_arch_texts *texts, const char *section, const char *field,
                            mq_spec_value *out)
{
    MQ_TRY(mq_spec_find(texts, section, field, out));
    if (out->json) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: \"%s\" is missing, and a %s model needs it", texts->where,
                   out->name, texts->family);
}

static mq_status wrong_type(const mq_arch_texts *texts, const mq_spec_value *value,
                            const char *type)
{
    if (value->from_config) {
        return mq_fail(MQ_E_INPUT, "%s: \"%s\" must be %s", texts->where, value->name, type);
    }
    return mq_fail(MQ_E_INPUT, "descriptor \"%s\": the value of \"%s\" must be %s", texts->family,
                   value->name, type);
}

static bool size_named(const mq_arch *arch, const char *name, int64_t *out)
{
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {
        {"hidden", arch->hidden},         {"n_heads", arch->n_heads},
        {"n_kv_heads", arch->n_kv_heads}, {"intermediate", arch->intermediate},
        {"n_blocks", arch->n_blocks},     {"head_dim", arch->head_dim},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (strcmp(name, sizes[i].name) == 0) {
            *out = sizes[i].value;
            return true;
        }
    }
    return false;
}

/* "n_heads" or "hidden / n_heads" */
static mq_status quotient(const mq_arch_texts *texts, const mq_arch *arch,
                          const mq_spec_value *value, int64_t *out)
{
    char name[32], divisor_name[32];
    int64_t divisor = 1;
    int n = sscanf(value->json->valuestring, "%31s / %31s", name, divisor_name);
    if (n < 1 || !size_named(arch, name, out) ||
        (n == 2 && !size_named(arch, divisor_name, &divisor))) {
        return wrong_type(texts, value, "an integer, a size, or a quotient of two sizes");
    }
    if (divisor <= 0 || *out % divisor != 0) {
        return mq_fail(MQ_E_INPUT,
                       "%s: \"%s\" is missing, and %s = %" PRId64 " / %" PRId64
                       " is not a whole number",
                       texts->where, value->name, value->json->valuestring, *out, divisor);
    }
    *out /= divisor;
    return MQ_OK;
}

const cJSON *mq_json_same_for_all(const cJSON *json)
{
    const cJSON *first = cJSON_IsArray(json) ? json->child : NULL;
    for (const cJSON *i = first; i; i = i->next) {
        if (!cJSON_Compare(i, first, true)) return json;
    }
    return first ? first : json;
}

/* The spec's own member, or NULL. */
static const cJSON *member_of(const mq_arch_texts *texts, const char *section, const char *field,
                              const char *member)
{
    const cJSON *in = cJSON_GetObjectItemCaseSensitive(texts->descriptor, section);
    const cJSON *spec = cJSON_GetObjectItemCaseSensitive(in, field);
    return cJSON_GetObjectItemCaseSensitive(spec, member);
}

/* Sizes that config.json has as so many times what they are here. */
static mq_status divide(const mq_arch_texts *texts, const mq_spec_value *value,
                        const cJSON *divisor, int64_t *out)
{
    if (!divisor || !value->from_config) return MQ_OK;
    int64_t by = cJSON_IsNumber(divisor) ? (int64_t)divisor->valuedouble : 0;
    if (by >= 1 && *out % by == 0) {
        *out /= by;
        return MQ_OK;
    }
    return mq_fail(MQ_E_INPUT, "%s: \"%s\" is %" PRId64 ", which %" PRId64 " does not divide",
                   texts->where, value->name, *out, by);
}

mq_status mq_spec_int(const mq_arch_texts *texts, const char *section, const char *field,
                      const mq_arch *arch, int64_t *out)
{
    mq_spec_value value;
    MQ_TRY(find_value(texts, section, field, &value));
    if (cJSON_IsString(value.json) && !value.from_config) {
        return quotient(texts, arch, &value, out);
    }
    const cJSON *one = mq_json_same_for_all(value.json);
    double number = one->valuedouble;
    if (!cJSON_IsNumber(one) || number != floor(number) || fabs(number) > 0x1p53) {
        return wrong_type(texts, &value, "an integer");
    }
    *out = (int64_t)number;
    return divide(texts, &value, member_of(texts, section, field, "divide"), out);
}

mq_status mq_spec_double(const mq_arch_texts *texts, const char *section, const char *field,
                         double *out)
{
    mq_spec_value value;
    MQ_TRY(find_value(texts, section, field, &value));
    if (!cJSON_IsNumber(value.json) || !isfinite(value.json->valuedouble)) {
        return wrong_type(texts, &value, "a finite number");
    }
    *out = value.json->valuedouble;
    return MQ_OK;
}

/* The text that "map" and the list of choices are looked up by; NULL for other types. */
static const char *choice_text(const cJSON *json)
{
    if (cJSON_IsBool(json)) return cJSON_IsTrue(json) ? "true" : "false";
    return cJSON_GetStringValue(json);
}

mq_status mq_spec_bool(const mq_arch_texts *texts, const char *section, const char *field,
                       bool *out)
{
    mq_spec_value value;
    MQ_TRY(find_value(texts, section, field, &value));
    const cJSON *map = member_of(texts, section, field, "map");
    const char *text = choice_text(value.json);
    if (map && text) value.json = cJSON_GetObjectItemCaseSensitive(map, text);
    if (!cJSON_IsBool(value.json)) return wrong_type(texts, &value, "true or false");
    *out = cJSON_IsTrue(value.json);
    return MQ_OK;
}

static mq_status unknown_choice(const mq_arch_texts *texts, const mq_spec_value *value,
                                const char *text, const mq_choice *choices)
{
    char known[256] = "";
    for (int i = 0; choices[i].name; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", choices[i].name);
    }
    return mq_fail(MQ_E_INPUT, "%s: \"%s\" is \"%s\"; this version knows %s", texts->where,
                   value->name, text, known);
}

mq_status mq_spec_choice(const mq_arch_texts *texts, const char *section, const char *field,
                         const mq_choice *choices, int *out)
{
    mq_spec_value value;
    MQ_TRY(find_value(texts, section, field, &value));
    const cJSON *map = member_of(texts, section, field, "map");
    const char *text = choice_text(value.json);
    if (!text) return wrong_type(texts, &value, "a string, true or false");
    if (map) {
        const char *mapped = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(map, text));
        if (mapped) text = mapped;
    }
    for (int i = 0; choices[i].name; i++) {
        if (strcmp(text, choices[i].name) == 0) {
            *out = choices[i].value;
            return MQ_OK;
        }
    }
    return unknown_choice(texts, &value, text, choices);
}
