#include "model/arch_parse.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Parts of a checkpoint that are no part of the model: their tensors are copied as they are. */

/* ---- whether a tensor is one ---------------------------------------------------------------- */

/* What follows in a name that begins as a pattern says, NULL where it does not; number[]: what
 * stands in the place of {i} and of {e}. */
static const char *after(const char *pattern, const char *name, int64_t number[2])
{
    while (*pattern) {
        if (*pattern != '{') {
            if (*pattern++ != *name++) return NULL;
            continue;
        }
        size_t digits = strspn(name, "0123456789");
        if (digits == 0 || digits > 9) return NULL;
        number[pattern[1] == 'e'] = strtol(name, NULL, 10);
        name += digits;
        pattern = strchr(pattern, '}') + 1;
    }
    return name;
}

/* Experts and routers of input that is not text. */
static bool is_of_other_kind(const mq_arch *arch, const char *tensor)
{
    const mq_moe *moe = &arch->moe;
    int64_t number[2] = {-1, -1}, n = moe->routing.n_experts;
    if (moe->other_kinds == 0) return false;
    const char *rest = after(moe->other_router, tensor, number);
    bool found = rest && *rest == '\0';
    for (int l = 0; l < MQ_EXPERT_LINEARS && !found; l++) {
        rest = after(moe->expert[l], tensor, number);
        found = rest && *rest == '.' && number[1] >= n && number[1] < n * (1 + moe->other_kinds);
    }
    return found && number[0] < arch->n_blocks && arch->block[number[0]].routed;
}

bool mq_arch_is_copied(const mq_arch *arch, const char *tensor)
{
    for (int i = 0; i < arch->n_copied; i++) {
        if (strncmp(tensor, arch->copied[i], strlen(arch->copied[i])) == 0) return true;
    }
    return is_of_other_kind(arch, tensor);
}

/* ---- the descriptor's list ------------------------------------------------------------------ */

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
