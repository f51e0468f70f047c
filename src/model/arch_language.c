#include "model/arch_parse.h"

#include <string.h>

/* Models of several kinds of input: the language model is one part, with settings of its own in an
 * object of config.json, and the tensors of the towers for images or sound are only copied. */

static const cJSON *member(const mq_arch_texts *texts, const char *name)
{
    const cJSON *section = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "language");
    return cJSON_GetObjectItemCaseSensitive(section, name);
}

static bool lists(const cJSON *list, const char *name)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        const char *text = cJSON_GetStringValue(item);
        if (text && strcmp(text, name) == 0) return true;
    }
    return false;
}

bool mq_arch_is_other_config(const mq_arch_texts *texts, const char *key)
{
    const char *own = cJSON_GetStringValue(member(texts, "config"));
    return (own && strcmp(own, key) == 0) || lists(member(texts, "other_configs"), key);
}

bool mq_arch_is_root_key(const mq_arch_texts *texts, const char *key)
{
    return lists(member(texts, "root_keys"), key);
}

const cJSON *mq_arch_key(const mq_arch_texts *texts, const char *key)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(texts->config, key);
    const cJSON *root = cJSON_GetObjectItemCaseSensitive(texts->root, key);
    if (!root || !mq_arch_is_root_key(texts, key)) return value;
    return value && mq_json_is_off(root) ? value : root;
}

static mq_status check_type(const mq_arch_texts *texts, const char *name)
{
    const cJSON *types = member(texts, "model_types");
    const char *type = NULL;
    MQ_TRY(mq_json_string_or(texts->config, "model_type", texts->where, &type));
    if (!type || !types || lists(types, type)) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: \"%s\" describes a language model of the type \"%s\", with which this "
                   "version does not know %s models",
                   texts->where, name, type, texts->family);
}

mq_status mq_arch_find_language(mq_arch_texts *texts)
{
    const char *name = cJSON_GetStringValue(member(texts, "config"));
    const cJSON *inner = name ? cJSON_GetObjectItemCaseSensitive(texts->root, name) : NULL;
    texts->config = texts->root;
    if (!name) return MQ_OK;
    if (cJSON_IsObject(inner)) {
        texts->config = inner;
        return check_type(texts, name);
    }
    if (!inner && cJSON_IsTrue(member(texts, "flat"))) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: \"%s\" must be an object, the settings of a %s model's language model",
                   texts->where, name, texts->family);
}

void mq_arch_parse_towers(const mq_arch_texts *texts, mq_arch *arch)
{
    arch->towers = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "language") != NULL;
    arch->deepstack = cJSON_IsTrue(member(texts, "deepstack"));
}
