#include "model/arch_parse.h"

#include <inttypes.h>
#include <string.h>

/* Parts of a checkpoint that are no part of the model: their tensors are copied as they are. */

static mq_status add(const mq_arch_texts *texts, const char *prefix, int64_t block, mq_arch *arch)
{
    size_t n = prefix ? strlen(prefix) : 0;
    /* Room for the number of a block in the place of its mark. */
    if (n == 0 || n + 20 >= MQ_ARCH_NAME || arch->n_copied == MQ_ARCH_COPIED) {
        return mq_fail(MQ_E_INPUT,
                       "%s: descriptor \"%s\": \"copied\" may come to %d beginnings of names, of "
                       "less than %d bytes",
                       texts->where, texts->family, (int)MQ_ARCH_COPIED, (int)MQ_ARCH_NAME - 20);
    }
    mq_arch_name(prefix, block, arch->copied[arch->n_copied++], MQ_ARCH_NAME);
    return MQ_OK;
}

mq_status mq_arch_parse_copied(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "copied"), *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        const char *prefix = cJSON_GetStringValue(item);
        bool numbered = prefix && strstr(prefix, "{i}");
        for (int64_t b = 0; b < (numbered ? arch->extra_blocks : 1); b++) {
            MQ_TRY(add(texts, prefix, arch->n_blocks + b, arch));
        }
    }
    return MQ_OK;
}
