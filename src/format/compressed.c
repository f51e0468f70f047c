#include "format/compressed.h"
#include "base/checked.h"
#include "base/memory.h"
#include "format/bits.h"
#include "format/format.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PACKED, SCALE, SHAPE, ZERO_POINT, N_PARTS };

enum { ROWS = 64, RUN = 32 /* codes that fill whole words */ };

static mq_dtype scale_type(const mq_layer_shape *s)
{
    return s->dtype == MQ_F16 ? MQ_F16 : MQ_BF16;
}

static int parts(const mq_layer_shape *s, mq_part out[MQ_MAX_PARTS])
{
    int64_t groups = s->n_in / s->group, words = mq_bits_words(s->n_out, s->bits);
    out[PACKED] =
        (mq_part){"weight_packed", MQ_I32, 2, {s->n_out, mq_bits_words(s->n_in, s->bits)}, ROWS};
    out[SCALE] = (mq_part){"weight_scale", scale_type(s), 2, {s->n_out, groups}, s->n_out};
    out[SHAPE] = (mq_part){"weight_shape", MQ_I64, 1, {2, 0}, 2};
    out[ZERO_POINT] = (mq_part){"weight_zero_point", MQ_I32, 2, {words, groups}, words};
    return s->zero_points ? N_PARTS : ZERO_POINT;
}

/* A stored code is the signed one plus 2^(b-1): the solver's. */
static void pack_row(const uint8_t *codes, int64_t n, int bits, uint32_t *out)
{
    int64_t whole = n / RUN * RUN, left = mq_bits_words(n - whole, bits);
    uint32_t last[MQ_MAX_BITS];
    mq_bits_pack(codes, whole, bits, out);
    if (left == 0) return;
    mq_bits_pack(codes + whole, n - whole, bits, last);
    memcpy(out + whole / RUN * bits, last, (size_t)left * sizeof *out);
}

/* Zero points are packed along the rows: one stream for every group. */
static void pack_zeros(const mq_layer_codes *layer, uint32_t *out)
{
    const mq_layer_shape *s = &layer->shape;
    int64_t groups = s->n_in / s->group;
    for (int64_t n = 0; n < s->n_out; n += RUN) {
        int64_t count = mq_min_i64(RUN, s->n_out - n), words = mq_bits_words(count, s->bits);
        for (int64_t g = 0; g < groups; g++) {
            uint8_t zeros[RUN];
            uint32_t packed[MQ_MAX_BITS];
            for (int64_t i = 0; i < count; i++) zeros[i] = layer->zeros[(n + i) * groups + g];
            mq_bits_pack(zeros, count, s->bits, packed);
            for (int64_t w = 0; w < words; w++)
                out[(n / RUN * s->bits + w) * groups + g] = packed[w];
        }
    }
}

static mq_status pack(const mq_layer_codes *layer, int part, int64_t r0, int64_t r1, void *out)
{
    const mq_layer_shape *s = &layer->shape;
    int64_t words = mq_bits_words(s->n_in, s->bits);
    switch (part) {
    case PACKED:
        for (int64_t r = r0; r < r1; r++) {
            pack_row(layer->codes + r * s->n_in, s->n_in, s->bits,
                     (uint32_t *)out + (r - r0) * words);
        }
        return MQ_OK;
    case SCALE:
        return mq_from_f32(layer->scales, s->n_out * (s->n_in / s->group), scale_type(s), out);
    case SHAPE:
        memcpy(out, (int64_t[2]){s->n_out, s->n_in}, 2 * sizeof(int64_t));
        return MQ_OK;
    default:
        pack_zeros(layer, out);
        return MQ_OK;
    }
}

static bool refuses(const mq_layer_shape *s, char *why, size_t bytes)
{
    if (s->bits != 3) return false;
    snprintf(why, bytes, "its readers take 2, 4 and 8 bits, not 3");
    return true;
}

const mq_format mq_format_compressed = {.name = "compressed-tensors",
                                        .form = MQ_PACKED_COMPRESSED,
                                        .scales = MQ_SCALES_AS_SOURCE,
                                        .parts = parts,
                                        .pack = pack,
                                        .refuses = refuses};

/* ---- reading --------------------------------------------------------------------------------- */

/* BF16 reaches further than a weight may: the scale times a code has to stay in f32. */
static mq_status check_scales(const float *scale, int64_t n_groups, const char *name, int64_t row)
{
    for (int64_t g = 0; g < n_groups; g++) {
        if (fabsf(scale[g]) <= FLT_MAX / 256) continue;
        return mq_fail(MQ_E_INPUT,
                       "%s: the scale of group %" PRId64 ", output channel %" PRId64
                       " is not finite, or too large",
                       name, g, row);
    }
    return MQ_OK;
}

static void dequantise_row(const mq_compressed_layer *l, const float *scale, int64_t row,
                           float *dst)
{
    const uint32_t *words = l->packed + row * mq_bits_words(l->n_in, l->bits);
    int64_t group = l->n_in / l->n_groups;
    for (int64_t g = 0; g < l->n_groups; g++) {
        int zero = 1 << (l->bits - 1);
        if (l->zero_point) {
            zero = (int)mq_bits_code(l->zero_point + g, l->n_groups, row, l->bits);
        }
        for (int64_t k = g * group; k < (g + 1) * group; k++) {
            dst[k] = scale[g] * (float)((int)mq_bits_code(words, 1, k, l->bits) - zero);
        }
    }
}

static mq_status read_scales(const mq_compressed_layer *layer, const char *name, int64_t row,
                             float *scale)
{
    size_t row_bytes = (size_t)layer->n_groups * mq_dtype_size(layer->scale_dtype);
    const char *stored = (const char *)layer->scale + (size_t)row * row_bytes;
    MQ_TRY(mq_to_f32(stored, layer->scale_dtype, layer->n_groups, scale));
    return check_scales(scale, layer->n_groups, name, row);
}

mq_status mq_compressed_dequantise(const mq_compressed_layer *layer, const char *name, int64_t n0,
                                   int64_t n1, float *dst)
{
    float *scale = NULL;
    mq_status status = mq_alloc(layer->n_groups, sizeof *scale, "scales of a row", &scale);
    for (int64_t r = n0; r < n1 && status == MQ_OK; r++) {
        status = read_scales(layer, name, r, scale);
        if (status == MQ_OK) dequantise_row(layer, scale, r, dst + (r - n0) * layer->n_in);
    }
    mq_free(&scale);
    return status;
}

mq_status mq_compressed_check(const mq_compressed_layer *layer, const char *name)
{
    float *scale = NULL;
    mq_status status = mq_alloc(layer->n_groups, sizeof *scale, "scales of a row", &scale);
    for (int64_t r = 0; r < layer->n_out && status == MQ_OK; r++) {
        status = read_scales(layer, name, r, scale);
    }
    mq_free(&scale);
    return status;
}
