#include "model/arch_parse.h"

#include <inttypes.h>
#include <string.h>

/* Rope by several positions: a token of an image has a time, a row and a column, and each turns
 * pairs of its own. Of text the three are the same, and it is plain rope. "mrope" of a descriptor's
 * section "rope" says how config.json's list of three counts of pairs deals them out:
 *     sections      the first so many pairs to the first position, the next to the second, ...
 *     interleaved   every third pair to the second and the third, as far as their counts reach
 *     text          in a way that this version does not compute */

enum { N_AXES = 3 };

static const char *const section_keys[] = {"mrope_section", "xdrope_section", NULL};

static const char *how(const mq_arch_texts *texts)
{
    const cJSON *section = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "rope");
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(section, "mrope"));
}

bool mq_arch_is_axes_key(const mq_arch_texts *texts, const char *key)
{
    if (!how(texts)) return false;
    for (int i = 0; section_keys[i]; i++) {
        if (strcmp(key, section_keys[i]) == 0) return true;
    }
    return strcmp(key, "mrope_interleaved") == 0;
}

const char *mq_arch_axes_type(const mq_arch_texts *texts, const char *type)
{
    if (!type || !how(texts)) return type;
    if (strcmp(type, "mrope") == 0) return "default";
    return strcmp(type, "xdrope") == 0 ? "dynamic" : type;
}

static mq_status read_sections(const mq_arch_texts *texts, const cJSON *list, int64_t n_pairs,
                               int64_t section[N_AXES])
{
    int64_t sum = 0;
    bool good = cJSON_IsArray(list) && cJSON_GetArraySize(list) == N_AXES;
    for (int i = 0; i < N_AXES && good; i++) {
        const cJSON *item = cJSON_GetArrayItem(list, i);
        double value = cJSON_IsNumber(item) ? item->valuedouble : -1;
        good = value >= 0 && value <= (double)n_pairs && value == (double)(int64_t)value;
        section[i] = good ? (int64_t)value : 0;
        sum += section[i];
    }
    if (good && sum == n_pairs) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: \"mrope_section\" of rope must list three numbers of pairs, %" PRId64
                   " together",
                   texts->where, n_pairs);
}

static void deal_sections(const int64_t section[N_AXES], mq_rope_kind *out)
{
    int64_t pair = 0;
    for (int a = 0; a < N_AXES; a++) {
        for (int64_t i = 0; i < section[a]; i++) out->axis[pair++] = (uint8_t)a;
    }
}

static void deal_interleaved(const int64_t section[N_AXES], mq_rope_kind *out)
{
    for (int64_t pair = 0; pair < out->dim / 2; pair++) {
        int64_t a = pair % N_AXES;
        out->axis[pair] = pair < N_AXES * section[a] ? (uint8_t)a : 0;
    }
}

mq_status mq_arch_parse_axes(const mq_arch_texts *texts, const cJSON *rope, mq_rope_kind *out)
{
    const char *kind = how(texts);
    int64_t section[N_AXES] = {0};
    bool interleaved = kind && strcmp(kind, "interleaved") == 0, said = interleaved;
    const cJSON *list = mq_json_find(rope, section_keys[0]);
    out->n_axes = 1;
    if (!kind || strcmp(kind, "text") == 0) return MQ_OK;
    if (!interleaved && strcmp(kind, "sections") != 0) {
        return mq_fail(MQ_E_INPUT, "descriptor \"%s\": no \"mrope\" is called \"%s\"",
                       texts->family, kind);
    }
    MQ_TRY(mq_json_bool_or(rope, "mrope_interleaved", texts->where, &said));
    if (said != interleaved) {
        return mq_fail(MQ_E_INPUT,
                       "%s: \"mrope_interleaved\" is %s; this version computes %s models without "
                       "that",
                       texts->where, said ? "true" : "false", texts->family);
    }
    if (!list) return MQ_OK;
    MQ_TRY(read_sections(texts, list, out->dim / 2, section));
    out->n_axes = N_AXES;
    if (interleaved) {
        deal_interleaved(section, out);
    } else {
        deal_sections(section, out);
    }
    return MQ_OK;
}
