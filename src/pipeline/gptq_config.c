#include "pipeline/gptq_config.h"

#include "base/memory.h"
#include "pipeline/module_names.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 256 };

/* `whole_row`: the layer's input columns, a group of that many being written as -1. */
static mq_status add_rule(cJSON *dynamic, const char *pattern, const mq_layer_plan *plan,
                          int64_t whole_row)
{
    int64_t group = plan->quant.group == whole_row ? -1 : plan->quant.group;
    cJSON *rule = cJSON_CreateObject();
    mq_status status = rule ? MQ_OK : mq_fail(MQ_E_MEMORY, "no memory for a rule");
    if (status == MQ_OK && plan->quantise) {
        status = mq_json_add_int(rule, "bits", plan->quant.bits);
        if (status == MQ_OK) status = mq_json_add_int(rule, "group_size", group);
    }
    if (status != MQ_OK) {
        cJSON_Delete(rule);
        return status;
    }
    return mq_json_add(dynamic, pattern, rule);
}

static bool same_plan(const mq_layer_plan *a, const mq_layer_plan *b)
{
    if (a->quantise != b->quantise) return false;
    return !a->quantise || (a->quant.bits == b->quant.bits && a->quant.group == b->quant.group);
}

/* Layers with a parent module in common, which some readers fuse under a name of theirs. */
typedef struct siblings {
    mq_linear_id linear[MQ_N_LINEARS];
    int n;
    const char *fused; /* NULL: none */
} siblings;

static siblings siblings_of(const mq_arch *arch, int64_t block, int group)
{
    siblings s = {.n = 0};
    const mq_fused g = mq_fused_layers(arch, group);
    for (int l = (int)g.first; l <= (int)g.last; l++) {
        if (mq_arch_has(arch, block, (mq_linear_id)l)) s.linear[s.n++] = (mq_linear_id)l;
    }
    if (s.n > 1) s.fused = g.name;
    return s;
}

/* "PARENT\.(?:a|b|fused)$" */
static void group_pattern(const mq_scheme *scheme, int64_t block, const siblings *s, char *pattern)
{
    char module[NAME_BYTES];
    pattern[0] = '\0';
    for (int i = 0; i < s->n; i++) {
        mq_arch_linear_name(scheme->arch, s->linear[i], block, module, sizeof module);
        char *dot = strrchr(module, '.');
        const char *leaf = dot ? dot + 1 : module;
        if (i == 0) {
            size_t parent = (size_t)(leaf - module);
            char head[NAME_BYTES];
            memcpy(head, module, parent);
            head[parent] = '\0';
            mq_module_pattern(scheme->arch, head, pattern);
            mq_pattern_append(pattern, "(?:");
        } else {
            mq_pattern_append(pattern, "|");
        }
        mq_pattern_append(pattern, leaf);
    }
    if (s->fused) {
        mq_pattern_append(pattern, "|");
        mq_pattern_append(pattern, s->fused);
    }
    mq_pattern_append(pattern, ")$");
}

static mq_status add_group_rule(cJSON *dynamic, const mq_scheme *scheme, int64_t block,
                                const siblings *s)
{
    char pattern[MQ_PATTERN_BYTES], rule[MQ_PATTERN_BYTES + 2];
    const mq_layer_plan *plan = mq_scheme_layer(scheme, block, s->linear[0]);
    int64_t n_out = 0, n_in = 0;
    mq_arch_linear_shape(scheme->arch, block, s->linear[0], &n_out, &n_in);
    group_pattern(scheme, block, s, pattern);
    snprintf(rule, sizeof rule, "%s:%s", plan->quantise ? "+" : "-", pattern);
    return add_rule(dynamic, rule, plan, n_in);
}

static mq_status add_group(cJSON *dynamic, const mq_scheme *scheme, int64_t block, int group)
{
    bool uniform = true, all_default = true;
    const siblings s = siblings_of(scheme->arch, block, group);
    for (int i = 0; i < s.n; i++) {
        uniform = uniform && same_plan(mq_scheme_layer(scheme, block, s.linear[i]),
                                       mq_scheme_layer(scheme, block, s.linear[0]));
        all_default = all_default && mq_scheme_is_default(scheme, block, s.linear[i]);
    }
    if (all_default) return MQ_OK;
    if (uniform) return add_group_rule(dynamic, scheme, block, &s);
    for (int i = 0; i < s.n; i++) {
        const siblings one = {.linear = {s.linear[i]}, .n = 1};
        if (mq_scheme_is_default(scheme, block, s.linear[i])) continue;
        MQ_TRY(add_group_rule(dynamic, scheme, block, &one));
    }
    return MQ_OK;
}

/* "PARENT\.experts\." */
static void experts_pattern(const mq_scheme *scheme, int64_t block, char *pattern)
{
    char module[NAME_BYTES];
    const char *stem = scheme->arch->moe.expert[0], *mark = strstr(stem, "{e}");
    char head[MQ_ARCH_NAME];
    snprintf(head, sizeof head, "%.*s", (int)(mark - stem), stem);
    mq_arch_name(head, block, module, sizeof module);
    pattern[0] = '\0';
    mq_module_pattern(scheme->arch, module, pattern);
}

/* One rule where all experts of a block are alike, else one for each layer. */
static mq_status add_experts(cJSON *dynamic, const mq_scheme *scheme, int64_t block)
{
    const mq_fused g = mq_fused_layers(scheme->arch, MQ_FUSED_EXPERTS);
    const mq_layer_plan *first = mq_scheme_layer(scheme, block, g.first);
    bool uniform = true, all_default = true;
    for (int l = (int)g.first; l <= (int)g.last; l++) {
        uniform = uniform && same_plan(mq_scheme_layer(scheme, block, (mq_linear_id)l), first);
        all_default = all_default && mq_scheme_is_default(scheme, block, (mq_linear_id)l);
    }
    if (all_default) return MQ_OK;
    /* A whole row is -1 in the rule, and gate and down differ in how long theirs are. */
    if (uniform && !first->quantise) {
        char pattern[MQ_PATTERN_BYTES], rule[MQ_PATTERN_BYTES + 2];
        experts_pattern(scheme, block, pattern);
        snprintf(rule, sizeof rule, "-:%s", pattern);
        return add_rule(dynamic, rule, first, 0);
    }
    for (int l = (int)g.first; l <= (int)g.last; l++) {
        const siblings one = {.linear = {(mq_linear_id)l}, .n = 1};
        if (mq_scheme_is_default(scheme, block, (mq_linear_id)l)) continue;
        MQ_TRY(add_group_rule(dynamic, scheme, block, &one));
    }
    return MQ_OK;
}

static bool block_is_skipped(const mq_scheme *scheme, int64_t block)
{
    for (int l = 0; l < mq_arch_n_linears(scheme->arch); l++) {
        if (!mq_arch_has(scheme->arch, block, (mq_linear_id)l)) continue;
        if (mq_scheme_layer(scheme, block, (mq_linear_id)l)->quantise) return false;
    }
    return true;
}

/* "-:model\.layers\.7\." for a block that stays as it is. */
static mq_status add_block_rule(cJSON *dynamic, const mq_scheme *scheme, int64_t block)
{
    const char *pattern = scheme->arch->linear[MQ_O];
    const char *mark = strstr(pattern, "{i}");
    char head[NAME_BYTES], rule[MQ_PATTERN_BYTES] = "-:";
    int n = mark ? (int)(mark - pattern) : 0;
    snprintf(head, sizeof head, "%.*s%" PRId64 ".", n, pattern, block);
    mq_module_pattern(scheme->arch, head, rule);
    return add_rule(dynamic, rule, &(mq_layer_plan){.quantise = false}, 0);
}

static mq_status add_head_rule(cJSON *dynamic, const mq_scheme *scheme)
{
    char module[NAME_BYTES], rule[MQ_PATTERN_BYTES] = "+:^";
    if (mq_scheme_is_default(scheme, 0, MQ_HEAD)) return MQ_OK;
    mq_arch_linear_name(scheme->arch, MQ_HEAD, 0, module, sizeof module);
    mq_module_pattern(scheme->arch, module, rule);
    mq_pattern_append(rule, "$");
    return add_rule(dynamic, rule, &scheme->head, scheme->arch->hidden);
}

/* "-:^model\.layers\.\d+\.mlp\.gate$" for the name of a weight; "": there is none */
static mq_status add_unpacked_rule(cJSON *dynamic, const mq_arch *arch, const char *name)
{
    char rule[MQ_PATTERN_BYTES] = "-:^", head[MQ_ARCH_NAME];
    const char *mark = strstr(name, "{i}"), *end = strstr(name, ".weight");
    if (!mark || !end) return MQ_OK;
    snprintf(head, sizeof head, "%.*s", (int)(mark - name), name);
    mq_module_pattern(arch, head, rule);
    mq_pattern_append(rule, "\\d+");
    snprintf(head, sizeof head, "%.*s", (int)(end - mark - 3), mark + 3);
    mq_pattern_escape(rule, head);
    mq_pattern_append(rule, "$");
    return add_rule(dynamic, rule, &(mq_layer_plan){.quantise = false}, 0);
}

/* What makes the rates of linear attention; vLLM has it as one module in any case. */
static mq_status add_rates_rules(cJSON *dynamic, const mq_arch *arch)
{
    static const char fused[] = "in_proj_ba.weight";
    const mq_linear_attention *l = &arch->delta;
    char name[MQ_ARCH_NAME + sizeof fused];
    const char *dot = strstr(l->b, ".weight");
    MQ_TRY(add_unpacked_rule(dynamic, arch, l->b));
    MQ_TRY(add_unpacked_rule(dynamic, arch, l->a));
    if (!l->a[0] || !dot) return MQ_OK;
    while (dot > l->b && dot[-1] != '.') dot--;
    snprintf(name, sizeof name, "%.*s%s", (int)(dot - l->b), l->b, fused);
    return add_unpacked_rule(dynamic, arch, name);
}

/* Linears of a block that are never packed. */
static mq_status add_unpacked_rules(cJSON *dynamic, const mq_arch *arch)
{
    MQ_TRY(add_rates_rules(dynamic, arch));
    MQ_TRY(add_unpacked_rule(dynamic, arch, arch->moe.router));
    return add_unpacked_rule(dynamic, arch, arch->moe.shared_weight);
}

/* Other parts of the model, none of which is packed. */
static mq_status add_other_rules(cJSON *dynamic, const mq_arch *arch)
{
    for (int64_t i = 0; i < mq_n_other_patterns(arch); i++) {
        char rule[MQ_PATTERN_BYTES] = "-:";
        mq_other_pattern(arch, i, rule);
        MQ_TRY(add_rule(dynamic, rule, &(mq_layer_plan){.quantise = false}, 0));
    }
    return MQ_OK;
}

static mq_status fill_dynamic(cJSON *dynamic, const mq_scheme *scheme)
{
    MQ_TRY(add_other_rules(dynamic, scheme->arch));
    for (int64_t b = 0; b < scheme->arch->n_blocks; b++) {
        if (block_is_skipped(scheme, b)) {
            MQ_TRY(add_block_rule(dynamic, scheme, b));
            continue;
        }
        for (int g = 0; g < MQ_FUSED_EXPERTS; g++) MQ_TRY(add_group(dynamic, scheme, b, g));
        if (scheme->arch->block[b].routed) MQ_TRY(add_experts(dynamic, scheme, b));
    }
    MQ_TRY(add_unpacked_rules(dynamic, scheme->arch));
    return scheme->head.quantise ? add_head_rule(dynamic, scheme) : MQ_OK;
}

/* What a linear is called inside a block: one name, or two where blocks differ in their attention
 * or MLP. */
typedef struct inner_names {
    char name[2][NAME_BYTES];
    bool packed[2]; /* in some block */
    int n;
} inner_names;

static inner_names names_of(const mq_scheme *scheme, mq_linear_id linear)
{
    inner_names names = {.n = 0};
    for (int64_t b = 0; b < scheme->arch->n_blocks; b++) {
        char module[NAME_BYTES], head[64];
        if (!mq_arch_has(scheme->arch, b, linear)) continue;
        mq_arch_linear_name(scheme->arch, linear, b, module, sizeof module);
        snprintf(head, sizeof head, ".%" PRId64 ".", b);
        const char *inside = strstr(module, head), *name = inside ? inside + strlen(head) : module;
        int i = names.n > 0 && strcmp(name, names.name[0]) != 0;
        if (i >= names.n) snprintf(names.name[names.n++], NAME_BYTES, "%s", name);
        names.packed[i] = names.packed[i] || mq_scheme_layer(scheme, b, linear)->quantise;
    }
    return names;
}

/* transformers does not read `dynamic`; it needs the list when a kind of layer is never packed. */
static mq_status add_modules_in_block(cJSON *config, const mq_scheme *scheme)
{
    const mq_arch *arch = scheme->arch;
    /* Routers and what makes the rates of linear attention never are. */
    bool all = arch->moe.routing.n_experts == 0 && arch->delta.n_v_heads == 0;
    cJSON *list = cJSON_CreateArray();
    for (int l = 0; l < mq_arch_n_linears(arch); l++) {
        const inner_names names = names_of(scheme, (mq_linear_id)l);
        for (int i = 0; i < names.n; i++) {
            const char *name = names.name[i];
            all = all && names.packed[i];
            if (names.packed[i]) cJSON_AddItemToArray(list, cJSON_CreateStringArray(&name, 1));
        }
    }
    if (!all) return mq_json_add(config, "modules_in_block_to_quantize", list);
    cJSON_Delete(list);
    return MQ_OK;
}

static mq_status fill_meta(cJSON *meta, const mq_quantize_options *options)
{
    char program[64];
    snprintf(program, sizeof program, "mpiquant:%s", mq_version());
    const char *name = program;
    MQ_TRY(mq_json_add(meta, "quantizer", cJSON_CreateStringArray(&name, 1)));
    if (options->damping > 0) { /* else every layer may have its own */
        MQ_TRY(mq_json_add_double(meta, "damp_percent", options->damping));
    }
    MQ_TRY(mq_json_add_bool(meta, "true_sequential", true));
    return mq_json_add_bool(meta, "static_groups", true);
}

/* v1 stores a zero point less one and so cannot hold a 0; GPTQModel refuses asymmetric v1. */
static mq_status fill_config(cJSON *config, const mq_scheme *scheme,
                             const mq_quantize_options *options)
{
    const char *format = scheme->format->name;
    MQ_TRY(mq_json_add_int(config, "bits", scheme->bits));
    MQ_TRY(mq_json_add_int(config, "group_size", options->group));
    MQ_TRY(mq_json_add_bool(config, "desc_act", false));
    MQ_TRY(mq_json_add_bool(config, "sym", !options->zero_points));
    MQ_TRY(mq_json_add_bool(config, "lm_head", scheme->head.quantise));
    MQ_TRY(mq_json_add_string(config, "quant_method", "gptq"));
    MQ_TRY(mq_json_add_string(config, "method", "gptq"));
    MQ_TRY(mq_json_add_string(config, "format", format));
    MQ_TRY(mq_json_add_string(config, "checkpoint_format", format));
    MQ_TRY(mq_json_add_string(config, "pack_dtype", "int32"));
    cJSON *dynamic = cJSON_AddObjectToObject(config, "dynamic");
    cJSON *meta = cJSON_AddObjectToObject(config, "meta");
    if (!dynamic || !meta) return mq_fail(MQ_E_MEMORY, "no memory for the quantisation config");
    MQ_TRY(fill_dynamic(dynamic, scheme));
    MQ_TRY(fill_meta(meta, options));
    return add_modules_in_block(config, scheme);
}

mq_status mq_gptq_config(const mq_scheme *scheme, const mq_quantize_options *options, cJSON **out)
{
    *out = cJSON_CreateObject();
    if (!*out) return mq_fail(MQ_E_MEMORY, "no memory for the quantisation config");
    mq_status status = fill_config(*out, scheme, options);
    if (status != MQ_OK) {
        cJSON_Delete(*out);
        *out = NULL;
    }
    return status;
}

mq_status mq_config_with_quantization(const char *source_text, const char *where,
                                      const cJSON *quantization, char **out)
{
    cJSON *parsed = NULL;
    MQ_TRY(mq_json_parse(source_text, where, &parsed));
    bool object = cJSON_IsObject(parsed), empty = object && !parsed->child;
    bool already = mq_json_find(parsed, "quantization_config") != NULL;
    cJSON_Delete(parsed);
    if (!object || already) {
        return mq_fail(MQ_E_INPUT, "%s: %s", where,
                       already ? "has a quantization_config already" : "is not a JSON object");
    }
    /* Kept byte for byte: cJSON would write 1e6 as 1000000, and some readers mind the type. */
    size_t end = strlen(source_text);
    while (end > 0 && source_text[end - 1] != '}') end--;
    end--;
    while (end > 0 && isspace((unsigned char)source_text[end - 1])) end--;
    char *text = mq_json_print(quantization);
    if (!text) return mq_fail(MQ_E_MEMORY, "no memory for %s", where);
    size_t bytes = end + strlen(text) + 64;
    mq_status status = mq_alloc((int64_t)bytes, 1, "config.json", out);
    if (status == MQ_OK) {
        text[strlen(text) - 1] = '\0';
        snprintf(*out, bytes, "%.*s%s\n  \"quantization_config\": %s\n}\n", (int)end, source_text,
                 empty ? "" : ",", text);
    }
    cJSON_free(text);
    return status;
}
