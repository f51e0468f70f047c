#include "model/arch_parse.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ---- the section "config": one property, one member of mq_arch ------------------------------ */

static const mq_choice norm_names[] = {{"rms", MQ_NORM_RMS}, {"layer", MQ_NORM_LAYER}, {NULL, 0}};
static const mq_choice qk_names[] = {
    {"none", MQ_QK_NONE},           {"head_shared", MQ_QK_HEAD_SHARED},
    {"per_head", MQ_QK_PER_HEAD},   {"all_heads", MQ_QK_ALL_HEADS},
    {"head_unit", MQ_QK_HEAD_UNIT}, {NULL, 0}};
/* Under the names of transformers, which has several for the same function. */
static const mq_choice activation_names[] = {{"silu", MQ_SILU},
                                             {"swish", MQ_SILU},
                                             {"gelu", MQ_GELU_ERF},
                                             {"gelu_new", MQ_GELU_TANH},
                                             {"gelu_pytorch_tanh", MQ_GELU_TANH},
                                             {"clipped_swiglu", MQ_CLIPPED_SWIGLU},
                                             {NULL, 0}};

typedef enum field_kind { INT, DOUBLE, BOOL, CHOICE } field_kind;

typedef struct field {
    const char *name;
    field_kind kind;
    size_t offset; /* in mq_arch */
    const mq_choice *choices;
    bool optional;   /* a descriptor may leave it out: */
    double fallback; /* then a number is this, a flag false and a choice the first */
} field;

#define FIELD(kind, name)                                    \
    {                                                        \
#name, kind, offsetof(mq_arch, name), NULL, false, 0 \
    }
#define CHOICE_FIELD(name, choices)                               \
    {                                                             \
#name, CHOICE, offsetof(mq_arch, name), choices, false, 0 \
    }
#define OPTIONAL_FIELD(kind, name, fallback)                       \
    {                                                              \
#name, kind, offsetof(mq_arch, name), NULL, true, fallback \
    }

/* In the order of reading: a default may name sizes that come before it. */
static const field fields[] = {
    FIELD(INT, n_blocks),
    FIELD(INT, hidden),
    FIELD(INT, intermediate),
    FIELD(INT, vocab),
    FIELD(INT, n_heads),
    FIELD(INT, n_kv_heads),
    FIELD(INT, head_dim),
    FIELD(INT, max_position),
    CHOICE_FIELD(norm, norm_names),
    OPTIONAL_FIELD(BOOL, norm_bias, 0),
    OPTIONAL_FIELD(BOOL, norm_plus_one, 0),
    FIELD(DOUBLE, norm_eps),
    FIELD(BOOL, parallel_block),
    CHOICE_FIELD(qk_norm, qk_names),
    CHOICE_FIELD(qk_norm_kind, norm_names),
    OPTIONAL_FIELD(BOOL, qk_norm_after_rope, 0),
    OPTIONAL_FIELD(BOOL, qk_norm_with_rope, 0),
    OPTIONAL_FIELD(BOOL, attention_gate, 0),
    {"activation", CHOICE, offsetof(mq_arch, activation.kind), activation_names, false, 0},
    {"activation_limit", DOUBLE, offsetof(mq_arch, activation.limit), NULL, true, 0},
    {"activation_slope", DOUBLE, offsetof(mq_arch, activation.slope), NULL, true, 0},
    FIELD(BOOL, rope_interleaved),
    OPTIONAL_FIELD(DOUBLE, attention_scale, INFINITY), /* then 1 / sqrt(head_dim) */
    OPTIONAL_FIELD(DOUBLE, attention_scalar, INFINITY),
    OPTIONAL_FIELD(DOUBLE, attention_cap, 0),
    OPTIONAL_FIELD(DOUBLE, embed_scale, 1),
    OPTIONAL_FIELD(BOOL, embed_sqrt, 0),
    OPTIONAL_FIELD(DOUBLE, residual_scale, 1),
    FIELD(DOUBLE, logit_scale),
    OPTIONAL_FIELD(DOUBLE, logit_divisor, 1),
    OPTIONAL_FIELD(DOUBLE, logit_cap, 0),
    OPTIONAL_FIELD(INT, extra_blocks, 0),
    FIELD(BOOL, tied),
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

/* Choices are written into enum members as ints. */
_Static_assert(sizeof(mq_norm_kind) == sizeof(int) && sizeof(mq_qk_norm) == sizeof(int) &&
                   sizeof(mq_activation_kind) == sizeof(int),
               "enum members of mq_arch are ints");

static mq_status read_field(const mq_arch_texts *texts, const field *f, mq_arch *arch)
{
    char *to = (char *)arch + f->offset;
    int64_t integer = 0;
    double number = f->fallback;
    bool flag = false;
    int choice = 0;
    const cJSON *config = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "config");
    bool left_out = f->optional && !cJSON_GetObjectItemCaseSensitive(config, f->name);
    switch (f->kind) {
    case INT:
        if (!left_out) MQ_TRY(mq_spec_int(texts, "config", f->name, arch, &integer));
        memcpy(to, &integer, sizeof integer);
        break;
    case DOUBLE:
        if (!left_out) MQ_TRY(mq_spec_double(texts, "config", f->name, &number));
        memcpy(to, &number, sizeof number);
        break;
    case BOOL:
        if (!left_out) MQ_TRY(mq_spec_bool(texts, "config", f->name, &flag));
        memcpy(to, &flag, sizeof flag);
        break;
    case CHOICE:
        if (!left_out) MQ_TRY(mq_spec_choice(texts, "config", f->name, f->choices, &choice));
        memcpy(to, &choice, sizeof choice);
        break;
    }
    return MQ_OK;
}

/* A misspelt member would otherwise be a feature that is silently left out. */
static mq_status check_members(const mq_arch_texts *texts)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(texts->descriptor, "config"))
    {
        bool known = false;
        for (int i = 0; i < N_FIELDS; i++)
            known = known || strcmp(item->string, fields[i].name) == 0;
        if (known) continue;
        mq_status status =
            mq_fail(MQ_E_INPUT, "descriptor \"%s\": \"config\" has the unknown member \"%s\"",
                    texts->family, item->string);
        MQ_TRY(mq_findings_add(texts->findings, status, MQ_FOUND_CONFIG, ""));
    }
    return MQ_OK;
}

static mq_status read_fields(const mq_arch_texts *texts, mq_arch *arch)
{
    MQ_TRY(check_members(texts));
    for (int i = 0; i < N_FIELDS; i++) {
        MQ_TRY(mq_findings_add(texts->findings, read_field(texts, &fields[i], arch),
                               MQ_FOUND_CONFIG, ""));
    }
    MQ_TRY(
        mq_findings_add(texts->findings, mq_arch_parse_latent(texts, arch), MQ_FOUND_CONFIG, ""));
    for (int i = 0; i < MQ_N_LINEARS; i++) {
        const char *name = mq_linear_name((mq_linear_id)i);
        if (i < MQ_O && (arch->latent.kv_rank > 0 || i > MQ_V)) continue;
        MQ_TRY(mq_findings_add(texts->findings,
                               mq_spec_bool(texts, "bias", name, &arch->has_bias[i]),
                               MQ_FOUND_CONFIG, ""));
    }
    return MQ_OK;
}

/* ---- multipliers ---------------------------------------------------------------------------- */

/* A scale of 0 would leave nothing; a negative one nobody has, and attention takes none. */
static mq_status settle_scales(const mq_arch_texts *texts, mq_arch *a)
{
    const struct {
        const char *name;
        double value;
    } scales[] = {
        {"attention_scale", a->attention_scale}, {"attention_scalar", a->attention_scalar},
        {"embed_scale", a->embed_scale},         {"residual_scale", a->residual_scale},
        {"logit_scale", a->logit_scale},         {"logit_divisor", a->logit_divisor}};
    const double caps[] = {a->attention_cap, a->logit_cap};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        if (scales[i].value > 0) continue;
        return mq_fail(MQ_E_INPUT, "%s: %s = %g; it must be above 0", texts->where, scales[i].name,
                       scales[i].value);
    }
    for (int i = 0; i < 2; i++) {
        if (caps[i] >= 0) continue;
        return mq_fail(MQ_E_INPUT, "%s: a soft cap of %g", texts->where, caps[i]);
    }
    if (isfinite(a->attention_scalar)) {
        a->attention_scale = 1 / sqrt(a->attention_scalar);
    } else if (isinf(a->attention_scale)) {
        a->attention_scale = 1 / sqrt((double)a->head_dim);
    }
    a->logit_scale /= a->logit_divisor;
    return MQ_OK;
}

static mq_status check_activation(const mq_arch_texts *texts, mq_arch *arch)
{
    const mq_activation *act = &arch->activation;
    if (act->kind != MQ_CLIPPED_SWIGLU || (act->limit > 0 && act->slope > 0)) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: an activation with activation_limit %g and activation_slope %g; both must "
                   "be above 0",
                   texts->where, act->limit, act->slope);
}

/* ---- sizes that make no sense --------------------------------------------------------------- */

static mq_status check_sizes(const mq_arch_texts *texts, const mq_arch *a)
{
    const char *where = texts->where;
    for (int i = 0; i < N_FIELDS; i++) {
        if (fields[i].kind != INT) continue;
        bool maybe_0 = fields[i].optional || strcmp(fields[i].name, "max_position") == 0;
        int64_t size = 0, least = !maybe_0;
        memcpy(&size, (const char *)a + fields[i].offset, sizeof size);
        /* Below 2^31 a product of two sizes, n_heads * head_dim say, cannot overflow. */
        if (size < least || size > INT32_MAX) {
            return mq_fail(MQ_E_INPUT, "%s: %s = %" PRId64 " is out of range", where,
                           fields[i].name, size);
        }
    }
    if (a->head_dim > INT32_MAX / (2 * a->n_heads + 2 * a->n_kv_heads)) {
        return mq_fail(MQ_E_INPUT,
                       "%s: %" PRId64 " heads, %" PRId64 " of keys and of values, of %" PRId64
                       " each are out of range",
                       where, a->n_heads, a->n_kv_heads, a->head_dim);
    }
    if (a->n_blocks > MQ_ARCH_BLOCKS) {
        return mq_fail(MQ_E_INPUT, "%s: %" PRId64 " blocks; this version knows models of up to %d",
                       where, a->n_blocks, (int)MQ_ARCH_BLOCKS);
    }
    if (a->n_heads % a->n_kv_heads != 0) {
        return mq_fail(MQ_E_INPUT,
                       "%s: %" PRId64 " attention heads cannot share %" PRId64
                       " key/value heads evenly",
                       where, a->n_heads, a->n_kv_heads);
    }
    if (a->head_dim % 2 != 0) {
        return mq_fail(MQ_E_INPUT, "%s: head_dim %" PRId64 " is odd; rope turns pairs", where,
                       a->head_dim);
    }
    if (!(a->norm_eps >= 0)) {
        return mq_fail(MQ_E_INPUT, "%s: a norm epsilon of %g", where, a->norm_eps);
    }
    return MQ_OK;
}

/* ---- tensor names --------------------------------------------------------------------------- */

static mq_status copy_name(const mq_arch_texts *texts, const char *key, bool in_block,
                           const char *name, char out[MQ_ARCH_NAME])
{
    if (!name || strlen(name) + 1 > MQ_ARCH_NAME || in_block != (strstr(name, "{i}") != NULL)) {
        return mq_fail(MQ_E_INPUT,
                       "descriptor \"%s\": \"tensors\" needs \"%s\", a name of less than %d bytes, "
                       "with {i} for the block if it is in one",
                       texts->family, key, (int)MQ_ARCH_NAME);
    }
    memcpy(out, name, strlen(name) + 1);
    return MQ_OK;
}

mq_status mq_arch_tensor_name(const mq_arch_texts *texts, const char *key, bool in_block,
                              char out[MQ_ARCH_NAME])
{
    const cJSON *tensors = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "tensors");
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(tensors, key));
    return copy_name(texts, key, in_block, name, out);
}

/* A norm of a block, which "none" leaves out; one that no name is given for would be forgotten. */
static mq_status norm_name(const mq_arch_texts *texts, const char *key, char out[MQ_ARCH_NAME])
{
    const cJSON *tensors = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "tensors");
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(tensors, key));
    bool branch = strcmp(key, "o_norm") == 0 || strcmp(key, "down_norm") == 0;
    if ((branch && !name) || (name && strcmp(name, "none") == 0)) return MQ_OK;
    return copy_name(texts, key, true, name, out);
}

static mq_status optional_name(const mq_arch_texts *texts, const char *key, char out[MQ_ARCH_NAME])
{
    const cJSON *tensors = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "tensors");
    if (!cJSON_GetObjectItemCaseSensitive(tensors, key)) return MQ_OK;
    return mq_arch_tensor_name(texts, key, true, out);
}

/* Tensors that all blocks have, and rows that stand where they are looked for. */
static mq_status check_together(const mq_arch_texts *texts, const mq_arch *a)
{
    bool weights = a->qk_norm != MQ_QK_NONE && a->qk_norm != MQ_QK_HEAD_UNIT;
    if (!(a->qk_norm_with_rope && weights) && !(a->attention_gate && a->fused_qkv)) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "descriptor \"%s\": \"qk_norm_with_rope\" goes with a norm without weights, "
                   "\"attention_gate\" with a q by itself",
                   texts->family);
}

static mq_status read_ignored(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(texts->descriptor, "ignored_tensors"))
    {
        if (arch->n_ignored_tensors == MQ_ARCH_IGNORED) {
            return mq_fail(MQ_E_INPUT, "descriptor \"%s\": more than %d \"ignored_tensors\"",
                           texts->family, (int)MQ_ARCH_IGNORED);
        }
        const char *name = cJSON_GetStringValue(item);
        MQ_TRY(copy_name(texts, "ignored_tensors", name && strstr(name, "{i}"), name,
                         arch->ignored_tensor[arch->n_ignored_tensors]));
        arch->n_ignored_tensors++;
    }
    return MQ_OK;
}

/* Layers first..last, or the one that holds the rows of all of them, which then stands for them. */
static mq_status read_fused(const mq_arch_texts *texts, const char *name, mq_linear_id first,
                            mq_linear_id last, mq_arch *arch, bool *fused)
{
    const cJSON *tensors = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "tensors");
    *fused = cJSON_GetObjectItemCaseSensitive(tensors, name) != NULL;
    for (int l = (int)first; l <= (int)last && !*fused; l++) {
        MQ_TRY(mq_arch_tensor_name(texts, mq_linear_name((mq_linear_id)l), true, arch->linear[l]));
    }
    if (!*fused) return MQ_OK;
    for (int l = (int)first + 1; l <= (int)last; l++) {
        if (arch->has_bias[l] != arch->has_bias[first]) {
            return mq_fail(MQ_E_INPUT, "descriptor \"%s\": \"%s\" has one bias or none",
                           texts->family, name);
        }
        arch->has_bias[l] = false;
    }
    return mq_arch_tensor_name(texts, name, true, arch->linear[first]);
}

static mq_status read_linears(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *tensors = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "tensors");
    const char *gate = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(tensors, "gate"));
    arch->gated = !gate || strcmp(gate, "none") != 0;
    if (arch->latent.kv_rank > 0) {
        MQ_TRY(mq_arch_latent_names(texts, arch));
    } else {
        MQ_TRY(read_fused(texts, "qkv", MQ_Q, MQ_V, arch, &arch->fused_qkv));
    }
    MQ_TRY(mq_arch_tensor_name(texts, "o", true, arch->linear[MQ_O]));
    /* Where every block has experts no other MLP has a name. */
    bool all_routed = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "moe") &&
                      !cJSON_GetObjectItemCaseSensitive(tensors, "down");
    if (all_routed) return MQ_OK;
    MQ_TRY(mq_arch_tensor_name(texts, "down", true, arch->linear[MQ_DOWN]));
    if (arch->gated) {
        return read_fused(texts, "gate_up", MQ_GATE, MQ_UP, arch, &arch->fused_gate_up);
    }
    arch->has_bias[MQ_GATE] = false;
    return mq_arch_tensor_name(texts, "up", true, arch->linear[MQ_UP]);
}

static mq_status read_names(const mq_arch_texts *texts, mq_arch *arch)
{
    MQ_TRY(mq_arch_tensor_name(texts, "embed", false, arch->embed));
    MQ_TRY(mq_arch_tensor_name(texts, "final_norm", false, arch->final_norm));
    MQ_TRY(mq_arch_tensor_name(texts, "head", false, arch->head));
    MQ_TRY(norm_name(texts, "attn_norm", arch->attn_norm));
    if (!arch->parallel_block) {
        MQ_TRY(norm_name(texts, "mlp_norm", arch->mlp_norm));
        MQ_TRY(norm_name(texts, "o_norm", arch->o_norm));
        MQ_TRY(norm_name(texts, "down_norm", arch->down_norm));
    }
    if (arch->qk_norm != MQ_QK_NONE && arch->qk_norm != MQ_QK_HEAD_UNIT) {
        MQ_TRY(mq_arch_tensor_name(texts, "q_norm", true, arch->q_norm));
        MQ_TRY(mq_arch_tensor_name(texts, "k_norm", true, arch->k_norm));
    }
    MQ_TRY(optional_name(texts, "sinks", arch->sinks));
    MQ_TRY(read_linears(texts, arch));
    MQ_TRY(check_together(texts, arch));
    return read_ignored(texts, arch);
}

/* ---- all of it ------------------------------------------------------------------------------ */

/* What is read once the sizes are known to make sense; `tensors`: what tensors there are depends on
 * it. */
static const struct {
    mq_status (*run)(const mq_arch_texts *texts, mq_arch *arch);
    bool tensors;
} steps[] = {
    {settle_scales, false},
    {check_activation, false},
    {read_names, true},
    {mq_arch_parse_delta, true},
    {mq_arch_parse_rope, false},
    {mq_arch_parse_no_rope, false},
    {mq_arch_parse_window, false},
    {mq_arch_settle_no_rope, false},
    {mq_arch_parse_chunk, false},
    {mq_arch_parse_query_scale, false},
    {mq_arch_parse_moe, true},
    {mq_arch_parse_sensitive, false},
    {mq_arch_parse_gguf, false},
    {mq_arch_parse_copied, true},
    {mq_arch_parse_quantization, true},
};

static mq_status run_steps(const mq_arch_texts *texts, mq_arch *arch)
{
    bool known = true;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        int64_t before = mq_findings_count(texts->findings);
        MQ_TRY(mq_findings_add(texts->findings, steps[i].run(texts, arch), MQ_FOUND_CONFIG, ""));
        bool failed = mq_findings_count(texts->findings) > before;
        known = known && !(failed && steps[i].tensors);
    }
    if (texts->findings) texts->findings->tensors_known = known;
    return MQ_OK;
}

static mq_status parse(mq_arch_texts *texts, mq_arch *arch)
{
    const char *model_type = NULL;
    if (!cJSON_IsObject(texts->root)) {
        return mq_fail(MQ_E_INPUT, "%s: not a JSON object", texts->where);
    }
    MQ_TRY(mq_json_string(texts->root, "model_type", texts->where, &model_type));
    snprintf(arch->model_type, sizeof arch->model_type, "%s", model_type);
    snprintf(arch->where, sizeof arch->where, "%s", texts->where);
    snprintf(arch->family, sizeof arch->family, "%s", texts->family);
    mq_findings *findings = texts->findings;
    int64_t before = mq_findings_count(findings);
    MQ_TRY(mq_findings_add(findings, mq_arch_find_language(texts), MQ_FOUND_CONFIG, ""));
    if (mq_findings_count(findings) > before) return MQ_OK; /* there is nothing to read */
    MQ_TRY(read_fields(texts, arch));
    mq_arch_parse_towers(texts, arch);
    if (mq_findings_count(findings) == before) {
        MQ_TRY(mq_findings_add(findings, check_sizes(texts, arch), MQ_FOUND_CONFIG, ""));
    }
    if (mq_findings_count(findings) == before) MQ_TRY(run_steps(texts, arch));
    MQ_TRY(mq_arch_check_members(texts));
    return mq_arch_check_keys(texts);
}

static mq_status parse_texts(const char *config, const char *descriptor, const char *common,
                             cJSON *json[3], mq_arch_texts *texts)
{
    const char *family = NULL;
    MQ_TRY(mq_json_parse(descriptor, "descriptor", &json[0]));
    MQ_TRY(mq_json_string(json[0], "family", "descriptor", &family));
    snprintf(texts->family, sizeof texts->family, "%s", family);
    MQ_TRY(mq_json_parse(common, "configs/arch/common.json", &json[1]));
    MQ_TRY(mq_json_parse(config, texts->where, &json[2]));
    texts->descriptor = json[0];
    texts->common = json[1];
    texts->root = json[2];
    return MQ_OK;
}

mq_status mq_arch_examine(const char *config, const char *where, const char *descriptor,
                          const char *common, mq_findings *findings, mq_arch *arch)
{
    cJSON *json[3] = {NULL, NULL, NULL};
    mq_arch_texts texts = {.where = where, .findings = findings};
    memset(arch, 0, sizeof *arch);
    mq_status status = parse_texts(config, descriptor, common, json, &texts);
    if (status == MQ_OK) status = parse(&texts, arch);
    for (int i = 0; i < 3; i++) cJSON_Delete(json[i]);
    return status;
}

mq_status mq_arch_parse(const char *config, const char *where, const char *descriptor,
                        const char *common, mq_arch *arch)
{
    return mq_arch_examine(config, where, descriptor, common, NULL, arch);
}

/* ---- what was read, in words ---------------------------------------------------------------- */

static const char *choice_name(const mq_choice *choices, int value)
{
    while (choices->name && choices->value != value) choices++;
    return choices->name ? choices->name : "?";
}

static mq_status describe_field(const mq_arch *arch, const field *f, cJSON *out)
{
    const char *from = (const char *)arch + f->offset;
    int64_t integer = 0;
    double number = 0;
    bool flag = false;
    int choice = 0;
    switch (f->kind) {
    case INT:
        memcpy(&integer, from, sizeof integer);
        return mq_json_add_int(out, f->name, integer);
    case DOUBLE:
        memcpy(&number, from, sizeof number);
        return isfinite(number) ? mq_json_add_double(out, f->name, number) : MQ_OK;
    case BOOL:
        memcpy(&flag, from, sizeof flag);
        return mq_json_add_bool(out, f->name, flag);
    case CHOICE:
        memcpy(&choice, from, sizeof choice);
        return mq_json_add_string(out, f->name, choice_name(f->choices, choice));
    }
    return MQ_OK;
}

mq_status mq_arch_describe(const mq_arch *arch, cJSON *out)
{
    int64_t sliding = 0, no_rope = 0, routed = 0, linear = 0;
    for (int i = 0; i < N_FIELDS; i++) MQ_TRY(describe_field(arch, &fields[i], out));
    for (int64_t b = 0; b < arch->n_blocks && b < MQ_ARCH_BLOCKS; b++) {
        sliding += arch->block[b].sliding;
        no_rope += arch->block[b].no_rope;
        routed += arch->block[b].routed;
        linear += arch->block[b].linear;
    }
    MQ_TRY(mq_json_add_string(out, "rope", mq_rope_scaling_name(arch->rope.scaling)));
    MQ_TRY(mq_json_add_double(out, "rope_theta", arch->rope.theta));
    MQ_TRY(mq_json_add_int(out, "rope_dim", arch->rope.dim));
    MQ_TRY(mq_json_add_int(out, "window", arch->window));
    MQ_TRY(mq_json_add_int(out, "blocks_with_window", sliding));
    MQ_TRY(mq_json_add_int(out, "blocks_without_rope", no_rope));
    MQ_TRY(mq_json_add_int(out, "blocks_linear", linear));
    MQ_TRY(mq_json_add_int(out, "blocks_with_experts", routed));
    MQ_TRY(mq_json_add_int(out, "experts", arch->moe.routing.n_experts));
    MQ_TRY(mq_json_add_int(out, "experts_of_a_token", arch->moe.routing.top_k));
    MQ_TRY(mq_json_add_int(out, "expert_intermediate", arch->moe.intermediate));
    return mq_json_add_int(out, "shared_intermediate", arch->moe.shared_intermediate);
}
