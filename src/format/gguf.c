#include "format/gguf.h"

#include "format/format.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { ROWS = 64, HALF = MQ_BLOCK_WEIGHTS / 2 };

static const struct {
    mq_dtype dtype;
    uint32_t number;
} types[] = {{MQ_F32, 0}, {MQ_F16, 1}, {MQ_BF16, 30}, {MQ_Q4_0, 2}, {MQ_Q4_1, 3}, {MQ_Q8_0, 8}};
enum { N_TYPES = sizeof types / sizeof *types };

bool mq_gguf_type_number(mq_dtype dtype, uint32_t *number)
{
    for (int i = 0; i < N_TYPES; i++) {
        *number = types[i].number;
        if (types[i].dtype == dtype) return true;
    }
    return false;
}

bool mq_gguf_type_find(uint32_t number, mq_dtype *dtype)
{
    for (int i = 0; i < N_TYPES; i++) {
        *dtype = types[i].dtype;
        if (types[i].number == number) return true;
    }
    return false;
}

/* ---- packing --------------------------------------------------------------------------------- */

static mq_dtype block_type(const mq_layer_shape *s)
{
    if (s->bits == 8) return MQ_Q8_0;
    return s->zero_points ? MQ_Q4_1 : MQ_Q4_0;
}

static int parts(const mq_layer_shape *s, mq_part out[MQ_MAX_PARTS])
{
    out[0] = (mq_part){"weight", block_type(s), 2, {s->n_out, s->n_in / MQ_BLOCK_WEIGHTS}, ROWS};
    return 1;
}

static char *put_half(char *to, float value)
{
    uint16_t bits = mq_f32_to_f16(value);
    return (char *)memcpy(to, &bits, sizeof bits) + sizeof bits;
}

static void pack_nibbles(const uint8_t *codes, uint8_t *to)
{
    for (int i = 0; i < HALF; i++) to[i] = (uint8_t)(codes[i] | codes[i + HALF] << 4);
}

static void pack_bytes(const uint8_t *codes, int8_t *to)
{
    for (int i = 0; i < MQ_BLOCK_WEIGHTS; i++) to[i] = (int8_t)(codes[i] - 128);
}

/* m is exact: with zero points of 4 bits, scales have 7 significant bits (MQ_SCALES_SHORT). */
static void pack_block(mq_dtype type, const uint8_t *codes, float scale, int zero, char *to)
{
    to = put_half(to, scale);
    if (type == MQ_Q4_1) to = put_half(to, -scale * (float)zero);
    if (type == MQ_Q8_0) {
        pack_bytes(codes, (int8_t *)to);
    } else {
        pack_nibbles(codes, (uint8_t *)to);
    }
}

static mq_status pack(const mq_layer_codes *layer, int part, int64_t r0, int64_t r1, void *out)
{
    const mq_layer_shape *s = &layer->shape;
    mq_dtype type = block_type(s);
    int64_t groups = s->n_in / s->group, blocks = s->n_in / MQ_BLOCK_WEIGHTS;
    char *to = out;
    (void)part;
    for (int64_t r = r0; r < r1; r++) {
        int64_t row = mq_gguf_source_row(r, s->head_rows);
        for (int64_t b = 0; b < blocks; b++, to += mq_dtype_size(type)) {
            int64_t k = b * MQ_BLOCK_WEIGHTS, g = row * groups + k / s->group;
            int zero = layer->zeros ? layer->zeros[g] : 1 << (s->bits - 1);
            pack_block(type, layer->codes + row * s->n_in + k, layer->scales[g], zero, to);
        }
    }
    return MQ_OK;
}

void mq_gguf_turn_rows(const void *rows, int64_t n, size_t row_bytes, int64_t head_rows, void *out)
{
    for (int64_t r = 0; r < n; r++) {
        size_t from = (size_t)mq_gguf_source_row(r, head_rows) * row_bytes;
        memcpy((char *)out + (size_t)r * row_bytes, (const char *)rows + from, row_bytes);
    }
}

static bool refuses(const mq_layer_shape *s, char *why, size_t bytes)
{
    if (s->bits != 4 && s->bits != 8) {
        snprintf(why, bytes, "its blocks have 4 or 8 bits (an average: --widths 4,8)");
    } else if (s->bits == 8 && s->zero_points) {
        snprintf(why, bytes, "its blocks of 8 bits have no zero points");
    } else if (s->n_in % MQ_BLOCK_WEIGHTS != 0) {
        snprintf(why, bytes, "%" PRId64 " input columns are not a multiple of its blocks of %d",
                 s->n_in, MQ_BLOCK_WEIGHTS);
    } else if (s->group % MQ_BLOCK_WEIGHTS != 0) {
        snprintf(why, bytes, "groups of %" PRId64 " are not a multiple of its blocks of %d",
                 s->group, MQ_BLOCK_WEIGHTS);
    } else {
        return false;
    }
    return true;
}

/* ---- checking -------------------------------------------------------------------------------- */

mq_status mq_gguf_check_blocks(mq_dtype dtype, const void *blocks, int64_t n, const char *name,
                               int64_t first)
{
    int n_halves = dtype == MQ_Q4_1 ? 2 : 1;
    for (int64_t i = 0; i < n; i++) {
        uint16_t half[2];
        memcpy(half, (const char *)blocks + (size_t)i * mq_dtype_size(dtype), sizeof half);
        for (int h = 0; h < n_halves; h++) {
            if (isfinite(mq_f16_to_f32(half[h]))) continue;
            return mq_fail(MQ_E_INPUT, "%s: the %s of block %" PRId64 " is not finite", name,
                           h == 0 ? "scale" : "minimum", first + i);
        }
    }
    return MQ_OK;
}

const mq_format mq_format_gguf = {.name = "gguf",
                                  .gguf = true,
                                  .scales = MQ_SCALES_SHORT,
                                  .group = MQ_BLOCK_WEIGHTS,
                                  .parts = parts,
                                  .pack = pack,
                                  .refuses = refuses};
