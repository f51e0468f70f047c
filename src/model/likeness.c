#include "model/likeness.h"

#include "base/memory.h"

#include <stdio.h>
#include <string.h>

enum { FIRST_ROOM = 64 };

/* Last parts of names that say how a layer is stored, and not which it is. */
static const char *const stored[] = {"weight",        "bias",         "qweight",
                                     "qzeros",        "scales",       "g_idx",
                                     "weight_packed", "weight_scale", "weight_scale_inv",
                                     "weight_shape",  "q_weight",     "weight_zero_point"};

static bool is_stored(const char *part, size_t n)
{
    for (size_t i = 0; i < sizeof stored / sizeof *stored; i++) {
        if (strlen(stored[i]) == n && strncmp(part, stored[i], n) == 0) return true;
    }
    return false;
}

/* "12", "{i}" */
static bool is_number(const char *part, size_t n)
{
    return n > 0 && (part[0] == '{' || strspn(part, "0123456789") >= n);
}

void mq_name_pattern(const char *name, char *out, size_t bytes)
{
    size_t used = 0;
    out[0] = '\0';
    for (const char *part = name; *part;) {
        size_t n = strcspn(part, ".");
        bool last = part[n] == '\0';
        if (last && used > 0 && is_stored(part, n)) break;
        int wrote = is_number(part, n) ? snprintf(out + used, bytes - used, "%s*", used ? "." : "")
                                       : snprintf(out + used, bytes - used, "%s%.*s",
                                                  used ? "." : "", (int)n, part);
        if (wrote < 0 || (size_t)wrote >= bytes - used) break;
        used += (size_t)wrote;
        part += n + !last;
    }
}

static bool contains(const mq_name_set *set, const char *pattern)
{
    for (int64_t i = 0; i < set->n; i++) {
        if (strcmp(set->name[i], pattern) == 0) return true;
    }
    return false;
}

static mq_status add(mq_name_set *set, const char *name)
{
    char pattern[sizeof *set->name];
    mq_name_pattern(name, pattern, sizeof pattern);
    if (contains(set, pattern)) return MQ_OK;
    if (set->n == set->room) {
        mq_name_set grown = {.n = set->n, .room = set->room > 0 ? 2 * set->room : FIRST_ROOM};
        MQ_TRY(mq_alloc(grown.room, sizeof *grown.name, "patterns of names", (void *)&grown.name));
        if (set->n > 0) memcpy(grown.name, set->name, (size_t)set->n * sizeof *set->name);
        mq_free((void *)&set->name);
        *set = grown;
    }
    memcpy(set->name[set->n++], pattern, sizeof pattern);
    return MQ_OK;
}

mq_status mq_names_of_folder(const mq_folder *folder, mq_name_set *out)
{
    for (int64_t i = 0; i < folder->n_tensors; i++) MQ_TRY(add(out, folder->tensor[i].name));
    return MQ_OK;
}

/* The names in a descriptor's section, in lists and objects too. */
static mq_status collect(const cJSON *tensors, mq_name_set *out)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, tensors)
    {
        const char *name = cJSON_GetStringValue(item);
        if (name && strcmp(name, "none") != 0) MQ_TRY(add(out, name));
        if (!name) MQ_TRY(collect(item, out));
    }
    return MQ_OK;
}

mq_status mq_names_compare(const cJSON *tensors, const mq_name_set *set, int64_t *both,
                           int64_t *either)
{
    mq_name_set own = {.n = 0};
    mq_status status = collect(tensors, &own);
    *both = 0;
    for (int64_t i = 0; i < own.n; i++) *both += contains(set, own.name[i]);
    *either = own.n + set->n - *both;
    mq_names_free(&own);
    return status;
}

void mq_names_free(mq_name_set *set)
{
    mq_free((void *)&set->name);
    *set = (mq_name_set){.n = 0};
}
