#include "pipeline/compressed_config.h"

#include "pipeline/module_names.h"

#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 256 };

/* The release of compressed-tensors whose keys these are; later ones read them. */
static const char *const version = "0.12.2";

static mq_status append(const char *name, cJSON *list)
{
    cJSON *item = cJSON_CreateString(name);
    if (item && cJSON_AddItemToArray(list, item)) return MQ_OK;
    cJSON_Delete(item);
    return mq_fail(MQ_E_MEMORY, "no memory for the quantisation config");
}

/* A module as readers name it. */
static mq_status append_module(const mq_arch *arch, const char *name, cJSON *list)
{
    char pattern[MQ_PATTERN_BYTES] = "re:";
    if (!arch->towers) return append(name, list);
    mq_module_pattern(arch, name, pattern);
    mq_pattern_append(pattern, "$");
    return append(pattern, list);
}

/* Other parts of the model, none of which is packed. */
static mq_status add_others(const mq_arch *arch, cJSON *list)
{
    for (int64_t i = 0; i < mq_n_other_patterns(arch); i++) {
        char pattern[MQ_PATTERN_BYTES] = "re:";
        mq_other_pattern(arch, i, pattern);
        MQ_TRY(append(pattern, list));
    }
    return MQ_OK;
}

static mq_status add_name(const mq_scheme *scheme, int64_t block, mq_linear_id linear, cJSON *list)
{
    char name[NAME_BYTES];
    mq_arch_linear_name(scheme->arch, linear, block, name, sizeof name);
    return append_module(scheme->arch, name, list);
}

/* Every linear layer, the head last: `step` says what becomes of it. */
typedef mq_status (*layer_step)(const mq_scheme *scheme, int64_t block, mq_linear_id linear,
                                void *context);

static mq_status every_layer(const mq_scheme *scheme, layer_step step, void *context)
{
    for (int64_t b = 0; b < scheme->arch->n_blocks; b++) {
        for (int l = 0; l < mq_arch_n_linears(scheme->arch); l++) {
            if (!mq_arch_has(scheme->arch, b, (mq_linear_id)l)) continue;
            MQ_TRY(step(scheme, b, (mq_linear_id)l, context));
        }
    }
    return step(scheme, 0, MQ_HEAD, context);
}

static mq_status add_ignored(const mq_scheme *scheme, int64_t block, mq_linear_id linear,
                             void *list)
{
    if (mq_scheme_layer(scheme, block, linear)->quantise) return MQ_OK;
    return add_name(scheme, block, linear, list);
}

/* A linear of a block that is never packed, "X" for the tensor "X.weight"; "": there is none. */
static mq_status add_unpacked(const mq_arch *arch, const char *pattern, int64_t block, cJSON *list)
{
    char name[NAME_BYTES];
    mq_arch_name(pattern, block, name, sizeof name);
    char *end = strstr(name, ".weight");
    if (!end) return MQ_OK;
    *end = '\0';
    return append_module(arch, name, list);
}

/* Kinds of packed layers: bits and group. */
enum { MAX_KINDS = 64 };

typedef struct kinds {
    mq_quant quant[MAX_KINDS];
    bool whole_row[MAX_KINDS];
    cJSON *targets[MAX_KINDS]; /* owned by the document */
    int n;
} kinds;

static mq_status find_kind(const mq_scheme *scheme, int64_t block, mq_linear_id linear, kinds *k,
                           int *at)
{
    const mq_layer_plan *plan = mq_scheme_layer(scheme, block, linear);
    mq_layer_shape shape = mq_scheme_shape(scheme, block, linear);
    bool whole = shape.group == shape.n_in;
    for (*at = 0; *at < k->n; (*at)++) {
        bool same_group = whole ? k->whole_row[*at]
                                : !k->whole_row[*at] && plan->quant.group == k->quant[*at].group;
        if (same_group && plan->quant.bits == k->quant[*at].bits) return MQ_OK;
    }
    if (k->n == MAX_KINDS) {
        return mq_fail(MQ_E_USAGE, "--override: more than %d combinations of bits and group size",
                       MAX_KINDS);
    }
    k->quant[k->n] = plan->quant;
    k->whole_row[k->n++] = whole;
    return MQ_OK;
}

static mq_status count_kind(const mq_scheme *scheme, int64_t block, mq_linear_id linear,
                            void *context)
{
    int at = 0;
    if (!mq_scheme_layer(scheme, block, linear)->quantise) return MQ_OK;
    return find_kind(scheme, block, linear, context, &at);
}

static mq_status add_target(const mq_scheme *scheme, int64_t block, mq_linear_id linear,
                            void *context)
{
    kinds *k = context;
    int at = 0;
    if (!mq_scheme_layer(scheme, block, linear)->quantise) return MQ_OK;
    MQ_TRY(find_kind(scheme, block, linear, k, &at));
    return add_name(scheme, block, linear, k->targets[at]);
}

static mq_status add_weights(cJSON *group, const mq_quant *quant, bool whole_row)
{
    cJSON *w = cJSON_AddObjectToObject(group, "weights");
    if (!w) return mq_fail(MQ_E_MEMORY, "no memory for the quantisation config");
    MQ_TRY(mq_json_add_int(w, "num_bits", quant->bits));
    MQ_TRY(mq_json_add_string(w, "type", "int"));
    MQ_TRY(mq_json_add_bool(w, "symmetric", !quant->zero_points));
    MQ_TRY(mq_json_add_string(w, "strategy", whole_row ? "channel" : "group"));
    if (whole_row) {
        MQ_TRY(mq_json_add(w, "group_size", cJSON_CreateNull()));
    } else {
        MQ_TRY(mq_json_add_int(w, "group_size", quant->group));
    }
    MQ_TRY(mq_json_add(w, "block_structure", cJSON_CreateNull()));
    MQ_TRY(mq_json_add_bool(w, "dynamic", false));
    MQ_TRY(mq_json_add(w, "actorder", cJSON_CreateNull()));
    MQ_TRY(mq_json_add_string(w, "observer", "minmax"));
    return mq_json_add(w, "observer_kwargs", cJSON_CreateObject());
}

static mq_status add_group(cJSON *groups, kinds *k, int i)
{
    char name[32];
    snprintf(name, sizeof name, "group_%d", i);
    cJSON *group = cJSON_AddObjectToObject(groups, name);
    k->targets[i] = group ? cJSON_AddArrayToObject(group, "targets") : NULL;
    if (!k->targets[i]) return mq_fail(MQ_E_MEMORY, "no memory for the quantisation config");
    MQ_TRY(mq_json_add(group, "input_activations", cJSON_CreateNull()));
    MQ_TRY(mq_json_add(group, "output_activations", cJSON_CreateNull()));
    return add_weights(group, &k->quant[i], k->whole_row[i]);
}

static mq_status add_groups(cJSON *config, const mq_scheme *scheme)
{
    kinds k = {.n = 0};
    cJSON *groups = cJSON_AddObjectToObject(config, "config_groups");
    if (!groups) return mq_fail(MQ_E_MEMORY, "no memory for the quantisation config");
    MQ_TRY(every_layer(scheme, count_kind, &k));
    for (int i = 0; i < k.n; i++) MQ_TRY(add_group(groups, &k, i));
    if (k.n > 1) return every_layer(scheme, add_target, &k);
    cJSON *all = cJSON_CreateString("Linear");
    if (all && cJSON_AddItemToArray(k.targets[0], all)) return MQ_OK;
    cJSON_Delete(all);
    return mq_fail(MQ_E_MEMORY, "no memory for the quantisation config");
}

static mq_status fill(cJSON *config, const mq_scheme *scheme)
{
    MQ_TRY(mq_json_add_string(config, "quant_method", "compressed-tensors"));
    MQ_TRY(mq_json_add_string(config, "format", "pack-quantized"));
    MQ_TRY(mq_json_add_string(config, "quantization_status", "compressed"));
    MQ_TRY(mq_json_add(config, "global_compression_ratio", cJSON_CreateNull()));
    MQ_TRY(mq_json_add(config, "kv_cache_scheme", cJSON_CreateNull()));
    MQ_TRY(mq_json_add_string(config, "version", version));
    cJSON *ignore = cJSON_AddArrayToObject(config, "ignore");
    if (!ignore) return mq_fail(MQ_E_MEMORY, "no memory for the quantisation config");
    MQ_TRY(add_others(scheme->arch, ignore));
    MQ_TRY(every_layer(scheme, add_ignored, ignore));
    for (int64_t b = 0; b < scheme->arch->n_blocks; b++) {
        if (scheme->arch->block[b].linear) {
            MQ_TRY(add_unpacked(scheme->arch, scheme->arch->delta.b, b, ignore));
            MQ_TRY(add_unpacked(scheme->arch, scheme->arch->delta.a, b, ignore));
        }
        if (!scheme->arch->block[b].routed) continue;
        MQ_TRY(add_unpacked(scheme->arch, scheme->arch->moe.router, b, ignore));
        MQ_TRY(add_unpacked(scheme->arch, scheme->arch->moe.shared_weight, b, ignore));
    }
    return add_groups(config, scheme);
}

mq_status mq_compressed_config(const mq_scheme *scheme, cJSON **out)
{
    *out = cJSON_CreateObject();
    if (!*out) return mq_fail(MQ_E_MEMORY, "no memory for the quantisation config");
    mq_status status = fill(*out, scheme);
    if (status != MQ_OK) {
        cJSON_Delete(*out);
        *out = NULL;
    }
    return status;
}
