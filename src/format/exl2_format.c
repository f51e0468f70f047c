/* EXL2 with one width a layer, its channels in the source's order. */
#include "base/dtype.h"
#include "base/squares.h"
#include "format/bits.h"
#include "format/exl2.h"
#include "format/format.h"
#include "format/gptq.h"

#include <stdio.h>

enum { WEIGHT, INVPERM, GROUPS, SCALE_MAX, SCALE, N_PARTS };

enum { WORD_ROWS = 48 /* as GPTQ's */, RUN = 32, SCALE_BITS = 4 };

static int parts(const mq_layer_shape *s, mq_part out[MQ_MAX_PARTS])
{
    int64_t groups = s->n_in / s->group, words = mq_bits_words(s->n_in, s->bits);
    int64_t columns = mq_exl2_columns(s->n_out);
    out[WEIGHT] = (mq_part){"q_weight", MQ_I32, 2, {words, columns}, WORD_ROWS};
    out[INVPERM] = (mq_part){"q_invperm", MQ_I32, 1, {s->n_in, 0}, s->n_in};
    out[GROUPS] = (mq_part){"q_groups", MQ_I16, 1, {2 * groups, 0}, 2 * groups};
    out[SCALE_MAX] = (mq_part){"q_scale_max", MQ_F16, 1, {groups, 0}, groups};
    out[SCALE] = (mq_part){"q_scale", MQ_I32, 2, {groups, columns * SCALE_BITS / 32}, groups};
    return N_PARTS;
}

static void pack_invperm(const mq_layer_shape *s, int32_t *out)
{
    for (int64_t k = 0; k < s->n_in; k++) out[k] = (int32_t)k;
}

static void pack_groups(const mq_layer_shape *s, int16_t *out)
{
    for (int64_t g = 0; g < s->n_in / s->group; g++) {
        out[2 * g] = (int16_t)s->bits;
        out[2 * g + 1] = (int16_t)mq_bits_words(g * s->group, s->bits);
    }
}

static void pack_roots(const mq_layer_codes *layer, uint32_t *out)
{
    const mq_layer_shape *s = &layer->shape;
    int64_t groups = s->n_in / s->group;
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t n = 0; n < s->n_out; n += RUN, out += SCALE_BITS) {
            uint8_t less_one[RUN];
            for (int64_t i = 0; i < RUN; i++) {
                float scale = layer->scales[(n + i) * groups + g];
                less_one[i] = (uint8_t)(mq_square_root(layer->largest[g], scale) - 1);
            }
            mq_bits_pack(less_one, RUN, SCALE_BITS, out);
        }
    }
}

static mq_status pack(const mq_layer_codes *layer, int part, int64_t r0, int64_t r1, void *out)
{
    const mq_layer_shape *s = &layer->shape;
    switch (part) {
    case WEIGHT: /* groups are whole words, so that one follows on the other as in GPTQ */
        mq_gptq_pack_qweight(layer->codes, s->n_out, s->n_in, s->bits, r0, r1, out);
        return MQ_OK;
    case INVPERM:
        pack_invperm(s, out);
        return MQ_OK;
    case GROUPS:
        pack_groups(s, out);
        return MQ_OK;
    case SCALE_MAX:
        return mq_from_f32(layer->largest, s->n_in / s->group, MQ_F16, out);
    default:
        pack_roots(layer, out);
        return MQ_OK;
    }
}

/* ExLlamaV2's kernels go by 32 columns and hold the scales of two groups of each 64; its tables of
 * columns and of what is left of a group count in 16 bits. */
static bool refuses(const mq_layer_shape *s, char *why, size_t bytes)
{
    enum { STEP = 32, MOST_COLUMNS = 65536, WIDEST_GROUP = 32767 };
    const char *reason = NULL;
    if (s->zero_points) reason = "it has no zero points";
    if (s->n_out % STEP != 0) reason = "it takes multiples of 32 output channels";
    if (s->group % STEP != 0) reason = "it takes groups of multiples of 32 columns";
    if (s->group > WIDEST_GROUP) reason = "it takes groups of at most 32767 columns";
    if (s->n_in > MOST_COLUMNS) reason = "it takes at most 65536 input columns";
    if (reason) snprintf(why, bytes, "%s", reason);
    return reason != NULL;
}

const mq_format mq_format_exl2 = {.name = "exl2",
                                  .form = MQ_PACKED_EXL2,
                                  .half_biases = true,
                                  .scales = MQ_SCALES_SQUARES,
                                  .columns = MQ_COLUMNS_NEVER,
                                  .parts = parts,
                                  .pack = pack,
                                  .refuses = refuses};
