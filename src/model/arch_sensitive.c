#include "model/arch_parse.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The section "sensitive" of a descriptor: layers of which it is known that they do not take low
 * precision well, as patterns over names of modules. */

/* A pattern with the number of the last block for each "{last}". */
static mq_status put_last(const mq_arch_texts *texts, const char *pattern, int64_t last,
                          char out[MQ_ARCH_NAME])
{
    static const char mark[] = "{last}";
    size_t used = 0;
    while (*pattern && used < MQ_ARCH_NAME) {
        bool found = strncmp(pattern, mark, strlen(mark)) == 0;
        int n = found ? snprintf(out + used, MQ_ARCH_NAME - used, "%" PRId64, last)
                      : snprintf(out + used, MQ_ARCH_NAME - used, "%c", *pattern);
        used += (size_t)n;
        pattern += found ? strlen(mark) : 1;
    }
    if (used > 0 && used < MQ_ARCH_NAME) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "descriptor \"%s\": \"sensitive\" needs patterns of 1 to %d characters",
                   texts->family, MQ_ARCH_NAME - 1);
}

static mq_status read_list(const mq_arch_texts *texts, const cJSON *list, const mq_arch *arch,
                           char out[][MQ_ARCH_NAME], int *n)
{
    const cJSON *item = NULL;
    *n = 0;
    cJSON_ArrayForEach(item, list)
    {
        if (*n == MQ_ARCH_SENSITIVE || !cJSON_IsString(item)) {
            return mq_fail(MQ_E_INPUT,
                           "descriptor \"%s\": the lists of \"sensitive\" hold up to %d patterns",
                           texts->family, (int)MQ_ARCH_SENSITIVE);
        }
        MQ_TRY(put_last(texts, item->valuestring, arch->n_blocks - 1, out[(*n)++]));
    }
    return MQ_OK;
}

mq_status mq_arch_parse_sensitive(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *in = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "sensitive");
    mq_sensitive *s = &arch->sensitive;
    if (!in) return MQ_OK;
    if (!cJSON_GetStringValue(mq_json_find(in, "source"))) {
        return mq_fail(MQ_E_INPUT,
                       "descriptor \"%s\": \"sensitive\" must say in \"source\" what it rests on",
                       texts->family);
    }
    MQ_TRY(read_list(texts, mq_json_find(in, "skip"), arch, s->skip, &s->n_skip));
    return read_list(texts, mq_json_find(in, "bits8"), arch, s->bits8, &s->n_bits8);
}
