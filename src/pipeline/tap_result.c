#include "pipeline/tap_result.h"

#include "base/checked.h"
#include "base/memory.h"
#include "par/collectives.h"

#include <string.h>

static const size_t alignment = 64;

typedef struct layer_bytes {
    size_t codes, scales, zeros, stats; /* of one row block */
    size_t total;                       /* of the layer, padded */
} layer_bytes;

static mq_status add_padded(size_t *at, size_t bytes)
{
    MQ_TRY(mq_add_size(*at, bytes + alignment - 1, at));
    *at = *at / alignment * alignment;
    return MQ_OK;
}

static mq_status layer_size(int64_t n_in, const mq_tap_layer *layer, layer_bytes *b)
{
    size_t all = 0, blocks = (size_t)layer->n_row_blocks;
    MQ_TRY(mq_mul_size(MQ_ROW_BLOCK, (size_t)n_in, &b->codes));
    MQ_TRY(mq_mul_size(MQ_ROW_BLOCK * sizeof(float), (size_t)layer->n_groups, &b->scales));
    b->zeros = layer->quant.zero_points ? b->scales / sizeof(float) : 0;
    b->stats = MQ_N_STATS * MQ_ROW_BLOCK * sizeof(double);
    b->total = 0;
    MQ_TRY(mq_mul_size(b->codes, blocks, &all));
    MQ_TRY(add_padded(&b->total, all));
    MQ_TRY(mq_mul_size(b->scales, blocks, &all));
    MQ_TRY(add_padded(&b->total, all));
    MQ_TRY(add_padded(&b->total, b->zeros * blocks)); /* fewer than those */
    MQ_TRY(mq_mul_size(b->stats, blocks, &all));
    return add_padded(&b->total, all);
}

/* Fills the description of the tap's layers, without pointers, and says how much room it takes. */
static mq_status describe(const mq_scheme *scheme, int64_t block, mq_tap_id tap, mq_tap_result *r,
                          size_t *bytes)
{
    mq_linear_id linears[MQ_N_LINEARS];
    int n = mq_arch_tap_linears(scheme->arch, block, tap, linears);
    r->n_in = mq_arch_tap_width(scheme->arch, block, tap);
    r->n_layers = 0;
    r->n_row_blocks = 0;
    r->n_groups = 0;
    *bytes = 0;
    for (int i = 0; i < n; i++) {
        const mq_layer_plan *plan = mq_scheme_layer(scheme, block, linears[i]);
        if (!plan->quantise) continue;
        mq_tap_layer *layer = &r->layer[r->n_layers++];
        layer_bytes size;
        int64_t n_in = 0;
        layer->linear = linears[i];
        layer->quant = plan->quant;
        mq_arch_linear_shape(scheme->arch, block, linears[i], &layer->n_out, &n_in);
        layer->n_groups = n_in / plan->quant.group;
        r->n_groups += layer->n_groups;
        layer->n_row_blocks = mq_ceil_div(layer->n_out, MQ_ROW_BLOCK);
        layer->first_row_block = r->n_row_blocks;
        r->n_row_blocks += layer->n_row_blocks;
        MQ_TRY(layer_size(n_in, layer, &size));
        MQ_TRY(mq_add_size(*bytes, size.total, bytes));
    }
    return MQ_OK;
}

static mq_status at_least(const mq_scheme *scheme, int64_t block, mq_tap_id tap, size_t *bytes)
{
    mq_tap_result probe;
    size_t need = 0;
    MQ_TRY(describe(scheme, block, tap, &probe, &need));
    if (need > *bytes) *bytes = need;
    return MQ_OK;
}

mq_status mq_tap_result_bytes_of_experts(const mq_scheme *scheme, size_t *bytes)
{
    const mq_arch *arch = scheme->arch;
    *bytes = 0;
    for (int64_t b = scheme->first_block; b < scheme->last_block; b++) {
        int64_t n_experts = arch->block[b].routed ? arch->moe.routing.n_experts : 0;
        for (int64_t e = 0; e < n_experts; e++) {
            MQ_TRY(at_least(scheme, b, mq_expert_tap(e, false), bytes));
            MQ_TRY(at_least(scheme, b, mq_expert_tap(e, true), bytes));
        }
    }
    return MQ_OK;
}

mq_status mq_tap_result_bytes(const mq_scheme *scheme, size_t *bytes)
{
    const mq_arch *arch = scheme->arch;
    MQ_TRY(mq_tap_result_bytes_of_experts(scheme, bytes));
    MQ_TRY(at_least(scheme, arch->n_blocks - 1, MQ_TAP_HEAD_IN, bytes));
    for (int64_t b = scheme->first_block; b < scheme->last_block; b++) {
        mq_tap_id taps[MQ_N_TAPS];
        int n_taps = mq_arch_taps(arch, b, taps);
        for (int t = 0; t < n_taps; t++) MQ_TRY(at_least(scheme, b, taps[t], bytes));
    }
    return MQ_OK;
}

/* status: of finding out the bytes. */
static mq_status create(const mq_comm *comm, const mq_scheme *scheme, mq_status status,
                        size_t bytes, mq_tap_result **out)
{
    *out = NULL;
    if (status == MQ_OK) status = mq_alloc(1, sizeof **out, "tap result", out);
    if (status == MQ_OK) {
        status = mq_alloc(mq_arch_normed_width(scheme->arch), sizeof *(*out)->column_scale,
                          "scales of columns", &(*out)->column_scale);
    }
    status = mq_agree(comm, status);
    if (status == MQ_OK) {
        status = mq_share_create(comm, bytes, "codes of a tap", &(*out)->share);
    }
    if (status != MQ_OK) mq_tap_result_destroy(out);
    return status;
}

mq_status mq_tap_result_create(const mq_comm *comm, const mq_scheme *scheme, mq_tap_result **out)
{
    size_t bytes = 0;
    mq_status status = mq_tap_result_bytes(scheme, &bytes);
    return create(comm, scheme, status, bytes, out);
}

mq_status mq_tap_result_create_for_experts(const mq_comm *comm, const mq_scheme *scheme,
                                           mq_tap_result **out)
{
    size_t bytes = 0;
    mq_status status = mq_tap_result_bytes_of_experts(scheme, &bytes);
    return create(comm, scheme, status, bytes, out);
}

void mq_tap_result_destroy(mq_tap_result **result)
{
    if (*result) {
        mq_share_destroy(&(*result)->share);
        mq_free(&(*result)->column_scale);
        mq_free(&(*result)->range);
        mq_free(&(*result)->largest);
    }
    mq_free(result);
}

/* Of a rank itself: the ranges are made by a reduction over all ranks. */
static mq_status bind_ranges(mq_tap_result *result)
{
    int64_t at = 0;
    mq_free(&result->range);
    mq_free(&result->largest);
    MQ_TRY(mq_alloc(result->n_groups, sizeof *result->range, "ranges of groups", &result->range));
    MQ_TRY(
        mq_alloc(result->n_groups, sizeof *result->largest, "ranges of groups", &result->largest));
    for (int i = 0; i < result->n_layers; i++) {
        mq_tap_layer *layer = &result->layer[i];
        layer->range = result->range + at;
        layer->largest = result->largest + at;
        layer->quant.largest = layer->largest;
        at += layer->n_groups;
    }
    return MQ_OK;
}

mq_status mq_tap_result_bind(mq_tap_result *result, const mq_scheme *scheme, int64_t block,
                             mq_tap_id tap)
{
    size_t bytes = 0, at = 0;
    MQ_TRY(describe(scheme, block, tap, result, &bytes));
    result->scaled = false;
    char *base = result->share->base;
    for (int i = 0; i < result->n_layers; i++) {
        mq_tap_layer *layer = &result->layer[i];
        layer_bytes size;
        size_t blocks = (size_t)layer->n_row_blocks;
        MQ_TRY(layer_size(result->n_in, layer, &size));
        layer->codes = (uint8_t *)(base + at);
        MQ_TRY(add_padded(&at, size.codes * blocks));
        layer->scales = (float *)(void *)(base + at);
        MQ_TRY(add_padded(&at, size.scales * blocks));
        layer->zeros = size.zeros > 0 ? (uint8_t *)(base + at) : NULL;
        MQ_TRY(add_padded(&at, size.zeros * blocks));
        layer->stats = (double *)(void *)(base + at);
        MQ_TRY(add_padded(&at, size.stats * blocks));
    }
    return scheme->format->scales == MQ_SCALES_SQUARES ? bind_ranges(result) : MQ_OK;
}

void mq_tap_result_unscale(const mq_tap_result *result, float *row)
{
    for (int64_t j = 0; result->scaled && j < result->n_in; j++) row[j] *= result->column_scale[j];
}

void mq_tap_layer_set_bits(mq_tap_layer *layer, int bits)
{
    layer->quant.bits = bits;
    if (layer->range) mq_set_largest(layer->range, layer->n_groups, bits, layer->largest);
}

static mq_range range_of(const mq_tap_result *result, const void *first, size_t bytes, int64_t b,
                         int owner)
{
    size_t offset = (size_t)((const char *)first - (const char *)result->share->base);
    return (mq_range){.offset = offset + (size_t)b * bytes, .bytes = bytes, .owner = owner};
}

/* from: the rank that has everything; below 0: each row block is its owner's. */
static mq_status publish(const mq_comm *comm, const mq_tap_result *result, bool codes, int from)
{
    mq_range *ranges = NULL;
    int64_t n = 0;
    mq_status status = mq_alloc(4 * result->n_row_blocks, sizeof *ranges, "ranges", &ranges);
    for (int i = 0; i < result->n_layers && status == MQ_OK; i++) {
        const mq_tap_layer *layer = &result->layer[i];
        layer_bytes size;
        status = layer_size(result->n_in, layer, &size);
        for (int64_t b = 0; b < layer->n_row_blocks && status == MQ_OK; b++) {
            int owner = from >= 0 ? from : (int)((layer->first_row_block + b) % comm->size);
            if (codes) {
                ranges[n++] = range_of(result, layer->codes, size.codes, b, owner);
                ranges[n++] = range_of(result, layer->scales, size.scales, b, owner);
            }
            if (codes && layer->zeros) {
                ranges[n++] = range_of(result, layer->zeros, size.zeros, b, owner);
            }
            ranges[n++] = range_of(result, layer->stats, size.stats, b, owner);
        }
    }
    status = mq_agree(comm, status);
    if (status == MQ_OK) status = mq_share_publish(comm, result->share, ranges, n);
    mq_free(&ranges);
    return status;
}

mq_status mq_tap_result_publish(const mq_comm *comm, const mq_tap_result *result)
{
    return publish(comm, result, true, -1);
}

/* How far groups reach is a rank's own, and what follows from it. */
static mq_status share_ranges(const mq_comm *comm, mq_tap_result *result, const mq_tap_result *from,
                              int owner)
{
    size_t n = (size_t)result->n_groups;
    if (!result->range) return MQ_OK;
    if (from) {
        memcpy(result->range, from->range, n * sizeof *result->range);
        memcpy(result->largest, from->largest, n * sizeof *result->largest);
    }
    MQ_TRY(mq_bcast(comm, result->range, n * sizeof *result->range, owner));
    return mq_bcast(comm, result->largest, n * sizeof *result->largest, owner);
}

mq_status mq_tap_result_publish_from(const mq_comm *comm, mq_tap_result *result,
                                     const mq_tap_result *from, int owner)
{
    if (from) memcpy(result->share->base, from->share->base, from->share->bytes);
    MQ_TRY(share_ranges(comm, result, from, owner));
    return publish(comm, result, true, owner);
}

mq_status mq_tap_result_publish_stats(const mq_comm *comm, const mq_tap_result *result)
{
    return publish(comm, result, false, -1);
}

double mq_tap_result_sum(const mq_tap_layer *layer, int stat)
{
    double sum = 0;
    for (int64_t r = 0; r < layer->n_out; r++) {
        int64_t b = r / MQ_ROW_BLOCK, row = r % MQ_ROW_BLOCK;
        sum += layer->stats[(b * MQ_N_STATS + stat) * MQ_ROW_BLOCK + row];
    }
    return sum;
}
