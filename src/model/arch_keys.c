#include "model/arch_parse.h"

#include <stdio.h>
#include <string.h>

/* Keys of config.json come in four kinds: those a spec of the descriptor reads, those listed as
 * harmless, those that must have one value, and the rest. Of the rest nobody can say what they do,
 * so they are refused unless they are switched off. */

bool mq_json_is_off(const cJSON *value)
{
    if (cJSON_IsNumber(value)) return value->valuedouble == 0;
    if (cJSON_IsString(value)) return value->valuestring[0] == '\0';
    if (cJSON_IsArray(value) || cJSON_IsObject(value)) return cJSON_GetArraySize(value) == 0;
    return !cJSON_IsTrue(value);
}

/* Whether any spec below `json` has "key": name, or "or": name. */
static bool spec_reads(const cJSON *json, const char *name)
{
    static const char *const keys[] = {"key", "or"};
    for (int i = 0; i < 2; i++) {
        const char *key = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, keys[i]));
        if (key && strcmp(key, name) == 0) return true;
    }
    const cJSON *child = NULL;
    cJSON_ArrayForEach(child, json)
    {
        if (cJSON_IsObject(child) && spec_reads(child, name)) return true;
    }
    return false;
}

static bool listed(const cJSON *source, const char *name)
{
    const cJSON *entry = NULL;
    cJSON_ArrayForEach(entry, cJSON_GetObjectItemCaseSensitive(source, "ignored_keys"))
    {
        if (cJSON_IsString(entry) && strcmp(entry->valuestring, name) == 0) return true;
    }
    return false;
}

/* What the descriptor, or else the common list, expects of a key; of one that a spec reads nothing
 * in common is expected. */
static const cJSON *expected_value(const mq_arch_texts *texts, const char *name)
{
    const cJSON *const sources[] = {texts->descriptor, texts->common};
    int n = spec_reads(texts->descriptor, name) ? 1 : 2;
    for (int i = 0; i < n; i++) {
        const cJSON *keys = cJSON_GetObjectItemCaseSensitive(sources[i], "expected_keys");
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(keys, name);
        if (value) return value;
    }
    return NULL;
}

static mq_status check_expected(const mq_arch_texts *texts, const cJSON *item,
                                const cJSON *expected)
{
    if (cJSON_IsNull(item) || cJSON_Compare(item, expected, true)) return MQ_OK;
    if (cJSON_Compare(mq_json_same_for_all(item), expected, true)) return MQ_OK;
    char *found = cJSON_PrintUnformatted(item), *needed = cJSON_PrintUnformatted(expected);
    mq_status status = mq_fail(
        MQ_E_INPUT, "%s: \"%s\" is %.100s; this version computes %s models with %.100s only",
        texts->where, item->string, found ? found : "?", texts->family, needed ? needed : "?");
    cJSON_free(found);
    cJSON_free(needed);
    return status;
}

/* A key that nobody reads, unless it is harmless or switched off. */
static mq_status check_key(const mq_arch_texts *texts, const cJSON *item)
{
    const char *name = item->string;
    if (strcmp(name, "model_type") == 0 || strcmp(name, "quantization_config") == 0 ||
        mq_json_is_off(item) || listed(texts->common, name) ||
        spec_reads(texts->descriptor, name)) {
        return MQ_OK;
    }
    return mq_fail(MQ_E_INPUT,
                   "%s: unknown key \"%s\", which may change what a %s model computes; if it "
                   "is harmless, add it to \"ignored_keys\" in configs/arch/%s.json",
                   texts->where, name, texts->family, texts->family);
}

/* A setting of the language model that stands beside its object: nobody reads it, and some files
 * have all of them twice. Where the two differ, one is not what the model was made with. */
static mq_status check_outside(const mq_arch_texts *texts, const cJSON *item)
{
    const char *name = item->string;
    const cJSON *inner = cJSON_GetObjectItemCaseSensitive(texts->config, name);
    bool read = spec_reads(texts->descriptor, name) && !mq_arch_is_root_key(texts, name);
    if (!read || mq_json_is_off(item)) return MQ_OK;
    if (inner && (mq_json_is_off(inner) || cJSON_Compare(item, inner, true))) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: \"%s\" stands outside of the language model's settings, which %s",
                   texts->where, name, inner ? "say otherwise" : "lack it");
}

/* What there is to say of a key, as a finding. */
static mq_status find_key(const mq_arch_texts *texts, const cJSON *item)
{
    const char *name = item->string;
    /* A family may do without what is expected of all others. */
    if (listed(texts->descriptor, name) || mq_arch_is_other_config(texts, name)) return MQ_OK;
    const cJSON *expected = expected_value(texts, name);
    mq_status status = expected ? check_expected(texts, item, expected) : check_key(texts, item);
    return mq_findings_add(texts->findings, status, expected ? MQ_FOUND_CONFIG : MQ_FOUND_KEY,
                           name);
}

mq_status mq_arch_check_keys(const mq_arch_texts *texts)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, texts->config) MQ_TRY(find_key(texts, item));
    if (texts->root == texts->config) return MQ_OK;
    cJSON_ArrayForEach(item, texts->root)
    {
        MQ_TRY(find_key(texts, item));
        MQ_TRY(mq_findings_add(texts->findings, check_outside(texts, item), MQ_FOUND_CONFIG,
                               item->string));
    }
    return MQ_OK;
}
