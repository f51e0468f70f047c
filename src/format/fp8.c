#include "format/fp8.h"

#include "base/checked.h"
#include "base/memory.h"

#include <inttypes.h>
#include <math.h>

enum { SIGN = 0x80, MANTISSA_BITS = 3, BIAS = 7, LARGEST = 448 };

float mq_f8_e4m3_to_f32(uint8_t code)
{
    int exponent = (code & ~SIGN) >> MANTISSA_BITS, rest = code & ((1 << MANTISSA_BITS) - 1);
    float size = exponent == 0 ? ldexpf((float)rest, 1 - BIAS - MANTISSA_BITS)
                               : ldexpf((float)(rest + (1 << MANTISSA_BITS)),
                                        exponent - BIAS - MANTISSA_BITS);
    if ((code & ~SIGN) == 0x7F) size = NAN;
    return code & SIGN ? -size : size;
}

static mq_status check_scale(float scale, const char *name, int64_t row, int64_t block)
{
    if (fabsf(scale) <= 0x1.FEp127f / LARGEST) return MQ_OK; /* weights may become BF16 */
    return mq_fail(MQ_E_INPUT,
                   "%s: the scale of output channel %" PRId64 ", block %" PRId64
                   " is not finite, or too large",
                   name, row, block);
}

static mq_status check_row(const float *w, int64_t n, const char *name, int64_t row)
{
    for (int64_t k = 0; k < n; k++) {
        if (!isnan(w[k])) continue;
        return mq_fail(MQ_E_INPUT,
                       "%s: row %" PRId64 ", column %" PRId64 " is NaN: the checkpoint is damaged",
                       name, row, k);
    }
    return MQ_OK;
}

static mq_status dequantise_row(const mq_fp8_layer *l, const char *name, const float table[256],
                                int64_t row, float *scale, float *dst)
{
    const uint8_t *codes = l->codes + row * l->n_in;
    int64_t n = mq_ceil_div(l->n_in, l->columns);
    size_t row_bytes = (size_t)n * mq_dtype_size(l->scale_dtype);
    const char *stored = (const char *)l->scale + (size_t)(row / l->rows) * row_bytes;
    MQ_TRY(mq_to_f32(stored, l->scale_dtype, n, scale));
    for (int64_t b = 0; b < n; b++) {
        int64_t end = mq_min_i64((b + 1) * l->columns, l->n_in);
        MQ_TRY(check_scale(scale[b], name, row, b));
        for (int64_t k = b * l->columns; k < end; k++) dst[k] = scale[b] * table[codes[k]];
    }
    return check_row(dst, l->n_in, name, row);
}

mq_status mq_fp8_dequantise(const mq_fp8_layer *layer, const char *name, int64_t n0, int64_t n1,
                            float *dst)
{
    float *scale = NULL, table[256];
    for (int code = 0; code < 256; code++) table[code] = mq_f8_e4m3_to_f32((uint8_t)code);
    mq_status status = mq_alloc(mq_ceil_div(layer->n_in, layer->columns), sizeof *scale,
                                "scales of a row", &scale);
    for (int64_t r = n0; r < n1 && status == MQ_OK; r++) {
        status = dequantise_row(layer, name, table, r, scale, dst + (r - n0) * layer->n_in);
    }
    mq_free(&scale);
    return status;
}
