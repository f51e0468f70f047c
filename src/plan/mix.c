#include "plan/mix.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"

#include <math.h>
#include <stdio.h>

enum { WIDEST = 8 };

const int mq_all_widths[MQ_MAX_WIDTHS] = {2, 3, 4, 8};

mq_status mq_mix_widths(const mq_quantize_options *options, mq_scheme *scheme)
{
    const int *width = options->n_widths > 0 ? options->widths : mq_all_widths;
    int n = options->n_widths > 0 ? options->n_widths : MQ_MAX_WIDTHS;
    if (options->average_bits == 0) return MQ_OK;
    for (int i = 0; i < n; i++) {
        bool known = false;
        for (int k = 0; k < MQ_MAX_WIDTHS; k++) known = known || width[i] == mq_all_widths[k];
        if (!known || i >= MQ_MAX_WIDTHS || (i > 0 && width[i] <= width[i - 1])) {
            return mq_fail(MQ_E_USAGE, "--widths: some of 2, 3, 4 and 8, ascending");
        }
        scheme->width[i] = width[i];
    }
    scheme->n_widths = n;
    scheme->bits = width[0];
    scheme->average_bits = options->average_bits;
    if (options->average_bits >= width[0] && options->average_bits <= width[n - 1]) return MQ_OK;
    return mq_fail(MQ_E_USAGE, "--bits %g: an average of layers of %d to %d bits lies in between",
                   options->average_bits, width[0], width[n - 1]);
}

bool mq_mix_is_free(const mq_scheme *scheme, int64_t block, mq_linear_id linear)
{
    const mq_layer_plan *plan = mq_scheme_layer(scheme, block, linear);
    return plan->quantise && !plan->fixed;
}

typedef struct totals {
    int64_t weights, free; /* of all packed layers; of those whose bits are to be chosen */
    int64_t bits;          /* of all packed layers as the scheme stands */
    int64_t fixed_bits;    /* of the others */
} totals;

static int64_t weights_of(const mq_scheme *scheme, int64_t block, mq_linear_id linear)
{
    int64_t n_out = 0, n_in = 0;
    mq_arch_linear_shape(scheme->arch, block, linear, &n_out, &n_in);
    return n_out * n_in;
}

static totals count(const mq_scheme *scheme)
{
    totals t = {0};
    for (int64_t b = 0; b < scheme->arch->n_blocks; b++) {
        for (int l = 0; l < mq_arch_n_linears(scheme->arch); l++) {
            if (!mq_arch_has(scheme->arch, b, (mq_linear_id)l)) continue;
            const mq_layer_plan *plan = mq_scheme_layer(scheme, b, (mq_linear_id)l);
            int64_t weights = weights_of(scheme, b, (mq_linear_id)l);
            if (!plan->quantise) continue;
            t.weights += weights;
            t.bits += weights * plan->quant.bits;
            if (plan->fixed) t.fixed_bits += weights * plan->quant.bits;
            if (!plan->fixed) t.free += weights;
        }
    }
    return t;
}

double mq_mix_average(const mq_scheme *scheme)
{
    totals t = count(scheme);
    return (double)t.bits / (double)t.weights;
}

/* Weights of a model are far below 2^50: the product is off by less than a bit. */
static int64_t budget_of(const mq_scheme *scheme, const totals *t)
{
    return (int64_t)floor(scheme->average_bits * (double)t->weights);
}

/* That no count of weights or bits below passes 64 bits. */
static mq_status check_counts(const mq_arch *arch)
{
    int64_t n_linears = mq_arch_n_linears(arch);
    for (int64_t i = 0; i < arch->n_blocks * n_linears; i++) {
        int64_t n_out = 0, n_in = 0, bits = 0;
        mq_linear_id linear = (mq_linear_id)(i % n_linears);
        if (!mq_arch_has(arch, i / n_linears, linear)) continue;
        mq_arch_linear_shape(arch, i / n_linears, linear, &n_out, &n_in);
        const int64_t factor[] = {n_out, n_in, arch->n_blocks, n_linears * WIDEST};
        MQ_TRY(mq_count(factor, 4, &bits));
    }
    return MQ_OK;
}

mq_status mq_mix_check(const mq_scheme *scheme)
{
    if (scheme->average_bits == 0) return MQ_OK;
    MQ_TRY(check_counts(scheme->arch));
    totals t = count(scheme);
    if (t.free == 0) {
        return mq_fail(MQ_E_USAGE,
                       "--bits %g: --override sets the bits of every layer, so there is nothing to "
                       "choose",
                       scheme->average_bits);
    }
    if (t.bits <= budget_of(scheme, &t)) return MQ_OK;
    return mq_fail(MQ_E_USAGE,
                   "--bits %g: with the layers of --override as they are and all others at %d "
                   "bits the average is %.4f already",
                   scheme->average_bits, scheme->width[0], (double)t.bits / (double)t.weights);
}

/* The free layers among those that are fused. */
static mq_budget_item item_of(const mq_scheme *scheme, int64_t block, int group, const double *harm)
{
    mq_budget_item item = {0};
    const mq_fused fused = mq_fused_layers(scheme->arch, group);
    const double *of_block =
        harm + block * mq_arch_n_linears(scheme->arch) * (int64_t)MQ_MAX_WIDTHS;
    for (int l = (int)fused.first; l <= (int)fused.last; l++) {
        if (!mq_mix_is_free(scheme, block, (mq_linear_id)l)) continue;
        item.weights += weights_of(scheme, block, (mq_linear_id)l);
        for (int j = 0; j < scheme->n_widths; j++) {
            item.harm[j] += of_block[l * MQ_MAX_WIDTHS + j];
        }
    }
    return item;
}

static void set_bits(mq_scheme *scheme, int64_t block, int group, int bits)
{
    const mq_fused fused = mq_fused_layers(scheme->arch, group);
    for (int l = (int)fused.first; l <= (int)fused.last; l++) {
        if (!mq_mix_is_free(scheme, block, (mq_linear_id)l)) continue;
        scheme->layer[block * mq_arch_n_linears(scheme->arch) + l].quant.bits = bits;
    }
}

/* weights (WIDEST + 1), zero on entry: how many have so many bits. */
static void by_width(const mq_scheme *scheme, int64_t *weights)
{
    int64_t n = mq_arch_n_linears(scheme->arch);
    for (int64_t i = 0; i < scheme->arch->n_blocks * n; i++) {
        const mq_layer_plan *plan = &scheme->layer[i];
        if (!plan->quantise) continue;
        weights[plan->quant.bits] += weights_of(scheme, i / n, (mq_linear_id)(i % n));
    }
}

/* What most weights have, the narrower of two alike: then `dynamic` has the fewest rules. */
static int commonest(const mq_scheme *scheme)
{
    int64_t weights[WIDEST + 1] = {0};
    int best = 0;
    by_width(scheme, weights);
    for (int bits = 1; bits <= WIDEST; bits++) {
        if (weights[bits] > weights[best]) best = bits;
    }
    return best;
}

static void apply(mq_scheme *scheme, const int *choice)
{
    int64_t i = 0;
    for (int64_t b = 0; b < scheme->arch->n_blocks; b++) {
        for (int g = 0; g < MQ_N_FUSED; g++) {
            set_bits(scheme, b, g, scheme->width[choice[i++]]);
        }
    }
    scheme->bits = commonest(scheme);
}

mq_status mq_mix_choose(mq_scheme *scheme, const double *harm)
{
    totals t = count(scheme);
    mq_budget_item *item = NULL;
    int *choice = NULL;
    int64_t n = 0, most = scheme->arch->n_blocks * MQ_N_FUSED;
    mq_status status = mq_alloc(most, sizeof *item, "budget", &item);
    if (status == MQ_OK) status = mq_alloc(most, sizeof *choice, "budget", &choice);
    if (status == MQ_OK) {
        for (int64_t b = 0; b < scheme->arch->n_blocks; b++) {
            for (int g = 0; g < MQ_N_FUSED; g++) {
                item[n++] = item_of(scheme, b, g, harm);
            }
        }
        status = mq_budget_choose(item, n, scheme->width, scheme->n_widths,
                                  budget_of(scheme, &t) - t.fixed_bits, choice);
    }
    if (status == MQ_OK) apply(scheme, choice);
    mq_free(&item);
    mq_free(&choice);
    return status;
}

void mq_mix_log(const mq_scheme *scheme)
{
    int64_t weights[WIDEST + 1] = {0}, all = 0;
    char text[128];
    size_t used = 0;
    by_width(scheme, weights);
    for (int bits = 1; bits <= WIDEST; bits++) all += weights[bits];
    for (int bits = 1; bits <= WIDEST; bits++) {
        if (weights[bits] == 0) continue;
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%.1f %% at %d",
                                 used ? ", " : "", 100 * (double)weights[bits] / (double)all, bits);
    }
    mq_log("average %.4f bits a weight, at most %g asked for: %s", mq_mix_average(scheme),
           scheme->average_bits, text);
}
