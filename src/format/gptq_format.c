/* GPTQ, v1 and v2: the same tensors but for the zero points. */
#include "format/bits.h"
#include "format/format.h"
#include "format/gptq.h"

enum { QWEIGHT, QZEROS, SCALES, G_IDX, N_PARTS };

enum { WORD_ROWS = 48 }; /* a multiple of the three words that 32 codes of 3 bits take */

static int parts(const mq_layer_shape *s, mq_part out[MQ_MAX_PARTS])
{
    int64_t groups = s->n_in / s->group;
    out[QWEIGHT] =
        (mq_part){"qweight", MQ_I32, 2, {mq_bits_words(s->n_in, s->bits), s->n_out}, WORD_ROWS};
    out[QZEROS] =
        (mq_part){"qzeros", MQ_I32, 2, {groups, mq_bits_words(s->n_out, s->bits)}, groups};
    out[SCALES] = (mq_part){"scales", MQ_F16, 2, {groups, s->n_out}, groups};
    out[G_IDX] = (mq_part){"g_idx", MQ_I32, 1, {s->n_in, 0}, s->n_in};
    return N_PARTS;
}

/* v1 stores zero points less one. */
static void pack_zeros(const mq_layer_codes *layer, int less, uint32_t *out)
{
    const mq_layer_shape *s = &layer->shape;
    int64_t groups = s->n_in / s->group;
    if (layer->zeros) {
        mq_gptq_pack_zero_points(layer->zeros, s->n_out, groups, s->bits, out);
    } else {
        mq_gptq_pack_zeros(groups, s->n_out, s->bits, (1 << (s->bits - 1)) - less, out);
    }
}

static mq_status pack(const mq_layer_codes *layer, int part, int64_t r0, int64_t r1, int less,
                      void *out)
{
    const mq_layer_shape *s = &layer->shape;
    switch (part) {
    case QWEIGHT:
        mq_gptq_pack_qweight(layer->codes, s->n_out, s->n_in, s->bits, r0, r1, out);
        break;
    case QZEROS:
        pack_zeros(layer, less, out);
        break;
    case SCALES:
        mq_gptq_pack_scales(layer->scales, s->n_out, s->n_in / s->group, out);
        break;
    default:
        mq_gptq_g_idx(s->n_in, s->group, out);
        break;
    }
    return MQ_OK;
}

static mq_status pack_v1(const mq_layer_codes *layer, int part, int64_t r0, int64_t r1, void *out)
{
    return pack(layer, part, r0, r1, 1, out);
}

static mq_status pack_v2(const mq_layer_codes *layer, int part, int64_t r0, int64_t r1, void *out)
{
    return pack(layer, part, r0, r1, 0, out);
}

const mq_format mq_format_gptq = {
    .name = "gptq", .form = MQ_PACKED_GPTQ, .half_biases = true, .parts = parts, .pack = pack_v1};
const mq_format mq_format_gptq_v2 = {.name = "gptq_v2",
                                     .form = MQ_PACKED_GPTQ,
                                     .half_biases = true,
                                     .parts = parts,
                                     .pack = pack_v2};
