#include "plan/scheme.h"

#include "base/checked.h"
#include "base/memory.h"
#include "model/gguf.h"
#include "model/tensors.h"
#include "plan/mix.h"

#include <inttypes.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 256, PROTECTED_BITS = 8 };

mq_fused mq_fused_layers(const mq_arch *arch, int group)
{
    static const mq_fused fixed[] = {
        [MQ_FUSED_QKV] = {MQ_Q, MQ_V, "qkv_proj"},
        [MQ_FUSED_LATENTS] = {MQ_Q_A, MQ_KV_A, "fused_qkv_a_proj"},
        [MQ_FUSED_Q_B] = {MQ_Q_B, MQ_Q_B, NULL},
        [MQ_FUSED_KV_B] = {MQ_KV_B, MQ_KV_B, NULL},
        [MQ_FUSED_DELTA] = {MQ_IN_QKV, MQ_IN_Z, "in_proj_qkvz"},
        [MQ_FUSED_O] = {MQ_O, MQ_O, NULL},
        [MQ_FUSED_GATE_UP] = {MQ_GATE, MQ_UP, "gate_up_proj"},
        [MQ_FUSED_DOWN] = {MQ_DOWN, MQ_DOWN, NULL},
    };
    if (group < MQ_FUSED_EXPERTS) return fixed[group];
    mq_linear_id last = (mq_linear_id)(mq_arch_n_linears(arch) - 1);
    return (mq_fused){MQ_EXPERTS, last, "experts"};
}

static mq_layer_plan *layer_at(const mq_scheme *scheme, int64_t block, mq_linear_id linear)
{
    return &scheme->layer[block * mq_arch_n_linears(scheme->arch) + linear];
}

const mq_layer_plan *mq_scheme_layer(const mq_scheme *scheme, int64_t block, mq_linear_id linear)
{
    return linear == MQ_HEAD ? &scheme->head : layer_at(scheme, block, linear);
}

mq_layer_shape mq_scheme_shape(const mq_scheme *scheme, int64_t block, mq_linear_id linear)
{
    const mq_layer_plan *plan = mq_scheme_layer(scheme, block, linear);
    mq_layer_shape shape = {.group = plan->quant.group,
                            .bits = plan->quant.bits,
                            .zero_points = plan->quant.zero_points,
                            .dtype = plan->dtype};
    if (scheme->format->gguf) shape.head_rows = mq_gguf_head_rows(scheme->arch, linear);
    mq_arch_linear_shape(scheme->arch, block, linear, &shape.n_out, &shape.n_in);
    return shape;
}

static void take_type(mq_scheme *scheme, const mq_folder *source, int64_t block,
                      mq_linear_id linear, mq_layer_plan *plan)
{
    mq_linear_source found;
    if (!plan->quantise) return;
    bool there = mq_linear_find(source, scheme->arch, linear, block, &found) == MQ_OK;
    mq_dtype dtype = there && found.weight ? found.weight->dtype : MQ_BF16;
    if (dtype == MQ_F64) dtype = MQ_F32; /* F64 is never written */
    /* What is packed in the source is read as BF16. */
    plan->dtype = dtype == MQ_F32 || dtype == MQ_F16 ? dtype : MQ_BF16;
    if (scheme->format->scales != MQ_SCALES_AS_SOURCE) return;
    plan->quant.grid = dtype == MQ_F16 ? MQ_SCALE_F16 : MQ_SCALE_BF16;
}

void mq_scheme_take_types(mq_scheme *scheme, const mq_folder *source)
{
    for (int64_t b = 0; b < scheme->arch->n_blocks; b++) {
        for (int l = 0; l < mq_arch_n_linears(scheme->arch); l++) {
            take_type(scheme, source, b, (mq_linear_id)l, layer_at(scheme, b, (mq_linear_id)l));
        }
    }
    take_type(scheme, source, 0, MQ_HEAD, &scheme->head);
}

/* Until the source's types are known, AS_SOURCE counts as F16. */
static mq_scale_grid grid_of(const mq_format *format, bool zero_points)
{
    if (format->scales == MQ_SCALES_SQUARES) return MQ_SCALE_SQUARES;
    bool is_short = format->scales == MQ_SCALES_SHORT && zero_points;
    return is_short ? MQ_SCALE_F16_SHORT : MQ_SCALE_F16;
}

static mq_status check_bits(int bits, const char *what)
{
    if (bits == 2 || bits == 3 || bits == 4 || bits == 8) return MQ_OK;
    return mq_fail(MQ_E_USAGE, "%s: %d bits: 2, 3, 4 and 8 are possible", what, bits);
}

/* The group sizes a user would try that divide n: "32, 64, 192". */
static void name_divisors(int64_t n, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (int64_t g = 16; g <= 1024 && g < n && used + 16 < bytes; g += 16) {
        if (n % g == 0) {
            used += (size_t)snprintf(text + used, bytes - used, "%s%" PRId64, used ? ", " : "", g);
        }
    }
    snprintf(text + used, bytes - used, "%s-1 (the whole row)", used ? " and " : "only ");
}

static mq_status resolve_group(int64_t group, int64_t n_in, const char *name, int64_t *out)
{
    if (group == -1) {
        *out = n_in;
        return MQ_OK;
    }
    if (group > 0 && n_in % group == 0) {
        *out = group;
        return MQ_OK;
    }
    char divisors[256];
    name_divisors(n_in, divisors, sizeof divisors);
    return mq_fail(MQ_E_USAGE,
                   "%s: group size %" PRId64 " does not divide its %" PRId64
                   " input columns; these do: %s",
                   name, group, n_in, divisors);
}

/* A compiled pattern and how often it matched: one that never does is a mistake of the user. */
typedef struct pattern {
    regex_t regex;
    const char *text;
    int64_t matches;
} pattern;

static mq_status compile(const char *text, const char *option, pattern *out)
{
    int code = regcomp(&out->regex, text, REG_EXTENDED | REG_NOSUB);
    out->text = text;
    out->matches = 0;
    if (code == 0) return MQ_OK;
    char why[128];
    regerror(code, &out->regex, why, sizeof why);
    return mq_fail(MQ_E_USAGE, "%s '%s': %s", option, text, why);
}

typedef struct rules {
    pattern *skip, *override_;
    pattern kept[MQ_ARCH_SENSITIVE], bits8[MQ_ARCH_SENSITIVE]; /* of --protect */
    int n_skip, n_override, n_kept, n_bits8;                   /* compiled so far */
} rules;

static void rules_clear(rules *r)
{
    for (int i = 0; i < r->n_skip; i++) regfree(&r->skip[i].regex);
    for (int i = 0; i < r->n_override; i++) regfree(&r->override_[i].regex);
    for (int i = 0; i < r->n_kept; i++) regfree(&r->kept[i].regex);
    for (int i = 0; i < r->n_bits8; i++) regfree(&r->bits8[i].regex);
    mq_free(&r->skip);
    mq_free(&r->override_);
}

static mq_status compile_protection(const mq_arch *arch, rules *r)
{
    const mq_sensitive *s = &arch->sensitive;
    if (s->n_skip + s->n_bits8 == 0) {
        return mq_fail(MQ_E_USAGE,
                       "--protect: configs/arch/%s.json names no layers that its models are "
                       "sensitive in; --skip and --override say what to keep",
                       arch->family);
    }
    for (int i = 0; i < s->n_skip; i++) {
        MQ_TRY(compile(s->skip[i], "--protect", &r->kept[i]));
        r->n_kept++;
    }
    for (int i = 0; i < s->n_bits8; i++) {
        MQ_TRY(compile(s->bits8[i], "--protect", &r->bits8[i]));
        r->n_bits8++;
    }
    return MQ_OK;
}

static mq_status rules_compile(const mq_arch *arch, const mq_quantize_options *options, rules *r)
{
    MQ_TRY(mq_alloc(options->n_skip, sizeof *r->skip, "patterns", &r->skip));
    MQ_TRY(mq_alloc(options->n_override, sizeof *r->override_, "patterns", &r->override_));
    for (int i = 0; i < options->n_skip; i++) {
        MQ_TRY(compile(options->skip[i], "--skip", &r->skip[i]));
        r->n_skip++;
    }
    for (int i = 0; i < options->n_override; i++) {
        MQ_TRY(compile(options->override_[i].pattern, "--override", &r->override_[i]));
        r->n_override++;
    }
    return options->protect ? compile_protection(arch, r) : MQ_OK;
}

static bool matches(pattern *p, const char *name)
{
    bool hit = regexec(&p->regex, name, 0, NULL, 0) == 0;
    p->matches += hit;
    return hit;
}

/* What --protect says of a layer that no override is for. */
static void protect(rules *r, const char *name, mq_layer_plan *plan, int *bits)
{
    for (int i = 0; i < r->n_kept; i++) {
        if (matches(&r->kept[i], name)) plan->quantise = false;
    }
    for (int i = 0; i < r->n_bits8; i++) {
        if (!matches(&r->bits8[i], name)) continue;
        *bits = PROTECTED_BITS;
        plan->fixed = true;
    }
}

/* The first override that matches wins, as in the readers' `dynamic`. */
static mq_status plan_layer(const mq_scheme *scheme, const mq_quantize_options *options, rules *r,
                            int64_t block, mq_linear_id linear, mq_layer_plan *plan)
{
    const mq_arch *arch = scheme->arch;
    char name[NAME_BYTES];
    int64_t n_out = 0, n_in = 0;
    mq_arch_linear_name(arch, linear, block, name, sizeof name);
    mq_arch_linear_shape(arch, block, linear, &n_out, &n_in);
    plan->quantise = true;
    for (int i = 0; i < r->n_skip; i++) {
        if (matches(&r->skip[i], name)) plan->quantise = false;
    }
    int bits = scheme->bits;
    int64_t group = options->group;
    bool overridden = false;
    for (int i = 0; i < r->n_override; i++) {
        if (!matches(&r->override_[i], name) || overridden) continue;
        plan->fixed = options->override_[i].bits != 0;
        if (plan->fixed) bits = options->override_[i].bits;
        if (options->override_[i].group) group = options->override_[i].group;
        overridden = true;
    }
    if (!overridden) protect(r, name, plan, &bits);
    if (!plan->quantise) return MQ_OK;
    MQ_TRY(check_bits(bits, name));
    MQ_TRY(resolve_group(group, n_in, name, &plan->quant.group));
    plan->quant.bits = bits;
    plan->quant.grid = grid_of(scheme->format, options->zero_points);
    plan->quant.zero_points = options->zero_points;
    plan->quant.positive = options->positive_scales || plan->quant.grid == MQ_SCALE_SQUARES;
    return MQ_OK;
}

/* The head is reached only by a walk through all blocks, and no budget is spent on it. */
static mq_status plan_head(mq_scheme *scheme, const mq_quantize_options *options, rules *r)
{
    char name[NAME_BYTES];
    if (!options->lm_head) return MQ_OK;
    mq_arch_linear_name(scheme->arch, MQ_HEAD, 0, name, sizeof name);
    if (scheme->arch->tied) {
        return mq_fail(MQ_E_USAGE,
                       "--lm-head: %s is the embedding in this model "
                       "(tie_word_embeddings), which is not quantised",
                       name);
    }
    if (scheme->last_block < scheme->arch->n_blocks) {
        return mq_fail(MQ_E_USAGE,
                       "--lm-head: --layers must not end before the last block, %" PRId64
                       ", for the inputs of %s to be known",
                       scheme->arch->n_blocks, name);
    }
    MQ_TRY(plan_layer(scheme, options, r, 0, MQ_HEAD, &scheme->head));
    if (scheme->average_bits != 0 && scheme->head.quantise && !scheme->head.fixed) {
        return mq_fail(MQ_E_USAGE,
                       "--lm-head: an average of bits is over the layers of blocks; say "
                       "what %s gets, such as --override '%s=bits:8'",
                       name, name);
    }
    scheme->n_quantised += scheme->head.quantise;
    return MQ_OK;
}

static mq_status every_pattern_matched(const rules *r)
{
    for (int i = 0; i < r->n_skip; i++) {
        if (r->skip[i].matches == 0) {
            return mq_fail(MQ_E_USAGE, "--skip '%s' matches no linear layer", r->skip[i].text);
        }
    }
    for (int i = 0; i < r->n_override; i++) {
        if (r->override_[i].matches == 0) {
            return mq_fail(MQ_E_USAGE, "--override '%s' matches no linear layer",
                           r->override_[i].text);
        }
    }
    return MQ_OK;
}

static mq_status check_form(const mq_scheme *scheme, int64_t block, mq_linear_id linear, int bits)
{
    char name[NAME_BYTES], why[128];
    mq_layer_shape shape = mq_scheme_shape(scheme, block, linear);
    shape.bits = bits;
    if (!scheme->format->refuses || !scheme->format->refuses(&shape, why, sizeof why)) return MQ_OK;
    mq_arch_linear_name(scheme->arch, linear, block, name, sizeof name);
    return mq_fail(MQ_E_USAGE, "--format %s: %s of %d bits: %s; --format gptq has a form for it",
                   scheme->format->name, name, bits, why);
}

/* With a budget, in every width that a layer may get. */
static mq_status check_forms(const mq_scheme *scheme)
{
    for (int64_t b = 0; b < scheme->arch->n_blocks; b++) {
        for (int l = 0; l < mq_arch_n_linears(scheme->arch); l++) {
            if (!mq_arch_has(scheme->arch, b, (mq_linear_id)l)) continue;
            const mq_layer_plan *plan = mq_scheme_layer(scheme, b, (mq_linear_id)l);
            if (!plan->quantise) continue;
            MQ_TRY(check_form(scheme, b, (mq_linear_id)l, plan->quant.bits));
            for (int w = 0; w < scheme->n_widths && !plan->fixed; w++) {
                MQ_TRY(check_form(scheme, b, (mq_linear_id)l, scheme->width[w]));
            }
        }
    }
    if (!scheme->head.quantise) return MQ_OK;
    return check_form(scheme, 0, MQ_HEAD, scheme->head.quant.bits);
}

static mq_status choose_format(const mq_quantize_options *options, const mq_format **out)
{
    *out = mq_format_find(options->format, options->zero_points);
    if (*out) return MQ_OK;
    return mq_fail(MQ_E_USAGE,
                   "--format %s: gptq, gptq_v2, compressed-tensors, exl2, gguf or dense",
                   options->format);
}

static mq_status fill(mq_scheme *scheme, const mq_quantize_options *options, rules *r)
{
    const mq_arch *arch = scheme->arch;
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        bool inside = b >= scheme->first_block && b < scheme->last_block;
        for (int l = 0; l < mq_arch_n_linears(arch); l++) {
            mq_layer_plan *plan = layer_at(scheme, b, (mq_linear_id)l);
            if (!mq_arch_has(arch, b, (mq_linear_id)l)) continue;
            MQ_TRY(plan_layer(scheme, options, r, b, (mq_linear_id)l, plan));
            plan->quantise = plan->quantise && inside;
            scheme->n_quantised += plan->quantise;
        }
    }
    MQ_TRY(plan_head(scheme, options, r));
    MQ_TRY(check_forms(scheme));
    MQ_TRY(every_pattern_matched(r));
    if (scheme->n_quantised == 0) {
        return mq_fail(MQ_E_USAGE, "nothing left to quantise: every linear layer is skipped");
    }
    return MQ_OK;
}

static mq_status check_range(const mq_arch *arch, const mq_quantize_options *options,
                             mq_scheme *scheme)
{
    scheme->first_block = options->first_block;
    scheme->last_block = options->last_block < 0 ? arch->n_blocks : options->last_block;
    if (scheme->first_block >= 0 && scheme->first_block < scheme->last_block &&
        scheme->last_block <= arch->n_blocks) {
        return MQ_OK;
    }
    return mq_fail(MQ_E_USAGE,
                   "--layers %" PRId64 ":%" PRId64 ": the model has blocks 0 to %" PRId64
                   ", and A:B means A, A+1, ... B-1",
                   scheme->first_block, scheme->last_block, arch->n_blocks - 1);
}

mq_status mq_scheme_create(const mq_arch *arch, const mq_quantize_options *options, mq_scheme **out)
{
    rules r = {0};
    int64_t n_layers = 0;
    *out = NULL;
    const mq_format *format = NULL;
    if (options->average_bits == 0) MQ_TRY(check_bits(options->bits, "--bits"));
    MQ_TRY(choose_format(options, &format));
    if (format->gguf) MQ_TRY(mq_gguf_check(arch));
    MQ_TRY(mq_mul_i64(arch->n_blocks, mq_arch_n_linears(arch), &n_layers));
    mq_status status = mq_alloc(1, sizeof **out, "quantisation scheme", out);
    if (status == MQ_OK) {
        (*out)->arch = arch;
        (*out)->format = format;
        (*out)->bits = options->bits;
        (*out)->group = options->group;
        status = mq_alloc(n_layers, sizeof(mq_layer_plan), "quantisation scheme", &(*out)->layer);
    }
    if (status == MQ_OK) status = check_range(arch, options, *out);
    if (status == MQ_OK) status = mq_mix_widths(options, *out);
    if (status == MQ_OK) status = rules_compile(arch, options, &r);
    if (status == MQ_OK) status = fill(*out, options, &r);
    if (status == MQ_OK) status = mq_mix_check(*out);
    rules_clear(&r);
    if (status != MQ_OK) mq_scheme_destroy(out);
    return status;
}

void mq_scheme_destroy(mq_scheme **scheme)
{
    if (*scheme) mq_free(&(*scheme)->layer);
    mq_free(scheme);
}

static bool same_plan(const mq_layer_plan *a, const mq_layer_plan *b)
{
    if (a->quantise != b->quantise) return false;
    return !a->quantise || (a->quant.bits == b->quant.bits && a->quant.group == b->quant.group);
}

bool mq_scheme_is_default(const mq_scheme *scheme, int64_t block, mq_linear_id linear)
{
    int64_t n_out = 0, n_in = 0;
    const mq_layer_plan *plan = mq_scheme_layer(scheme, block, linear);
    mq_arch_linear_shape(scheme->arch, block, linear, &n_out, &n_in);
    int64_t group = scheme->group == -1 ? n_in : scheme->group;
    return plan->quantise && plan->quant.bits == scheme->bits && plan->quant.group == group;
}

/* The first block that has a linear: blocks differ in which they have. */
static int64_t first_with(const mq_arch *arch, mq_linear_id linear)
{
    int64_t b = 0;
    while (b < arch->n_blocks && !mq_arch_has(arch, b, linear)) b++;
    return b;
}

/* That only `dynamic` can say so of the layers of one kind. */
static bool linear_needs_rules(const mq_scheme *scheme, mq_linear_id linear)
{
    const mq_arch *arch = scheme->arch;
    int64_t first = first_with(arch, linear);
    for (int64_t b = first; b < arch->n_blocks; b++) {
        if (!mq_arch_has(arch, b, linear)) continue;
        bool packed = mq_scheme_layer(scheme, b, linear)->quantise;
        if (packed != mq_scheme_layer(scheme, first, linear)->quantise) return true;
        if (packed && !mq_scheme_is_default(scheme, b, linear)) return true;
    }
    return false;
}

bool mq_scheme_needs_rules(const mq_scheme *scheme)
{
    for (int l = 0; l < mq_arch_n_linears(scheme->arch); l++) {
        if (linear_needs_rules(scheme, (mq_linear_id)l)) return true;
    }
    return scheme->head.quantise && !mq_scheme_is_default(scheme, 0, MQ_HEAD);
}

/* Whether of the layers first..last some have another plan than others. */
static bool differ(const mq_scheme *scheme, int64_t block, const mq_fused *fused)
{
    const mq_layer_plan *one = NULL;
    for (int l = (int)fused->first; l <= (int)fused->last; l++) {
        if (!mq_arch_has(scheme->arch, block, (mq_linear_id)l)) continue;
        const mq_layer_plan *plan = mq_scheme_layer(scheme, block, (mq_linear_id)l);
        if (one && !same_plan(one, plan)) return true;
        one = plan;
    }
    return false;
}

bool mq_scheme_splits_fused(const mq_scheme *scheme)
{
    for (int64_t b = 0; b < scheme->arch->n_blocks; b++) {
        for (int g = 0; g < MQ_N_FUSED; g++) {
            const mq_fused fused = mq_fused_layers(scheme->arch, g);
            if (differ(scheme, b, &fused)) return true;
        }
    }
    return false;
}

static bool packs_in_part(const mq_scheme *scheme, int64_t block, mq_linear_id first,
                          mq_linear_id last)
{
    int packed = 0, n = 0;
    for (int l = (int)first; l <= (int)last; l++) {
        if (!mq_arch_has(scheme->arch, block, (mq_linear_id)l)) continue;
        packed += mq_scheme_layer(scheme, block, (mq_linear_id)l)->quantise;
        n++;
    }
    return packed != 0 && packed != n;
}

bool mq_scheme_packs_in_part(const mq_scheme *scheme)
{
    for (int64_t b = 0; b < scheme->arch->n_blocks; b++) {
        if (packs_in_part(scheme, b, MQ_Q, MQ_O)) return true;
        if (packs_in_part(scheme, b, MQ_GATE, MQ_DOWN)) return true;
    }
    return false;
}
