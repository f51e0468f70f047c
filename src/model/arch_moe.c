#include "model/arch_parse.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Mixture of experts: the section "moe" of a descriptor, and the names of its tensors. */

static const mq_choice score_names[] = {
    {"softmax", MQ_SCORE_SOFTMAX}, {"sigmoid", MQ_SCORE_SIGMOID}, {NULL, 0}};
enum { NO_GROUPS = -1 }; /* whatever their number */

static const mq_choice group_names[] = {
    {"none", NO_GROUPS}, {"best", MQ_GROUP_BEST}, {"best_two", MQ_GROUP_BEST_TWO}, {NULL, 0}};

static const cJSON *moe_member(const mq_arch_texts *texts, const char *field)
{
    const cJSON *moe = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "moe");
    return cJSON_GetObjectItemCaseSensitive(moe, field);
}

/* An optional integer; `fallback` where the descriptor has none. */
static mq_status optional_int(const mq_arch_texts *texts, const char *field, int64_t fallback,
                              const mq_arch *arch, int64_t *out)
{
    *out = fallback;
    return moe_member(texts, field) ? mq_spec_int(texts, "moe", field, arch, out) : MQ_OK;
}

static mq_status optional_double(const mq_arch_texts *texts, const char *field, double fallback,
                                 double *out)
{
    *out = fallback;
    return moe_member(texts, field) ? mq_spec_double(texts, "moe", field, out) : MQ_OK;
}

/* False where the descriptor has none. */
static mq_status optional_bool(const mq_arch_texts *texts, const char *field, bool *out)
{
    *out = false;
    return moe_member(texts, field) ? mq_spec_bool(texts, "moe", field, out) : MQ_OK;
}

/* ---- routing -------------------------------------------------------------------------------- */

static mq_status read_routing(const mq_arch_texts *texts, mq_arch *arch)
{
    mq_routing_kind *r = &arch->moe.routing;
    int score = MQ_SCORE_SOFTMAX, group_score = MQ_GROUP_BEST;
    MQ_TRY(mq_spec_int(texts, "moe", "n_experts", arch, &r->n_experts));
    MQ_TRY(mq_spec_int(texts, "moe", "top_k", arch, &r->top_k));
    MQ_TRY(mq_spec_choice(texts, "moe", "score", score_names, &score));
    MQ_TRY(mq_spec_bool(texts, "moe", "normalised", &r->normalised));
    MQ_TRY(optional_double(texts, "least_sum", 0, &r->least_sum));
    MQ_TRY(optional_double(texts, "scale", 1, &r->scale));
    MQ_TRY(optional_bool(texts, "scales_inputs", &r->scales_inputs));
    MQ_TRY(optional_int(texts, "n_groups", 1, arch, &r->n_groups));
    MQ_TRY(optional_int(texts, "top_groups", 1, arch, &r->top_groups));
    if (moe_member(texts, "group_score")) {
        MQ_TRY(mq_spec_choice(texts, "moe", "group_score", group_names, &group_score));
    }
    r->score = (mq_score_kind)score;
    if (group_score == NO_GROUPS) {
        r->n_groups = r->top_groups = 1;
    } else {
        r->group_score = (mq_group_score)group_score;
    }
    return MQ_OK;
}

enum { MOST_EXPERTS = 65536 };

static mq_status check_routing(const mq_arch_texts *texts, const mq_routing_kind *r)
{
    if (r->n_experts < 1 || r->n_experts > MOST_EXPERTS || r->top_k < 1 ||
        r->top_k > r->n_experts) {
        return mq_fail(MQ_E_INPUT,
                       "%s: %" PRId64 " of %" PRId64 " experts for a token make no sense",
                       texts->where, r->top_k, r->n_experts);
    }
    if (r->n_groups < 1 || r->n_experts % r->n_groups != 0 || r->top_groups < 1 ||
        r->top_groups > r->n_groups || r->top_k > r->top_groups * (r->n_experts / r->n_groups)) {
        return mq_fail(MQ_E_INPUT,
                       "%s: %" PRId64 " experts in %" PRId64 " groups, %" PRId64
                       " of which hold the %" PRId64 " of a token, make no sense",
                       texts->where, r->n_experts, r->n_groups, r->top_groups, r->top_k);
    }
    return MQ_OK;
}

/* Experts that text does not go to. */
static mq_status read_other_kinds(const mq_arch_texts *texts, mq_arch *arch)
{
    mq_moe *moe = &arch->moe;
    MQ_TRY(optional_bool(texts, "router_transposed", &moe->router_transposed));
    MQ_TRY(optional_int(texts, "other_kinds", 0, arch, &moe->other_kinds));
    if (moe->other_kinds >= 0 && moe->other_kinds < MOST_EXPERTS) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: experts of %" PRId64 " other kinds of input", texts->where,
                   moe->other_kinds);
}

/* ---- sizes ---------------------------------------------------------------------------------- */

/* The shared expert is as wide as so many routed ones, or as its own key says. */
static mq_status read_widths(const mq_arch_texts *texts, mq_arch *arch)
{
    int64_t n_shared = 0;
    mq_moe *moe = &arch->moe;
    MQ_TRY(mq_spec_int(texts, "moe", "intermediate", arch, &moe->intermediate));
    MQ_TRY(optional_int(texts, "n_shared", 0, arch, &n_shared));
    MQ_TRY(optional_int(texts, "shared_intermediate", 0, arch, &moe->shared_intermediate));
    bool sane = moe->intermediate >= 1 && moe->intermediate <= INT32_MAX && n_shared >= 0 &&
                n_shared <= MOST_EXPERTS && moe->shared_intermediate >= 0;
    if (sane && n_shared > 0) moe->shared_intermediate = n_shared * moe->intermediate;
    if (sane && moe->shared_intermediate <= INT32_MAX) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: experts of width %" PRId64 " and shared ones of %" PRId64,
                   texts->where, moe->intermediate, moe->shared_intermediate);
}

/* ---- which blocks --------------------------------------------------------------------------- */

/* Blocks that a list names become routed, or not. */
static mq_status mark_listed(const mq_arch_texts *texts, const char *field, bool routed,
                             mq_arch *arch)
{
    mq_spec_value list;
    const cJSON *item = NULL;
    MQ_TRY(mq_spec_find(texts, "moe", field, &list));
    if (!cJSON_IsArray(list.json)) {
        return mq_fail(MQ_E_INPUT, "%s: \"%s\" must be a list of numbers of blocks", texts->where,
                       list.name);
    }
    cJSON_ArrayForEach(item, list.json)
    {
        double b = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(b >= 0 && b < (double)arch->n_blocks && b == floor(b))) {
            return mq_fail(MQ_E_INPUT, "%s: \"%s\" must list numbers of blocks, from 0 to %" PRId64,
                           texts->where, list.name, arch->n_blocks - 1);
        }
        arch->block[(int64_t)b].routed = routed;
    }
    return MQ_OK;
}

/* A list of one word for each block; false in *given where there is none. */
static mq_status mark_types(const mq_arch_texts *texts, mq_arch *arch, bool *given)
{
    mq_spec_value list = {.json = NULL};
    const cJSON *item = NULL;
    int64_t b = 0;
    if (moe_member(texts, "types")) MQ_TRY(mq_spec_find(texts, "moe", "types", &list));
    *given = list.json && !cJSON_IsNull(list.json);
    if (!*given) return MQ_OK;
    bool good = cJSON_IsArray(list.json) && cJSON_GetArraySize(list.json) == arch->n_blocks;
    const cJSON *words = good ? list.json : NULL;
    cJSON_ArrayForEach(item, words)
    {
        const char *word = cJSON_GetStringValue(item);
        arch->block[b].routed = word && strcmp(word, "sparse") == 0;
        good = good && word && (arch->block[b++].routed || strcmp(word, "dense") == 0);
    }
    if (good) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: \"%s\" must say \"dense\" or \"sparse\" of %" PRId64 " blocks",
                   texts->where, list.name, arch->n_blocks);
}

/* Those of "types" or of "list", where config.json has it; else those from "first" to "last", each
 * "every"-th of them, without those of "dense". */
static mq_status mark_blocks(const mq_arch_texts *texts, mq_arch *arch)
{
    int64_t first = 0, last = 0, every = 1;
    bool given = false;
    mq_spec_value list = {.json = NULL};
    MQ_TRY(mark_types(texts, arch, &given));
    if (given) return MQ_OK;
    if (moe_member(texts, "list")) MQ_TRY(mq_spec_find(texts, "moe", "list", &list));
    if (list.json && !cJSON_IsNull(list.json)) return mark_listed(texts, "list", true, arch);
    MQ_TRY(optional_int(texts, "first", 0, arch, &first));
    MQ_TRY(optional_int(texts, "last", -1, arch, &last));
    MQ_TRY(optional_int(texts, "every", 1, arch, &every));
    if (last < 0) last += arch->n_blocks;
    if (first < 0 || every < 1) {
        return mq_fail(MQ_E_INPUT, "%s: experts from block %" PRId64 " on, in each %" PRId64 "-th",
                       texts->where, first, every);
    }
    for (int64_t b = first; b <= last && b < arch->n_blocks; b++) {
        arch->block[b].routed = (b + 1) % every == 0;
    }
    return moe_member(texts, "dense") ? mark_listed(texts, "dense", false, arch) : MQ_OK;
}

/* ---- names ---------------------------------------------------------------------------------- */

/* With {i}, and with {e} where the tensor is one of an expert; "" for one that may be left out. */
static mq_status read_name(const mq_arch_texts *texts, const char *key, bool of_expert,
                           bool optional, char out[MQ_ARCH_NAME])
{
    const cJSON *tensors = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "tensors");
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(tensors, key));
    if (!name && optional) return MQ_OK;
    if (!name || strlen(name) >= MQ_ARCH_NAME || !strstr(name, "{i}") ||
        of_expert != (strstr(name, "{e}") != NULL)) {
        return mq_fail(MQ_E_INPUT,
                       "descriptor \"%s\": \"tensors\" needs \"%s\", a name of less than %d bytes "
                       "with {i} for the block%s",
                       texts->family, key, (int)MQ_ARCH_NAME,
                       of_expert ? " and {e} for the expert" : "");
    }
    memcpy(out, name, strlen(name) + 1);
    return MQ_OK;
}

/* Experts of a block in one tensor: both or neither, and biases only with them. */
static mq_status read_stack(const mq_arch_texts *texts, mq_stack_names *stack)
{
    MQ_TRY(read_name(texts, "experts_gate_up", false, true, stack->gate_up));
    MQ_TRY(read_name(texts, "experts_down", false, true, stack->down));
    MQ_TRY(read_name(texts, "experts_gate_up_bias", false, true, stack->gate_up_bias));
    MQ_TRY(read_name(texts, "experts_down_bias", false, true, stack->down_bias));
    MQ_TRY(optional_bool(texts, "transposed", &stack->transposed));
    MQ_TRY(optional_bool(texts, "either_way", &stack->either_way));
    MQ_TRY(optional_bool(texts, "interleaved", &stack->interleaved));
    bool both = stack->gate_up[0] && stack->down[0], either = stack->gate_up[0] || stack->down[0];
    bool more =
        stack->gate_up_bias[0] || stack->down_bias[0] || stack->transposed || stack->interleaved;
    if (both || (!either && !more)) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "descriptor \"%s\": stacked experts need both \"experts_gate_up\" and "
                   "\"experts_down\"",
                   texts->family);
}

/* Modules of experts are told to readers by what their names have between the two numbers. */
static mq_status read_other_names(const mq_arch_texts *texts, mq_moe *moe)
{
    MQ_TRY(read_name(texts, "other_router", false, false, moe->other_router));
    const char *block = strstr(moe->expert[0], "{i}.");
    if (block && strstr(block, ".{e}.")) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "descriptor \"%s\": \"expert_gate\" must have .{e}. behind {i}.",
                   texts->family);
}

static mq_status read_names(const mq_arch_texts *texts, mq_moe *moe)
{
    MQ_TRY(read_name(texts, "router", false, false, moe->router));
    MQ_TRY(read_name(texts, "router_bias", false, true, moe->router_bias));
    MQ_TRY(read_name(texts, "correction", false, true, moe->correction));
    MQ_TRY(read_name(texts, "expert_gate", true, false, moe->expert[0]));
    MQ_TRY(read_name(texts, "expert_up", true, false, moe->expert[1]));
    MQ_TRY(read_name(texts, "expert_down", true, false, moe->expert[2]));
    MQ_TRY(read_stack(texts, &moe->stack));
    if (moe->other_kinds > 0) MQ_TRY(read_other_names(texts, moe));
    if (moe->shared_intermediate == 0) return MQ_OK;
    MQ_TRY(read_name(texts, "shared_gate", false, false, moe->shared[0]));
    MQ_TRY(read_name(texts, "shared_up", false, false, moe->shared[1]));
    MQ_TRY(read_name(texts, "shared_down", false, false, moe->shared[2]));
    return read_name(texts, "shared_weight", false, true, moe->shared_weight);
}

/* What blocks with experts are not computed with, and blocks without any MLP. */
static mq_status refuse_mixtures(const mq_arch_texts *texts, const mq_arch *arch)
{
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        if (arch->block[b].routed || arch->linear[MQ_DOWN][0]) continue;
        return mq_fail(MQ_E_INPUT,
                       "%s: block %" PRId64 " has no experts, and descriptor \"%s\" no names for "
                       "another MLP",
                       texts->where, b, texts->family);
    }
    if (!arch->parallel_block && !arch->down_norm[0]) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "descriptor \"%s\": experts in a parallel block, or before a norm of what is "
                   "added, are not computed",
                   texts->family);
}

mq_status mq_arch_parse_moe(const mq_arch_texts *texts, mq_arch *arch)
{
    if (!cJSON_GetObjectItemCaseSensitive(texts->descriptor, "moe")) return MQ_OK;
    MQ_TRY(read_routing(texts, arch));
    MQ_TRY(check_routing(texts, &arch->moe.routing));
    MQ_TRY(read_other_kinds(texts, arch));
    MQ_TRY(read_widths(texts, arch));
    MQ_TRY(mark_blocks(texts, arch));
    MQ_TRY(refuse_mixtures(texts, arch));
    return read_names(texts, &arch->moe);
}
