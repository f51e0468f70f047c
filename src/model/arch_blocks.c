#include "model/arch_parse.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

/* What differs from block to block: which of them slide or keep to chunks, and which do without
 * rope. */

/* Takes a list with an entry for each block from config.json; more entries than blocks are allowed
 * where `longer` is. */
static mq_status check_list(const mq_arch_texts *texts, const mq_spec_value *list,
                            const mq_arch *arch, bool longer)
{
    int64_t n = cJSON_IsArray(list->json) ? cJSON_GetArraySize(list->json) : -1;
    if (n == arch->n_blocks || (longer && n > arch->n_blocks)) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: \"%s\" must be a list with an entry for each of %" PRId64
                   " blocks; found %" PRId64,
                   texts->where, list->name, arch->n_blocks, n < 0 ? 0 : n);
}

static void set_type(mq_arch *arch, int64_t block, size_t flag, bool value)
{
    memcpy((char *)&arch->block[block] + flag, &value, sizeof value);
}

mq_status mq_arch_read_types(const mq_arch_texts *texts, const mq_spec_value *types,
                             const char *name, bool allowed, size_t flag, mq_arch *arch)
{
    const cJSON *item = NULL;
    int64_t block = 0;
    MQ_TRY(check_list(texts, types, arch, false));
    cJSON_ArrayForEach(item, types->json)
    {
        const char *type = cJSON_GetStringValue(item);
        bool full = type && strcmp(type, "full_attention") == 0;
        bool other = type && strcmp(type, name) == 0;
        if ((!full && !other) || (other && !allowed)) {
            return mq_fail(MQ_E_INPUT,
                           "%s: \"%s\" says \"%s\" for block %" PRId64
                           "; this version computes full_attention, and %s where its size is set",
                           texts->where, types->name, type ? type : "?", block, name);
        }
        set_type(arch, block++, flag, other);
    }
    return MQ_OK;
}

/* An optional spec of an integer from `least` on; -1 when the descriptor has none. */
static mq_status find_count(const mq_arch_texts *texts, const char *section, const char *field,
                            int64_t least, const mq_arch *arch, int64_t *out)
{
    const cJSON *in = cJSON_GetObjectItemCaseSensitive(texts->descriptor, section);
    *out = -1;
    if (!cJSON_GetObjectItemCaseSensitive(in, field)) return MQ_OK;
    MQ_TRY(mq_spec_int(texts, section, field, arch, out));
    if (*out >= least) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: \"%s\" of \"%s\" is %" PRId64 ", which makes no sense",
                   texts->where, field, section, *out);
}

/* Which blocks slide where config.json does not list them: those from "first" on, all but the last
 * of each "every", or the first of them, or those without rope. */
static mq_status window_by_rule(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *section = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "window");
    int64_t first = 0, every = 0, full = 0;
    bool leading = false;
    if (cJSON_GetObjectItemCaseSensitive(section, "every_first")) {
        MQ_TRY(mq_spec_bool(texts, "window", "every_first", &leading));
    }
    MQ_TRY(find_count(texts, "window", "first", 0, arch, &first));
    MQ_TRY(find_count(texts, "window", "every", 1, arch, &every));
    if (every > 0 && !leading) full = every - 1;
    for (int64_t b = 0; b < arch->n_blocks && arch->window > 0; b++) {
        bool rule = arch->block[b].no_rope;
        if (first >= 0) rule = b >= first;
        if (every > 0) rule = b % every != full;
        arch->block[b].sliding = rule;
    }
    return MQ_OK;
}

mq_status mq_arch_parse_window(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *section = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "window");
    mq_spec_value types = {.json = NULL};
    bool enabled = false;
    if (!section) return MQ_OK;
    MQ_TRY(mq_spec_int(texts, "window", "size", arch, &arch->window));
    MQ_TRY(mq_spec_bool(texts, "window", "enabled", &enabled));
    if (arch->window < 0) {
        return mq_fail(MQ_E_INPUT, "%s: a sliding window of %" PRId64, texts->where, arch->window);
    }
    if (!enabled) arch->window = 0;
    if (cJSON_GetObjectItemCaseSensitive(section, "layer_types")) {
        MQ_TRY(mq_spec_find(texts, "window", "layer_types", &types));
    }
    if (!types.json) return window_by_rule(texts, arch);
    return mq_arch_read_types(texts, &types, "sliding_attention", arch->window > 0,
                              offsetof(mq_block_kind, sliding), arch);
}

mq_status mq_arch_parse_chunk(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *section = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "chunk");
    mq_spec_value types = {.json = NULL};
    if (!section) return MQ_OK;
    MQ_TRY(mq_spec_int(texts, "chunk", "size", arch, &arch->chunk));
    if (arch->chunk < 0) {
        return mq_fail(MQ_E_INPUT, "%s: chunks of attention of %" PRId64, texts->where,
                       arch->chunk);
    }
    MQ_TRY(mq_spec_find(texts, "chunk", "layer_types", &types));
    if (types.json) {
        return mq_arch_read_types(texts, &types, "chunked_attention", arch->chunk > 0,
                                  offsetof(mq_block_kind, chunked), arch);
    }
    for (int64_t b = 0; b < arch->n_blocks && arch->chunk > 0; b++) {
        arch->block[b].chunked = !arch->block[b].no_rope;
    }
    return MQ_OK;
}

/* ---- without rope ------------------------------------------------------------------- */

static mq_status no_rope_from_list(const mq_arch_texts *texts, const mq_spec_value *list,
                                   mq_arch *arch)
{
    MQ_TRY(check_list(texts, list, arch, true));
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        const cJSON *item = cJSON_GetArrayItem(list->json, (int)b);
        bool zero = cJSON_IsFalse(item) || (cJSON_IsNumber(item) && item->valuedouble == 0);
        bool one = cJSON_IsTrue(item) || (cJSON_IsNumber(item) && item->valuedouble == 1);
        if (!zero && !one) {
            return mq_fail(MQ_E_INPUT, "%s: \"%s\" must say 0 or 1 for block %" PRId64,
                           texts->where, list->name, b);
        }
        arch->block[b].no_rope = zero;
    }
    return MQ_OK;
}

/* A theta for each block, 0 where nothing turns; the others must be one. */
static mq_status no_rope_from_thetas(const mq_arch_texts *texts, const mq_spec_value *list,
                                     mq_arch *arch)
{
    double theta = 0;
    MQ_TRY(check_list(texts, list, arch, false));
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        const cJSON *item = cJSON_GetArrayItem(list->json, (int)b);
        double own = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(own >= 0) || isinf(own) || (theta > 0 && own > 0 && own != theta)) {
            return mq_fail(MQ_E_INPUT,
                           "%s: \"%s\" has %g for block %" PRId64
                           "; expected 0 or one number for all blocks with rope",
                           texts->where, list->name, own, b);
        }
        if (own > 0) theta = own;
        arch->block[b].no_rope = own == 0;
    }
    if (theta > 0) arch->rope.theta = theta;
    return MQ_OK;
}

mq_status mq_arch_parse_no_rope(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *section = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "no_rope");
    mq_spec_value list = {.json = NULL};
    int64_t every = 0;
    if (!section) return MQ_OK;
    if (cJSON_GetObjectItemCaseSensitive(section, "list")) {
        MQ_TRY(mq_spec_find(texts, "no_rope", "list", &list));
    }
    if (!mq_json_is_off(list.json)) return no_rope_from_list(texts, &list, arch);
    if (cJSON_GetObjectItemCaseSensitive(section, "thetas")) {
        MQ_TRY(mq_spec_find(texts, "no_rope", "thetas", &list));
        if (list.json) return no_rope_from_thetas(texts, &list, arch);
    }
    MQ_TRY(find_count(texts, "no_rope", "every", 1, arch, &every));
    for (int64_t b = 0; b < arch->n_blocks && every > 0; b++) {
        arch->block[b].no_rope = (b + 1) % every == 0;
    }
    return MQ_OK;
}

mq_status mq_arch_settle_no_rope(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *section = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "no_rope");
    bool full = false;
    if (!cJSON_GetObjectItemCaseSensitive(section, "full_attention")) return MQ_OK;
    MQ_TRY(mq_spec_bool(texts, "no_rope", "full_attention", &full));
    for (int64_t b = 0; b < arch->n_blocks && full; b++) {
        arch->block[b].no_rope = !arch->block[b].sliding;
    }
    return MQ_OK;
}
