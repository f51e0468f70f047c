#include "format/mxfp4.h"

#include <inttypes.h>
#include <math.h>

/* 6 * 2^125 is the largest that f32 holds. */
enum { BIAS = 127, LARGEST_SCALE = BIAS + 125 };

static const float values[16] = {0,     0.5f,  1,     1.5f,  2,     3,     4,     6,
                                 -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

static mq_status check_scale(uint8_t scale, const char *name, int64_t row, int64_t block)
{
    if (scale <= LARGEST_SCALE) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: the scale of block %" PRId64 ", output channel %" PRId64
                   " is not finite, or too large",
                   name, block, row);
}

static mq_status dequantise_row(const mq_mxfp4_layer *l, const char *name, int64_t row, float *dst)
{
    int64_t at = l->first + l->step * row;
    const uint8_t *codes = l->codes + at * (l->n_in / 2);
    const uint8_t *scales = l->scale + at * (l->n_in / MQ_MXFP4_BLOCK);
    for (int64_t b = 0; b < l->n_in / MQ_MXFP4_BLOCK; b++) {
        MQ_TRY(check_scale(scales[b], name, row, b));
        float scale = ldexpf(1, scales[b] - BIAS);
        for (int64_t k = b * MQ_MXFP4_BLOCK; k < (b + 1) * MQ_MXFP4_BLOCK; k += 2) {
            dst[k] = scale * values[codes[k / 2] & 15];
            dst[k + 1] = scale * values[codes[k / 2] >> 4];
        }
    }
    return MQ_OK;
}

mq_status mq_mxfp4_dequantise(const mq_mxfp4_layer *layer, const char *name, int64_t n0, int64_t n1,
                              float *dst)
{
    for (int64_t r = n0; r < n1; r++) {
        MQ_TRY(dequantise_row(layer, name, r, dst + (r - n0) * layer->n_in));
    }
    return MQ_OK;
}

mq_status mq_mxfp4_check(const mq_mxfp4_layer *layer, const char *name)
{
    int64_t blocks = layer->n_in / MQ_MXFP4_BLOCK;
    for (int64_t r = 0; r < layer->n_out; r++) {
        const uint8_t *scales = layer->scale + (layer->first + layer->step * r) * blocks;
        for (int64_t b = 0; b < blocks; b++) MQ_TRY(check_scale(scales[b], name, r, b));
    }
    return MQ_OK;
}
