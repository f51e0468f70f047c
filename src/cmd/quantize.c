#include "cmd/cmd.h"

#include "base/memory.h"
#include "format/format.h"
#include "mpiquant/mpiquant.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WIDTHS = 4 };

static const int64_t not_given = INT64_MIN;

/* The texts of the options that have a form of their own. */
typedef struct forms {
    const char *layers;
    const char *shard_size;
    mq_texts skip, override_;
    const char *widths;
    double bits;
    int64_t threads;
    int64_t group, refine, couple;    /* not_given */
    double damping, shrinkage, alpha; /* NaN: not given */
    double scale_columns;             /* likewise */
    bool auto_damping, auto_shrinkage, auto_scaling, auto_alpha;
    int width[MAX_WIDTHS];
} forms;

static mq_status parse_layers(const char *text, mq_quantize_options *o)
{
    int used = 0;
    if (!text) return MQ_OK;
    int got = sscanf(text, "%" SCNd64 ":%" SCNd64 "%n", &o->first_block, &o->last_block, &used);
    if (got == 2 && text[used] == '\0' && o->first_block >= 0 && o->last_block > o->first_block) {
        return MQ_OK;
    }
    return mq_fail(MQ_E_USAGE, "--layers %s: A:B, e.g. 0:2 for the first two blocks", text);
}

/* "5GB", "500MB", "1000000": decimal units, as in the Hugging Face tools. */
static mq_status parse_size(const char *text, uint64_t *out)
{
    static const struct {
        const char *unit;
        uint64_t bytes;
    } units[] = {{"", 1}, {"B", 1}, {"KB", 1000}, {"MB", 1000000}, {"GB", 1000000000}};
    char *end = NULL;
    if (!text) return MQ_OK;
    unsigned long long value = strtoull(text, &end, 10);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        bool fits = value > 0 && value <= UINT64_MAX / 2 / units[i].bytes;
        if (end != text && text[0] != '-' && fits && strcmp(end, units[i].unit) == 0) {
            *out = value * units[i].bytes;
            return MQ_OK;
        }
    }
    return mq_fail(MQ_E_USAGE, "--max-shard-size %s: a number of bytes, or e.g. 500MB or 5GB",
                   text);
}

/* "REGEX=bits:8,group:32": the last '=' splits, since a pattern may hold one. Cuts the copy. */
static mq_status parse_override(char *text, mq_override *out)
{
    char *equal = strrchr(text, '=');
    bool good = equal && equal > text && equal[1];
    *out = (mq_override){.pattern = text};
    for (char *at = equal ? equal + 1 : text; good && *at;) {
        int64_t value = 0;
        int used = 0;
        if (sscanf(at, "bits:%" SCNd64 "%n", &value, &used) == 1 && used && value > 0 &&
            value < 64) {
            out->bits = (int)value;
        } else if (sscanf(at, "group:%" SCNd64 "%n", &value, &used) == 1 && used && value) {
            out->group = value;
        } else {
            good = false;
        }
        at += used;
        if (*at == ',' && at[1]) {
            at++;
        } else if (*at) {
            good = false;
        }
    }
    if (!good) {
        return mq_fail(MQ_E_USAGE, "--override %s: the form is 'REGEX=bits:8,group:32'", text);
    }
    *equal = '\0';
    return MQ_OK;
}

/* Copies the overrides' texts, since parsing cuts them. */
static mq_status parse_overrides(const mq_texts *texts, mq_override *list, char **copies)
{
    for (int64_t i = 0; i < texts->n; i++) {
        size_t bytes = strlen(texts->item[i]) + 1;
        MQ_TRY(mq_alloc((int64_t)bytes, 1, "override", &copies[i]));
        memcpy(copies[i], texts->item[i], bytes);
        MQ_TRY(parse_override(copies[i], &list[i]));
    }
    return MQ_OK;
}

/* A whole number is the width of every layer, any other the average of several. */
static mq_status parse_bits(double bits, mq_quantize_options *o)
{
    if (bits != floor(bits) && bits > 2 && bits < 8) {
        o->average_bits = bits;
        return MQ_OK;
    }
    if (bits == 2 || bits == 3 || bits == 4 || bits == 8) {
        o->bits = (int)bits;
        return MQ_OK;
    }
    return mq_fail(MQ_E_USAGE,
                   "--bits %g: 2, 3, 4 or 8 for every layer, or an average between 2 and 8 that is "
                   "not whole, such as 3.25",
                   bits);
}

static mq_status parse_damping(const forms *f, mq_quantize_options *o)
{
    if (f->auto_damping) {
        o->damping = 0;
    } else if (!isnan(f->damping)) {
        if (f->damping <= 0) {
            return mq_fail(MQ_E_USAGE, "--damp %g: auto, or a share of the mean diagonal above 0",
                           f->damping);
        }
        o->damping = f->damping;
    }
    return MQ_OK;
}

static mq_status parse_shrinkage(const forms *f, mq_quantize_options *o)
{
    if (f->auto_shrinkage || isnan(f->shrinkage)) return MQ_OK;
    if (f->shrinkage < 0) {
        return mq_fail(MQ_E_USAGE, "--shrinkage %g: auto, or at least 0, below 1", f->shrinkage);
    }
    o->shrinkage = f->shrinkage;
    return MQ_OK;
}

static mq_status parse_scaling(const forms *f, mq_quantize_options *o)
{
    if (f->auto_scaling || isnan(f->scale_columns)) return MQ_OK;
    if (f->scale_columns != 0) {
        return mq_fail(MQ_E_USAGE, "--scale-columns %g: auto or 0", f->scale_columns);
    }
    o->scale_columns = 0;
    return MQ_OK;
}

/* The format decides unless it is given; a format that is not there is refused later. */
static void choose_group(const forms *f, mq_quantize_options *o)
{
    const mq_format *format = mq_format_find(o->format, false);
    if (f->group != not_given) {
        o->group = f->group;
    } else if (format && format->group) {
        o->group = format->group;
    }
}

/* What the preset decides unless it is given. */
static mq_status parse_effort(const forms *f, mq_quantize_options *o)
{
    if (f->alpha < 0) return mq_fail(MQ_E_USAGE, "--alpha %g: auto, or 0 to 1", f->alpha);
    if (!isnan(f->alpha)) o->alpha = f->alpha;
    o->measure_alpha = f->auto_alpha;
    if (f->refine != not_given) {
        if (f->refine < 0) return mq_fail(MQ_E_USAGE, "--refine %" PRId64 ": 0 or more", f->refine);
        MQ_TRY(mq_cmd_int(f->refine, "--refine", &o->refine));
    }
    if (f->couple != not_given) {
        if (f->couple != 0 && f->couple != 1) {
            return mq_fail(MQ_E_USAGE, "--couple-rows %" PRId64 ": 0 or 1", f->couple);
        }
        o->couple = f->couple == 1;
    }
    return MQ_OK;
}

/* "2,3,4" */
static mq_status parse_widths(const char *text, int width[MAX_WIDTHS], mq_quantize_options *o)
{
    int used = 0;
    for (const char *at = text; at; at += used) {
        if (o->n_widths == MAX_WIDTHS || sscanf(at, "%1d%n", &width[o->n_widths], &used) != 1) {
            return mq_fail(MQ_E_USAGE, "--widths %s: the form is 2,3,4,8", text);
        }
        o->n_widths++;
        if (at[used] == '\0') break;
        if (at[used] != ',') return mq_fail(MQ_E_USAGE, "--widths %s: the form is 2,3,4,8", text);
        used++;
    }
    o->widths = width;
    return MQ_OK;
}

static mq_status run(const mq_comm *comm, mq_quantize_options *o, forms *f)
{
    mq_override *list = NULL;
    char **copies = NULL;
    mq_status status = mq_alloc(f->override_.n, sizeof *list, "overrides", &list);
    if (status == MQ_OK) status = mq_alloc(f->override_.n, sizeof *copies, "overrides", &copies);
    if (status == MQ_OK) status = parse_layers(f->layers, o);
    if (status == MQ_OK) status = parse_size(f->shard_size, &o->max_shard_bytes);
    if (status == MQ_OK) status = parse_overrides(&f->override_, list, copies);
    if (status == MQ_OK) status = parse_bits(f->bits, o);
    if (status == MQ_OK) status = parse_damping(f, o);
    if (status == MQ_OK) status = parse_shrinkage(f, o);
    if (status == MQ_OK) status = parse_scaling(f, o);
    if (status == MQ_OK) status = parse_widths(f->widths, f->width, o);
    if (status == MQ_OK) status = mq_cmd_int(f->threads, "--threads", &o->threads);
    if (status == MQ_OK) status = parse_effort(f, o);
    choose_group(f, o);
    o->skip = f->skip.item;
    o->n_skip = (int)f->skip.n;
    o->override_ = list;
    o->n_override = (int)f->override_.n;
    status = mq_agree(comm, status);
    if (status == MQ_OK) status = mq_quantize(comm->world, o);
    for (int64_t i = 0; copies && i < f->override_.n; i++) mq_free(&copies[i]);
    mq_free(&copies);
    mq_free(&list);
    return status;
}

mq_status mq_cmd_quantize(const mq_comm *comm, int argc, char **argv)
{
    mq_quantize_options o;
    mq_quantize_defaults(&o);
    forms f = {.bits = o.bits,
               .damping = NAN,
               .alpha = NAN,
               .shrinkage = NAN,
               .scale_columns = NAN,
               .threads = o.threads,
               .group = not_given,
               .refine = not_given,
               .couple = not_given};
    const mq_positional positionals[] = {
        {"MODEL", "Hugging Face folder of the model to quantise", .text = &o.model},
    };
    const mq_option options[] = {
        {"--calib", "FILE", "calibration file, made by mpiquant-calib", .text = &o.calib,
         .required = true},
        {"--output", "DIR", "folder to make; an unfinished one of ours is started afresh",
         .text = &o.output, .required = true},
        {"--bits", "N",
         "bits per weight: 2, 3, 4 or 8; or an average that is not whole, such as 3.25: each layer "
         "then gets the width that serves the model best, measured in a first walk",
         "4", .number = &f.bits},
        {"--widths", "LIST", "the widths that an average is made of", "2,3,4,8", .text = &f.widths},
        {"--group-size", "N", "input columns that share a scale; must divide the row; -1: the row",
         "128; gguf: 32", .integer = &f.group},
        {"--zero-points",
         .help = "choose a zero point for every scale (asymmetric codes); writes GPTQ v2",
         .flag = &o.zero_points},
        {"--positive-scales", .help = "no negative scales", .flag = &o.positive_scales},
        {"--format", "NAME",
         "checkpoint format: gptq (v1, with zero points v2), gptq_v2, compressed-tensors, exl2, "
         "gguf (for llama.cpp), or dense (dequantised weights)",
         "gptq", .text = &o.format},
        {"--damp", "X",
         "damping, as a share of the Hessian's mean diagonal; or auto: for each layer the one that "
         "serves held-out samples best",
         "auto; fast: 0.05", .number = &f.damping, .word = "auto", .word_given = &f.auto_damping},
        {"--shrinkage", "X",
         "share by which correlations of input columns are made smaller; auto: 0.1, but none where "
         "--damp auto finds that layers do better without",
         "auto", .number = &f.shrinkage, .word = "auto", .word_given = &f.auto_shrinkage},
        {"--scale-columns", "X",
         "auto: where --damp auto finds that layers after a norm do better so, scale their columns "
         "by powers of two, which the norm takes; 0: never",
         "auto", .number = &f.scale_columns, .word = "auto", .word_given = &f.auto_scaling},
        {"--on-failure", "ACTION",
         "on NaN, inf or a Hessian that no damping mends: stop; or rtn: go on without such "
         "samples, and round to nearest the layers for which nothing is left",
         "stop", .text = &o.on_failure},
        {"--moe-calibration", "TOKENS",
         "what an expert is calibrated on: routed, the tokens that the model routes to it; or all",
         "routed", .text = &o.moe_calibration},
        {"--expert-coverage", "X",
         "with routed: an expert with fewer tokens for each of its input columns than this is "
         "calibrated on all tokens instead",
         "0.5", .number = &o.expert_coverage},
        {"--preset", "NAME", "effort: fast, default, or best, which takes about twice the time",
         "default", .text = &o.preset},
        {"--alpha", "X",
         "asymmetric calibration: share of the earlier layers' errors that a layer makes up "
         "for; 0: none; auto: for each layer the one that serves held-out samples best",
         "0; best: auto", .number = &f.alpha, .word = "auto", .word_given = &f.auto_alpha},
        {"--refine", "N", "rounds of refinement of scales and codes", "2; fast: 0, best: 8",
         .integer = &f.refine},
        {"--couple-rows", "N", "1: round the rows of an attention head together, 0: apart", "1",
         .integer = &f.couple},
        {"--scale-search", "NAME",
         "how scales are judged: fast, by the Hessian's diagonal, or accurate, by its factor",
         "accurate; fast: fast", .text = &o.scale_search},
        {"--column-order", "NAME",
         "order in which columns are rounded: diagonal (the largest first), groups, original",
         "diagonal", .text = &o.column_order},
        {"--samples", "N", "use the first N samples of the file; 0: all", "0",
         .integer = &o.samples},
        {"--layers", "A:B", "quantise blocks A to B-1 only and keep the rest, to try a few first",
         .text = &f.layers},
        {"--skip", "REGEX", "keep modules whose name matches as they are; may be repeated",
         .texts = &f.skip},
        {"--override", "REGEX=bits:B,group:G",
         "other bits or group size for matching modules; may be repeated, the first match counts",
         .texts = &f.override_},
        {"--protect",
         .help = "keep, or give 8 bits to, the layers in which the model's family is known to be "
                 "sensitive, where its descriptor names some; --override wins",
         .flag = &o.protect},
        {"--lm-head", .help = "quantise lm_head too, where it is not the embedding",
         .flag = &o.lm_head},
        {"--max-shard-size", "SIZE", "largest safetensors file, e.g. 500MB; gguf is one file",
         "5GB", .text = &f.shard_size},
        {"--unit-tokens", "N", "tokens that go through the model at once", "8192",
         .integer = &o.unit_tokens},
        {"--distribute-above", "N", "factor Hessians wider than this on all ranks together", "8192",
         .integer = &o.distribute_above},
        {"--mmap", .help = "read the model through mmap; it may pay where the cache holds it",
         .flag = &o.mmap},
        {"--threads", "N", "threads per rank", "1", .integer = &f.threads},
    };
    const mq_args_spec spec = {
        "mpiquant quantize",
        "Quantises a model with GPTQ, under mpirun or srun. The output folder is complete when the "
        "program ends with code 0; its bytes do not depend on the number of ranks or threads.",
        positionals,
        1,
        options,
        sizeof options / sizeof *options,
        .takes_config = true};
    mq_args args = {0};
    bool help = false;
    mq_status status = mq_cmd_parse(comm, &spec, argc, argv, &args, &help);
    if (status == MQ_OK && !help) status = run(comm, &o, &f);
    mq_args_free(&args);
    return status;
}
