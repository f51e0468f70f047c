#include "model/arch_parse.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Rope: its theta, how it is scaled, and the parameters of that, where transformers 4 and 5 have
 * them. */

typedef struct rope_form {
    const char *name;
    mq_rope_scaling scaling;
    const char *keys[9]; /* beside rope_type, type and rope_theta; ends with NULL */
} rope_form;

static const char original[] = "original_max_position_embeddings";

static const rope_form rope_forms[] = {
    {"default", MQ_ROPE_PLAIN, {NULL}},
    {"linear", MQ_ROPE_LINEAR, {"factor", NULL}},
    {"llama3", MQ_ROPE_LLAMA3, {"factor", "low_freq_factor", "high_freq_factor", original, NULL}},
    {"yarn",
     MQ_ROPE_YARN,
     {"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
      "truncate", original, NULL}},
    {"longrope",
     MQ_ROPE_LONG,
     {"factor", "attention_factor", "short_factor", "long_factor", original, NULL}},
    {"su", /* an older name */
     MQ_ROPE_LONG,
     {"factor", "attention_factor", "short_factor", "long_factor", original, NULL}},
    {"dynamic", MQ_ROPE_NTK, {"factor", NULL}},
};
enum { N_ROPE_FORMS = sizeof rope_forms / sizeof *rope_forms };

const char *mq_rope_scaling_name(mq_rope_scaling scaling)
{
    int i = 0;
    if (scaling == MQ_ROPE_DOUBLING) return "by the length of a sample";
    while (i + 1 < N_ROPE_FORMS && rope_forms[i].scaling != scaling) i++;
    return rope_forms[i].name;
}

/* "dynamic" of families for which an alpha makes it another theta once and for all; the other keys
 * are in their files too, and nothing reads them. */
static const rope_form alpha_form = {
    "dynamic",
    MQ_ROPE_PLAIN,
    {"alpha", "factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", NULL}};

/* Whether the descriptor's section "rope" has a member. */
static bool has_member(const mq_arch_texts *texts, const char *name)
{
    const cJSON *section = cJSON_GetObjectItemCaseSensitive(texts->descriptor, "rope");
    return cJSON_GetObjectItemCaseSensitive(section, name) != NULL;
}

/* The object with the rope's parameters: rope_parameters (transformers 5) or rope_scaling (4);
 * NULL when neither is there, or the family has none. */
static mq_status rope_object(const mq_arch_texts *texts, const cJSON **out)
{
    mq_spec_value parameters = {.json = NULL}, scaling = {.json = NULL};
    if (has_member(texts, "parameters")) {
        MQ_TRY(mq_spec_find(texts, "rope", "parameters", &parameters));
    }
    if (has_member(texts, "scaling")) MQ_TRY(mq_spec_find(texts, "rope", "scaling", &scaling));
    if (parameters.json && scaling.json) {
        return mq_fail(MQ_E_INPUT, "%s: has both \"%s\" and \"%s\"; keep the one that holds",
                       texts->where, parameters.name, scaling.name);
    }
    const mq_spec_value *value = parameters.json ? &parameters : &scaling;
    if (value->json && !cJSON_IsObject(value->json)) {
        return mq_fail(MQ_E_INPUT, "%s: \"%s\" must be an object", texts->where, value->name);
    }
    *out = value->json;
    return MQ_OK;
}

static mq_status form_of(const mq_arch_texts *texts, const cJSON *rope, const rope_form **out)
{
    const char *name = NULL, *old_name = NULL;
    MQ_TRY(mq_json_string_or(rope, "rope_type", texts->where, &name));
    MQ_TRY(mq_json_string_or(rope, "type", texts->where, &old_name));
    name = mq_arch_axes_type(texts, name);
    old_name = mq_arch_axes_type(texts, old_name);
    if (name && old_name && strcmp(name, old_name) != 0) {
        return mq_fail(MQ_E_INPUT, "%s: rope has \"rope_type\" \"%s\" and \"type\" \"%s\"",
                       texts->where, name, old_name);
    }
    if (!name) name = old_name ? old_name : "default";
    if (has_member(texts, "alpha") && strcmp(name, "dynamic") == 0 &&
        !mq_json_is_off(mq_json_find(rope, "alpha"))) {
        *out = &alpha_form;
        return MQ_OK;
    }
    for (int i = 0; i < N_ROPE_FORMS; i++) {
        if (strcmp(name, rope_forms[i].name) == 0) {
            *out = &rope_forms[i];
            return MQ_OK;
        }
    }
    return mq_fail(MQ_E_INPUT,
                   "%s: rope type \"%s\" is not supported; this version knows default, linear, "
                   "llama3, yarn, longrope and dynamic",
                   texts->where, name);
}

static mq_status check_rope_keys(const mq_arch_texts *texts, const cJSON *rope,
                                 const rope_form *form)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, rope)
    {
        const char *key = item->string;
        bool known = strcmp(key, "rope_type") == 0 || strcmp(key, "type") == 0 ||
                     strcmp(key, "rope_theta") == 0 || mq_json_is_off(item);
        /* Elsewhere all of a head is rotated: 1 says so explicitly. */
        known =
            known ||
            (strcmp(key, "partial_rotary_factor") == 0 &&
             (has_member(texts, "partial") || has_member(texts, "dim") || item->valuedouble == 1));
        known = known || mq_arch_is_axes_key(texts, key);
        for (int i = 0; form->keys[i]; i++) known = known || strcmp(key, form->keys[i]) == 0;
        if (known) continue;
        mq_status status =
            mq_fail(MQ_E_INPUT,
                    "%s: rope of type \"%s\" has the key \"%s\", which this version cannot "
                    "interpret",
                    texts->where, form->name, key);
        MQ_TRY(mq_findings_add(texts->findings, status, MQ_FOUND_CONFIG, ""));
    }
    return MQ_OK;
}

static mq_status parse_theta(const mq_arch_texts *texts, const char *section, const cJSON *rope,
                             mq_rope_kind *out)
{
    mq_spec_value outer;
    MQ_TRY(mq_spec_find(texts, section, "theta", &outer));
    if (!mq_json_find(rope, "rope_theta")) {
        MQ_TRY(mq_spec_double(texts, section, "theta", &out->theta));
    } else {
        MQ_TRY(mq_json_double(rope, "rope_theta", texts->where, &out->theta));
        if (outer.from_config && outer.json->valuedouble != out->theta) {
            return mq_fail(MQ_E_INPUT, "%s: \"rope_theta\" is %g, and %g inside the rope's object",
                           texts->where, outer.json->valuedouble, out->theta);
        }
    }
    if (out->theta > 0) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: \"rope_theta\" is %g and must be positive", texts->where,
                   out->theta);
}

/* Coordinates of a head that turn. */
static mq_status parse_dim(const mq_arch_texts *texts, const cJSON *rope, const mq_arch *arch,
                           mq_rope_kind *out)
{
    double part = 1, inner = 1;
    int64_t coordinates = 0;
    mq_spec_value outer = {.json = NULL};
    if (has_member(texts, "dim")) {
        MQ_TRY(mq_spec_int(texts, "rope", "dim", arch, &coordinates));
        part = (double)coordinates / (double)arch->head_dim;
    }
    if (has_member(texts, "partial")) {
        MQ_TRY(mq_spec_find(texts, "rope", "partial", &outer));
        MQ_TRY(mq_spec_double(texts, "rope", "partial", &part));
    }
    if (mq_json_find(rope, "partial_rotary_factor")) {
        MQ_TRY(mq_json_double(rope, "partial_rotary_factor", texts->where, &inner));
        if (outer.from_config && part != inner) {
            return mq_fail(MQ_E_INPUT,
                           "%s: \"%s\" is %g, and \"partial_rotary_factor\" of rope is %g",
                           texts->where, outer.name, part, inner);
        }
        part = inner;
    }
    int64_t of = arch->latent.kv_rank > 0 ? arch->latent.rope_dim : arch->head_dim;
    double dim = floor((double)of * part);
    if (part > 0 && part <= 1 && dim >= 2 && fmod(dim, 2) == 0 && dim <= 2 * MQ_ROPE_PAIRS) {
        out->dim = (int64_t)dim;
        return MQ_OK;
    }
    return mq_fail(MQ_E_INPUT,
                   "%s: a part %g of heads of %" PRId64
                   " turns; expected an even number of coordinates, at most %d",
                   texts->where, part, of, 2 * (int)MQ_ROPE_PAIRS);
}

/* A number above 0, or `otherwise` where the key is missing or off. */
static mq_status positive(const mq_arch_texts *texts, const cJSON *rope, const char *key,
                          double otherwise, double *out)
{
    *out = otherwise;
    if (!mq_json_is_off(mq_json_find(rope, key))) {
        MQ_TRY(mq_json_double(rope, key, texts->where, out));
    }
    if (*out > 0 && isfinite(*out)) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: rope has %s %g, which must be positive", texts->where, key,
                   *out);
}

/* Families that have it outside of the object go by that one, as transformers does. */
static mq_status parse_original(const mq_arch_texts *texts, const cJSON *rope, const mq_arch *arch,
                                mq_rope_kind *out)
{
    out->original_positions = arch->max_position;
    if (has_member(texts, "original")) {
        MQ_TRY(mq_spec_int(texts, "rope", "original", arch, &out->original_positions));
    } else {
        MQ_TRY(mq_json_int_or(rope, original, texts->where, &out->original_positions));
    }
    if (out->original_positions >= 1) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: rope needs \"%s\" >= 1", texts->where, original);
}

static mq_status parse_llama3(const mq_arch_texts *texts, const cJSON *rope, mq_rope_kind *out)
{
    const char *where = texts->where;
    MQ_TRY(mq_json_double(rope, "low_freq_factor", where, &out->low_freq));
    MQ_TRY(mq_json_double(rope, "high_freq_factor", where, &out->high_freq));
    if (out->low_freq > 0 && out->high_freq > out->low_freq) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: rope has low_freq_factor %g and high_freq_factor %g; expected "
                   "0 < low < high",
                   where, out->low_freq, out->high_freq);
}

/* ---- yarn ----------------------------------------------------------------------------------- */

static double magnitude(double factor, double weight)
{
    return factor <= 1 ? 1 : 0.1 * weight * log(factor) + 1;
}

static mq_status parse_yarn(const mq_arch_texts *texts, const cJSON *rope, mq_rope_kind *out)
{
    double scale = 1, all = 1, usual = magnitude(out->factor, 1);
    bool both = !mq_json_is_off(mq_json_find(rope, "mscale")) &&
                !mq_json_is_off(mq_json_find(rope, "mscale_all_dim"));
    MQ_TRY(positive(texts, rope, "mscale", 1, &scale));
    MQ_TRY(positive(texts, rope, "mscale_all_dim", 1, &all));
    if (both) usual = magnitude(out->factor, scale) / magnitude(out->factor, all);
    MQ_TRY(positive(texts, rope, "attention_factor", usual, &out->attention_factor));
    MQ_TRY(positive(texts, rope, "beta_fast", 32, &out->beta_fast));
    MQ_TRY(positive(texts, rope, "beta_slow", 1, &out->beta_slow));
    out->truncate = true;
    MQ_TRY(mq_json_bool_or(rope, "truncate", texts->where, &out->truncate));
    if (out->beta_fast >= out->beta_slow && out->theta > 1) return MQ_OK;
    return mq_fail(
        MQ_E_INPUT,
        "%s: rope has beta_fast %g, beta_slow %g and theta %g; expected fast >= slow and "
        "theta > 1",
        texts->where, out->beta_fast, out->beta_slow, out->theta);
}

/* ---- longrope ------------------------------------------------------------------------------- */

static mq_status parse_factors(const mq_arch_texts *texts, const cJSON *rope, const char *key,
                               int64_t n, float *out)
{
    const cJSON *list = mq_json_find(rope, key), *item = NULL;
    int64_t i = 0;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != n) {
        return mq_fail(MQ_E_INPUT, "%s: \"%s\" of rope must list %" PRId64 " numbers", texts->where,
                       key, n);
    }
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item) || !(item->valuedouble > 0) || !isfinite(item->valuedouble)) {
            return mq_fail(MQ_E_INPUT, "%s: \"%s\" of rope has an entry that is not positive",
                           texts->where, key);
        }
        out[i++] = (float)item->valuedouble;
    }
    return MQ_OK;
}

static mq_status parse_long(const mq_arch_texts *texts, const cJSON *rope, const mq_arch *arch,
                            mq_rope_kind *out)
{
    double positions = (double)out->original_positions, usual = 1;
    MQ_TRY(parse_factors(texts, rope, "short_factor", out->dim / 2, out->short_factor));
    MQ_TRY(parse_factors(texts, rope, "long_factor", out->dim / 2, out->long_factor));
    MQ_TRY(positive(texts, rope, "factor", (double)arch->max_position / positions, &out->factor));
    if (out->factor > 1) usual = sqrt(1 + log(out->factor) / log(positions));
    return positive(texts, rope, "attention_factor", usual, &out->attention_factor);
}

/* ---- all of it ------------------------------------------------------------------------------ */

static mq_status parse_alpha(const mq_arch_texts *texts, const cJSON *rope, mq_rope_kind *out)
{
    double alpha = 0, dim = (double)out->dim;
    MQ_TRY(positive(texts, rope, "alpha", 0, &alpha));
    out->theta *= pow(alpha, dim / (dim - 2));
    if (dim > 2 && isfinite(out->theta)) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: rope with alpha %g on heads of %" PRId64 " has theta %g",
                   texts->where, alpha, out->dim, out->theta);
}

/* Families without an object for it may say that theta grows with a sample's length. */
static mq_status parse_doubling(const mq_arch_texts *texts, const mq_arch *arch, mq_rope_kind *out)
{
    bool doubling = false;
    if (!has_member(texts, "doubling")) return MQ_OK;
    MQ_TRY(mq_spec_bool(texts, "rope", "doubling", &doubling));
    if (!doubling) return MQ_OK;
    out->scaling = MQ_ROPE_DOUBLING;
    MQ_TRY(mq_spec_int(texts, "rope", "original", arch, &out->original_positions));
    if (out->original_positions >= 1 && out->dim > 2) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: theta of rope grows from %" PRId64 " positions on, of %" PRId64
                   " coordinates; expected at least 1 and 4",
                   texts->where, out->original_positions, out->dim);
}

static mq_status parse_scaling(const mq_arch_texts *texts, const cJSON *rope, const mq_arch *arch,
                               mq_rope_kind *out)
{
    if (out->scaling != MQ_ROPE_LONG) {
        MQ_TRY(mq_json_double(rope, "factor", texts->where, &out->factor));
        MQ_TRY(positive(texts, rope, "factor", 0, &out->factor));
    }
    if (out->scaling == MQ_ROPE_LINEAR) return MQ_OK;
    if (out->scaling == MQ_ROPE_NTK) {
        if (arch->max_position >= 1) return MQ_OK;
        return mq_fail(MQ_E_INPUT, "%s: dynamic rope needs \"max_position_embeddings\"",
                       texts->where);
    }
    MQ_TRY(parse_original(texts, rope, arch, out));
    if (out->scaling == MQ_ROPE_LLAMA3) return parse_llama3(texts, rope, out);
    if (out->scaling == MQ_ROPE_YARN) return parse_yarn(texts, rope, out);
    return parse_long(texts, rope, arch, out);
}

/* The rope that `section` of the descriptor and the object of parameters describe. */
static mq_status parse_kind(const mq_arch_texts *texts, const char *section, const cJSON *rope,
                            const mq_arch *arch, mq_rope_kind *out)
{
    const rope_form *form = &rope_forms[0];
    MQ_TRY(form_of(texts, rope, &form));
    MQ_TRY(check_rope_keys(texts, rope, form));
    MQ_TRY(parse_theta(texts, section, rope, out));
    MQ_TRY(parse_dim(texts, rope, arch, out));
    MQ_TRY(mq_arch_parse_axes(texts, rope, out));
    out->scaling = form->scaling;
    out->factor = 1;
    out->attention_factor = 1;
    if (form == &alpha_form) return parse_alpha(texts, rope, out);
    if (form->scaling == MQ_ROPE_PLAIN) return parse_doubling(texts, arch, out);
    return parse_scaling(texts, rope, arch, out);
}

/* What the two have no form for together. */
static mq_status check_two(const mq_arch_texts *texts, const mq_arch *arch)
{
    const mq_rope_kind *both[] = {&arch->rope, &arch->sliding_rope};
    for (int i = 0; i < 2; i++) {
        bool by_length = both[i]->scaling == MQ_ROPE_LONG || both[i]->scaling == MQ_ROPE_NTK;
        /* transformers looks for "truncate" beside the types of attention, and finds none. */
        bool ramp = both[i]->scaling == MQ_ROPE_YARN && !both[i]->truncate;
        if (!by_length && !ramp) continue;
        return mq_fail(MQ_E_INPUT,
                       "%s: longrope, dynamic, and yarn with \"truncate\" false are not supported "
                       "where types of attention have ropes of their own",
                       texts->where);
    }
    return MQ_OK;
}

/* Families whose sliding blocks turn in their own way: transformers 5 has an object for each type
 * of block; what transformers 4 says of scaling is for the others. */
static mq_status parse_two(const mq_arch_texts *texts, const cJSON *rope, mq_arch *arch)
{
    const cJSON *full = mq_json_find(rope, "full_attention");
    const cJSON *sliding = mq_json_find(rope, "sliding_attention"), *item = NULL;
    arch->own_sliding_rope = true;
    if (!full && !sliding) {
        MQ_TRY(parse_kind(texts, "rope", rope, arch, &arch->rope));
        MQ_TRY(parse_kind(texts, "sliding_rope", NULL, arch, &arch->sliding_rope));
        return check_two(texts, arch);
    }
    cJSON_ArrayForEach(item, rope)
    {
        if (item == full || item == sliding) continue;
        return mq_fail(MQ_E_INPUT, "%s: rope has \"%s\" beside its types of attention",
                       texts->where, item->string);
    }
    MQ_TRY(parse_kind(texts, "rope", full, arch, &arch->rope));
    MQ_TRY(parse_kind(texts, "sliding_rope", sliding, arch, &arch->sliding_rope));
    return check_two(texts, arch);
}

/* Latent attention multiplies the scores of rope scaled by yarn by what mscale_all_dim says, which
 * is not in its cosines and sines. */
static mq_status scale_latent(const mq_arch_texts *texts, const cJSON *rope, mq_arch *arch)
{
    double all = 0;
    const cJSON *weight = mq_json_find(rope, "mscale_all_dim");
    if (arch->latent.kv_rank == 0 || arch->rope.scaling != MQ_ROPE_YARN || mq_json_is_off(weight)) {
        return MQ_OK;
    }
    MQ_TRY(positive(texts, rope, "mscale_all_dim", 0, &all));
    all = magnitude(arch->rope.factor, all);
    arch->attention_scale *= all * all;
    return MQ_OK;
}

mq_status mq_arch_parse_rope(const mq_arch_texts *texts, mq_arch *arch)
{
    const cJSON *rope = NULL;
    MQ_TRY(rope_object(texts, &rope));
    if (cJSON_GetObjectItemCaseSensitive(texts->descriptor, "sliding_rope")) {
        return parse_two(texts, rope, arch);
    }
    MQ_TRY(parse_kind(texts, "rope", rope, arch, &arch->rope));
    return scale_latent(texts, rope, arch);
}
