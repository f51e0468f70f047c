#include "model/arch_parse.h"

#include <stdio.h>
#include <string.h>

/* The member "gguf" of a descriptor: constants only, since no key of config.json changes what
 * llama.cpp can. */

static mq_status wrong(const mq_arch_texts *texts, const char *what)
{
    return mq_fail(MQ_E_INPUT, "descriptor \"%s\": \"gguf\": %s", texts->family, what);
}

static mq_status read_biases(const mq_arch_texts *texts, const cJSON *gguf, mq_gguf_family *out)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(gguf, "biases"), *item = NULL;
    if (!cJSON_IsArray(list)) return wrong(texts, "\"biases\" must be a list");
    cJSON_ArrayForEach(item, list)
    {
        const char *name = cJSON_GetStringValue(item);
        int l = 0;
        while (l < MQ_N_LINEARS && (!name || strcmp(name, mq_linear_name((mq_linear_id)l)) != 0)) {
            l++;
        }
        if (l == MQ_N_LINEARS) return wrong(texts, "\"biases\" names something not a linear");
        out->bias[l] = true;
    }
    return MQ_OK;
}

static bool is_known(const char *name)
{
    static const char *const known[] = {"architecture", "rope_pairs",     "rope_factors",
                                        "tied_only",    "qk_norm_blocks", "biases"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i]) == 0) return true;
    }
    return false;
}

static mq_status check_members(const mq_arch_texts *texts, const cJSON *gguf)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, gguf)
    {
        if (!is_known(item->string)) return wrong(texts, "has an unknown member");
    }
    return MQ_OK;
}

mq_status mq_arch_parse_gguf(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *gguf = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "gguf");
    mq_gguf_family *out = &arch->gguf;
    const char *name = NULL;
    if (!gguf) return MQ_OK;
    MQ_TRY(check_members(texts, gguf));
    MQ_TRY(mq_json_string(gguf, "architecture", "descriptor", &name));
    snprintf(out->architecture, sizeof out->architecture, "%s", name);
    MQ_TRY(mq_json_bool_or(gguf, "rope_pairs", "descriptor", &out->rope_pairs));
    MQ_TRY(mq_json_bool_or(gguf, "rope_factors", "descriptor", &out->rope_factors));
    MQ_TRY(mq_json_bool_or(gguf, "tied_only", "descriptor", &out->tied_only));
    MQ_TRY(mq_json_int_or(gguf, "qk_norm_blocks", "descriptor", &out->qk_norm_blocks));
    return read_biases(texts, gguf, out);
}
