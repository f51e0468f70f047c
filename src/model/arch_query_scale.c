#include "model/arch_parse.h"

#include <inttypes.h>

/* The section "query_scale" of a descriptor. */

static const mq_choice forms[] = {{"steps", MQ_QUERY_STEPS}, {"log", MQ_QUERY_LOG}, {NULL, 0}};

/* One position has no logarithm to divide by, and factors below 0 no maximum to take out. */
static mq_status check(const mq_arch_texts *texts, const mq_query_scale *scale)
{
    int64_t least = scale->kind == MQ_QUERY_LOG ? 2 : 1;
    if (scale->positions >= least && scale->weight >= 0) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: scores are scaled by position, with %" PRId64
                   " positions and a weight of %g; expected at least %" PRId64 " and 0",
                   texts->where, scale->positions, scale->weight, least);
}

/* Whether it is there and not off; config.json may have a number for true. */
static mq_status is_enabled(const mq_arch_texts *texts, bool *out)
{
    mq_spec_value value;
    MQ_TRY(mq_spec_find(texts, "query_scale", "enabled", &value));
    *out = value.json && !mq_json_is_off(value.json);
    return MQ_OK;
}

mq_status mq_arch_parse_query_scale(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *section = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "query_scale");
    mq_query_scale *out = &arch->query_scale;
    bool enabled = false;
    int form = 0;
    if (!section) return MQ_OK;
    MQ_TRY(is_enabled(texts, &enabled));
    if (!enabled) return MQ_OK;
    MQ_TRY(mq_spec_choice(texts, "query_scale", "form", forms, &form));
    out->kind = (mq_query_scaling)form;
    MQ_TRY(mq_spec_int(texts, "query_scale", "positions", arch, &out->positions));
    if (out->kind == MQ_QUERY_STEPS) {
        MQ_TRY(mq_spec_double(texts, "query_scale", "weight", &out->weight));
    }
    MQ_TRY(mq_spec_bool(texts, "query_scale", "no_rope_only", &out->no_rope_only));
    return check(texts, out);
}
