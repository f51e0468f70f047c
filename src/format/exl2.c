#include "format/exl2.h"

#include "base/checked.h"
#include "base/dtype.h"
#include "base/memory.h"
#include "base/squares.h"
#include "format/bits.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>

enum { PAD = 32, SCALE_BITS = 4, TILE = 64 /* output channels at a time */ };

int64_t mq_exl2_columns(int64_t n_out)
{
    return mq_ceil_div(n_out, PAD) * PAD;
}

/* Rows [k0, k1) of the turned matrix, and the row of q_weight where they begin. */
typedef struct group {
    int bits;
    int64_t k0, k1, word;
} group;

/* A layer made ready: its groups, and the input channel of every row. */
typedef struct unpacking {
    const mq_exl2_layer *layer;
    group *group;
    int32_t *channel;
} unpacking;

static bool known_bits(int bits)
{
    return bits >= 2 && bits <= MQ_MAX_BITS && bits != 7;
}

/* Group g, which begins at row k0. ExLlamaV2's kernels take 32 rows at a time, 16 of 2 bits; only
 * the last group may end in between. */
static group group_at(const mq_exl2_layer *l, int64_t g, int64_t k0)
{
    bool last = g + 1 == l->n_groups;
    group out = {.bits = l->groups[2 * g], .k0 = k0, .k1 = k0, .word = l->groups[2 * g + 1]};
    int64_t words = (last ? l->n_words : l->groups[2 * g + 3]) - out.word;
    if (!known_bits(out.bits) || words <= 0) return out;
    int64_t rows = last ? l->n_in - k0 : words * 32 / out.bits;
    bool whole = last || rows % (out.bits == 2 ? 16 : 32) == 0;
    if (whole && mq_bits_words(rows, out.bits) == words) out.k1 += rows;
    return out;
}

static mq_status find_groups(const unpacking *u, const char *name)
{
    const mq_exl2_layer *l = u->layer;
    int64_t k = 0;
    for (int64_t g = 0; g < l->n_groups; g++) {
        group found = group_at(l, g, k);
        bool ordered = g == 0 ? found.word == 0 : found.bits <= u->group[g - 1].bits;
        if (found.k1 == k || found.k1 > l->n_in || !ordered) {
            return mq_fail(MQ_E_INPUT,
                           "%s: q_groups: group %" PRId64 ", of %d bits from row %" PRId64
                           " of q_weight, does not fit the others, q_weight and %" PRId64
                           " input channels",
                           name, g, found.bits, found.word, l->n_in);
        }
        u->group[g] = found;
        k = found.k1;
    }
    return MQ_OK;
}

static mq_status find_channels(const unpacking *u, const char *name)
{
    const mq_exl2_layer *l = u->layer;
    for (int64_t k = 0; k < l->n_in; k++) u->channel[k] = -1;
    for (int64_t c = 0; c < l->n_in; c++) {
        int32_t k = l->invperm[c];
        if (k < 0 || k >= l->n_in || u->channel[k] >= 0) {
            return mq_fail(MQ_E_INPUT,
                           "%s: q_invperm[%" PRId64 "] = %" PRId32 " is outside [0, %" PRId64
                           "), or there before",
                           name, c, k, l->n_in);
        }
        u->channel[k] = (int32_t)c;
    }
    return MQ_OK;
}

static mq_status check_scales(const mq_exl2_layer *l, const char *name)
{
    for (int64_t g = 0; g < l->n_groups; g++) {
        float largest = mq_f16_to_f32(l->scale_max[g]);
        if (isfinite(largest) && largest >= 0) continue;
        return mq_fail(MQ_E_INPUT, "%s: q_scale_max[%" PRId64 "] is negative or not finite", name,
                       g);
    }
    return MQ_OK;
}

/* Group g of the output channels [c, c + n); dst points to row c. */
static void unpack_group(const unpacking *u, int64_t g, int64_t c, int64_t n, float *dst)
{
    const mq_exl2_layer *l = u->layer;
    const group *at = &u->group[g];
    int64_t columns = mq_exl2_columns(l->n_out);
    const uint32_t *roots = l->scale + g * (columns * SCALE_BITS / 32);
    const uint32_t *words = l->weight + at->word * columns + c;
    float scale[TILE], half = (float)(1 << (at->bits - 1));
    for (int64_t i = 0; i < n; i++) {
        int root = (int)mq_bits_code(roots, 1, c + i, SCALE_BITS) + 1;
        scale[i] = mq_square_scale(mq_f16_to_f32(l->scale_max[g]), root);
    }
    for (int64_t k = at->k0; k < at->k1; k++) {
        float *to = dst + u->channel[k];
        for (int64_t i = 0; i < n; i++) {
            float code = (float)mq_bits_code(words + i, columns, k - at->k0, at->bits);
            to[i * l->n_in] = scale[i] * (code - half);
        }
    }
}

static void unpacking_free(unpacking *u)
{
    mq_free(&u->group);
    mq_free(&u->channel);
}

static mq_status prepare(unpacking *u, const char *name)
{
    MQ_TRY(mq_alloc(u->layer->n_groups, sizeof *u->group, "groups of a layer", &u->group));
    MQ_TRY(mq_alloc(u->layer->n_in, sizeof *u->channel, "order of channels", &u->channel));
    MQ_TRY(find_groups(u, name));
    MQ_TRY(find_channels(u, name));
    return check_scales(u->layer, name);
}

mq_status mq_exl2_dequantise(const mq_exl2_layer *layer, const char *name, int64_t n0, int64_t n1,
                             float *dst)
{
    unpacking u = {.layer = layer};
    mq_status status = prepare(&u, name);
    for (int64_t c = n0; c < n1 && status == MQ_OK; c += TILE) {
        for (int64_t g = 0; g < layer->n_groups; g++) {
            unpack_group(&u, g, c, mq_min_i64(TILE, n1 - c), dst + (c - n0) * layer->n_in);
        }
    }
    unpacking_free(&u);
    return status;
}

mq_status mq_exl2_check(const mq_exl2_layer *layer, const char *name)
{
    unpacking u = {.layer = layer};
    mq_status status = prepare(&u, name);
    unpacking_free(&u);
    return status;
}
