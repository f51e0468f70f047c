#include "pipeline/settings.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "plan/mix.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const order_names[] = {[MQ_ORDER_DIAGONAL] = "diagonal",
                                          [MQ_ORDER_GROUPS] = "groups",
                                          [MQ_ORDER_ORIGINAL] = "original"};
enum { N_ORDERS = sizeof order_names / sizeof *order_names };

void mq_quantize_defaults(mq_quantize_options *options)
{
    *options = (mq_quantize_options){
        .format = "gptq",
        .bits = 4,
        .group = 128,
        .damping = -1,
        .shrinkage = -1,
        .preset = "default",
        .on_failure = "stop",
        .moe_calibration = "routed",
        .expert_coverage = 0.5,
        .column_order = "diagonal",
        .scale_columns = -1,
        .alpha = -1,
        .refine = -1,
        .couple = -1,
        .unit_tokens = 8192,
        .last_block = -1,
        .max_shard_bytes = UINT64_C(5000000000),
        .distribute_above = 8192,
        .threads = 1,
    };
}

mq_status mq_settings_check(const mq_quantize_options *o)
{
    if (!o->model) return mq_fail(MQ_E_USAGE, "no model folder given");
    if (!o->calib) return mq_fail(MQ_E_USAGE, "--calib is missing: a file made by mpiquant-calib");
    if (!o->output) return mq_fail(MQ_E_USAGE, "--output is missing: the folder to make");
    if (!o->format) return mq_fail(MQ_E_USAGE, "no output format given");
    if (!(o->damping <= 1)) {
        return mq_fail(MQ_E_USAGE, "--damp %g: a share of the mean diagonal, at most 1",
                       o->damping);
    }
    if (!(o->shrinkage < 1)) {
        return mq_fail(MQ_E_USAGE, "--shrinkage %g: at least 0, below 1", o->shrinkage);
    }
    if (!o->on_failure ||
        (strcmp(o->on_failure, "stop") != 0 && strcmp(o->on_failure, "rtn") != 0)) {
        return mq_fail(MQ_E_USAGE, "--on-failure %s: stop or rtn",
                       o->on_failure ? o->on_failure : "");
    }
    if (!o->moe_calibration ||
        (strcmp(o->moe_calibration, "routed") != 0 && strcmp(o->moe_calibration, "all") != 0)) {
        return mq_fail(MQ_E_USAGE, "--moe-calibration %s: routed or all",
                       o->moe_calibration ? o->moe_calibration : "");
    }
    if (!(o->expert_coverage >= 0 && o->expert_coverage <= 1e6)) {
        return mq_fail(MQ_E_USAGE, "--expert-coverage %g: tokens for each input column, 0 or more",
                       o->expert_coverage);
    }
    if (!(o->average_bits >= 0 && o->average_bits <= 8)) {
        return mq_fail(MQ_E_USAGE, "--bits %g: 2 to 8", o->average_bits);
    }
    if (o->n_widths < 0 || o->n_widths > MQ_MAX_WIDTHS) {
        return mq_fail(MQ_E_USAGE, "--widths: at most %d of them", MQ_MAX_WIDTHS);
    }
    if (o->n_widths > 0 && o->average_bits == 0) {
        return mq_fail(MQ_E_USAGE, "--widths needs an average to reach, such as --bits 3.25");
    }
    if (o->samples < 0) return mq_fail(MQ_E_USAGE, "--samples %" PRId64 ": 0 or more", o->samples);
    if (o->unit_tokens < 1) {
        return mq_fail(MQ_E_USAGE, "--unit-tokens %" PRId64 ": at least 1", o->unit_tokens);
    }
    if (o->max_shard_bytes < 1) return mq_fail(MQ_E_USAGE, "--max-shard-size: at least 1 byte");
    if (o->distribute_above < 0) {
        return mq_fail(MQ_E_USAGE, "--distribute-above %" PRId64 ": 0 or more",
                       o->distribute_above);
    }
    return MQ_OK;
}

static mq_status column_order(const char *name, mq_column_order *order)
{
    for (int i = 0; i < N_ORDERS; i++) {
        *order = (mq_column_order)i;
        if (strcmp(name, order_names[i]) == 0) return MQ_OK;
    }
    return mq_fail(MQ_E_USAGE, "--column-order %s: diagonal, groups or original", name);
}

static mq_status scale_search(const char *name, bool *judge)
{
    *judge = strcmp(name, "accurate") == 0;
    if (*judge || strcmp(name, "fast") == 0) return MQ_OK;
    return mq_fail(MQ_E_USAGE, "--scale-search %s: fast or accurate", name);
}

static const mq_damping usual_damping = {.share = 0.05, .shrinkage = 0.1};

/* Where it is not measured. */
#define USUAL_ALPHA 0.75

static mq_status preset(const char *name, mq_solver_settings *out)
{
    static const struct {
        const char *name;
        mq_solver_settings settings;
    } presets[] = {
        {"fast", {.couple = true}},
        {"default", {.refine = 2, .couple = true, .judge = true, .measure_damping = true}},
        {"best",
         {.alpha = USUAL_ALPHA,
          .refine = 8,
          .couple = true,
          .judge = true,
          .measure_damping = true}}};
    for (size_t p = 0; name && p < sizeof presets / sizeof *presets; p++) {
        *out = presets[p].settings;
        if (strcmp(name, presets[p].name) == 0) return MQ_OK;
    }
    return mq_fail(MQ_E_USAGE, "--preset %s: fast, default or best", name ? name : "");
}

static void set_damping(const mq_quantize_options *o, mq_solver_settings *out)
{
    if (o->damping >= 0) out->measure_damping = o->damping == 0;
    out->damping.share = o->damping > 0 ? o->damping : usual_damping.share;
    out->damping.shrinkage = o->shrinkage >= 0 ? o->shrinkage : usual_damping.shrinkage;
    out->measure_shrinkage = out->measure_damping && o->shrinkage < 0;
    out->scale_columns = out->measure_damping && o->scale_columns != 0;
}

/* It is measured together with the damping. */
static mq_status set_alpha(const mq_quantize_options *o, mq_solver_settings *out)
{
    if (!(o->alpha <= 1)) return mq_fail(MQ_E_USAGE, "--alpha %g: at most 1", o->alpha);
    if (o->measure_alpha && !out->measure_damping) {
        return mq_fail(MQ_E_USAGE, "--alpha auto: needs --damp auto, which holds samples out");
    }
    if (o->measure_alpha) out->alpha = USUAL_ALPHA;
    if (o->alpha >= 0 && !o->measure_alpha) out->alpha = o->alpha;
    bool by_preset = o->alpha < 0 && out->alpha > 0 && out->measure_damping;
    out->measure_alpha = o->measure_alpha || by_preset;
    return MQ_OK;
}

mq_status mq_settings_solver(const mq_quantize_options *o, mq_solver_settings *out)
{
    MQ_TRY(preset(o->preset, out));
    set_damping(o, out);
    MQ_TRY(set_alpha(o, out));
    if (o->refine >= 0) out->refine = o->refine;
    if (o->couple >= 0) out->couple = o->couple > 0;
    if (o->column_order) MQ_TRY(column_order(o->column_order, &out->order));
    if (o->scale_search) MQ_TRY(scale_search(o->scale_search, &out->judge));
    out->all_experts = strcmp(o->moe_calibration, "all") == 0;
    out->expert_coverage = o->expert_coverage;
    out->go_on = o->on_failure && strcmp(o->on_failure, "rtn") == 0;
    return MQ_OK;
}

static mq_status hash_text_file(const char *folder, const char *name, char text[22])
{
    char *path = NULL;
    uint64_t hash = 0;
    MQ_TRY(mq_path_join(folder, name, &path));
    mq_status status = mq_hash_file(path, &hash);
    mq_free(&path);
    mq_hash_text(hash, text);
    return status;
}

/* XXH3 over names, types and places of all tensors, and over three samples of each one's bytes: a
 * model of the same shapes and other weights differs somewhere in every tensor. */
static mq_status hash_tensor(mq_folder *source, const mq_tensor *t, uint64_t *hash)
{
    enum { SAMPLE = 4096 };
    struct {
        uint64_t before, name, begin, end, shard, dtype;
        char sample[3][SAMPLE];
    } in = {*hash,
            mq_hash(t->name, strlen(t->name)),
            t->begin,
            t->end,
            (uint64_t)t->shard,
            (uint64_t)t->dtype,
            {{0}}};
    uint64_t bytes = t->end - t->begin;
    size_t n = bytes < SAMPLE ? (size_t)bytes : SAMPLE;
    const uint64_t at[3] = {0, (bytes - n) / 2, bytes - n};
    for (int i = 0; i < 3 && n > 0; i++) MQ_TRY(mq_folder_read(source, t, at[i], n, in.sample[i]));
    *hash = mq_hash(&in, sizeof in);
    return MQ_OK;
}

static mq_status hash_tensors(mq_folder *source, char text[22])
{
    uint64_t hash = 0;
    for (int64_t i = 0; i < source->n_tensors; i++) {
        MQ_TRY(hash_tensor(source, &source->tensor[i], &hash));
    }
    mq_hash_text(hash, text);
    return MQ_OK;
}

static mq_status add_patterns(cJSON *o, const mq_quantize_options *options)
{
    cJSON *skip = cJSON_AddArrayToObject(o, "skip");
    cJSON *list = cJSON_AddArrayToObject(o, "override");
    if (!skip || !list) return mq_fail(MQ_E_MEMORY, "no memory for the settings");
    for (int i = 0; i < options->n_skip; i++) {
        cJSON_AddItemToArray(skip, cJSON_CreateString(options->skip[i]));
    }
    for (int i = 0; i < options->n_override; i++) {
        const mq_override *v = &options->override_[i];
        size_t bytes = strlen(v->pattern) + 64;
        char *text = NULL;
        MQ_TRY(mq_alloc((int64_t)bytes, 1, "pattern", &text));
        snprintf(text, bytes, "%s=bits:%d,group:%" PRId64, v->pattern, v->bits, v->group);
        cJSON_AddItemToArray(list, cJSON_CreateString(text));
        mq_free(&text);
    }
    return MQ_OK;
}

/* The whole number of every layer, or the average and the widths it is made of. */
static mq_status add_bits(cJSON *o, const mq_quantize_options *options)
{
    int64_t width[MQ_MAX_WIDTHS] = {0};
    const int *from = options->n_widths > 0 ? options->widths : mq_all_widths;
    int n = options->n_widths > 0 ? options->n_widths : MQ_MAX_WIDTHS;
    if (options->average_bits == 0) return mq_json_add_int(o, "bits", options->bits);
    for (int i = 0; i < n; i++) width[i] = from[i];
    MQ_TRY(mq_json_add_double(o, "bits", options->average_bits));
    return mq_json_add_ints(o, "widths", width, n);
}

static mq_status fill(cJSON *o, const mq_quantize_options *options,
                      const mq_solver_settings *solver, mq_folder *source)
{
    char text[22];
    uint64_t hash = 0;
    MQ_TRY(mq_json_add_string(o, "format", options->format));
    MQ_TRY(add_bits(o, options));
    MQ_TRY(mq_json_add_int(o, "group_size", options->group));
    MQ_TRY(mq_json_add_bool(o, "lm_head", options->lm_head));
    MQ_TRY(mq_json_add_bool(o, "protect", options->protect));
    MQ_TRY(mq_json_add_bool(o, "zero_points", options->zero_points));
    MQ_TRY(mq_json_add_bool(o, "positive_scales", options->positive_scales));
    if (solver->measure_damping) {
        MQ_TRY(mq_json_add_string(o, "damp", "auto"));
    } else {
        MQ_TRY(mq_json_add_double(o, "damp", solver->damping.share));
    }
    if (solver->measure_shrinkage) {
        MQ_TRY(mq_json_add_string(o, "shrinkage", "auto"));
    } else {
        MQ_TRY(mq_json_add_double(o, "shrinkage", solver->damping.shrinkage));
    }
    if (solver->scale_columns) {
        MQ_TRY(mq_json_add_string(o, "scale_columns", "auto"));
    } else {
        MQ_TRY(mq_json_add_int(o, "scale_columns", 0));
    }
    MQ_TRY(mq_json_add_string(o, "on_failure", options->on_failure));
    MQ_TRY(mq_json_add_string(o, "moe_calibration", options->moe_calibration));
    MQ_TRY(mq_json_add_double(o, "expert_coverage", options->expert_coverage));
    if (solver->measure_alpha) {
        MQ_TRY(mq_json_add_string(o, "alpha", "auto"));
    } else {
        MQ_TRY(mq_json_add_double(o, "alpha", solver->alpha));
    }
    MQ_TRY(mq_json_add_int(o, "refine", solver->refine));
    MQ_TRY(mq_json_add_bool(o, "couple_rows", solver->couple));
    MQ_TRY(mq_json_add_string(o, "column_order", order_names[solver->order]));
    MQ_TRY(mq_json_add_string(o, "scale_search", solver->judge ? "accurate" : "fast"));
    MQ_TRY(mq_json_add_int(o, "samples", options->samples));
    MQ_TRY(mq_json_add_int(o, "unit_tokens", options->unit_tokens));
    MQ_TRY(mq_json_add_int(o, "first_block", options->first_block));
    MQ_TRY(mq_json_add_int(o, "last_block", options->last_block));
    MQ_TRY(mq_json_add_int(o, "max_shard_size", (int64_t)options->max_shard_bytes));
    MQ_TRY(mq_json_add_int(o, "distribute_above", options->distribute_above));
    MQ_TRY(add_patterns(o, options));
    MQ_TRY(hash_text_file(source->path, "config.json", text));
    MQ_TRY(mq_json_add_string(o, "model_config", text));
    MQ_TRY(hash_tensors(source, text));
    MQ_TRY(mq_json_add_string(o, "model_tensors", text));
    MQ_TRY(mq_hash_file(options->calib, &hash));
    mq_hash_text(hash, text);
    MQ_TRY(mq_json_add_string(o, "calibration_file", text));
    return mq_json_add_string(o, "version", mq_version());
}

mq_status mq_settings_json(const mq_quantize_options *options, const mq_solver_settings *solver,
                           mq_folder *source, cJSON **out)
{
    *out = cJSON_CreateObject();
    if (!*out) return mq_fail(MQ_E_MEMORY, "no memory for the settings");
    mq_status status = fill(*out, options, solver, source);
    if (status != MQ_OK) {
        cJSON_Delete(*out);
        *out = NULL;
    }
    return status;
}
