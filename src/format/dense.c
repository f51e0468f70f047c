/* Dequantised weights in the source's type, for tools that read nothing packed. */
#include "base/dtype.h"
#include "base/memory.h"
#include "format/format.h"

enum { ROWS = 64 };

static int parts(const mq_layer_shape *s, mq_part out[MQ_MAX_PARTS])
{
    out[0] = (mq_part){"weight", s->dtype, 2, {s->n_out, s->n_in}, ROWS};
    return 1;
}

static void dequantise_group(const uint8_t *codes, int64_t n, float scale, int zero, float *out)
{
    for (int64_t k = 0; k < n; k++) out[k] = scale * (float)(codes[k] - zero);
}

static void dequantise_row(const mq_layer_codes *layer, int64_t r, float *out)
{
    const mq_layer_shape *s = &layer->shape;
    int64_t groups = s->n_in / s->group;
    for (int64_t i = 0; i < groups; i++) {
        int64_t g = r * groups + i;
        int zero = layer->zeros ? layer->zeros[g] : 1 << (s->bits - 1);
        dequantise_group(layer->codes + r * s->n_in + i * s->group, s->group, layer->scales[g],
                         zero, out + i * s->group);
    }
    for (int64_t k = 0; layer->column_scale && k < s->n_in; k++) out[k] *= layer->column_scale[k];
}

static mq_status pack(const mq_layer_codes *layer, int part, int64_t r0, int64_t r1, void *out)
{
    const mq_layer_shape *s = &layer->shape;
    float *row = NULL;
    mq_status status = mq_alloc(s->n_in, sizeof *row, "a row", &row);
    (void)part;
    for (int64_t r = r0; r < r1 && status == MQ_OK; r++) {
        dequantise_row(layer, r, row);
        char *to = (char *)out + (size_t)((r - r0) * s->n_in) * mq_dtype_size(s->dtype);
        status = mq_from_f32(row, s->n_in, s->dtype, to);
    }
    mq_free(&row);
    return status;
}

const mq_format mq_format_dense = {
    .name = "dense", .columns = MQ_COLUMNS_IN_WEIGHTS, .parts = parts, .pack = pack};
