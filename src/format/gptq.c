#include "format/gptq.h"

#include "base/checked.h"
#include "base/dtype.h"
#include "base/memory.h"
#include "format/bits.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum {
    TILE = 16,       /* columns at a time: one cache line of words */
    PACK_RUN = 1024, /* codes of one column packed at a time */
    READ_RUN = 256,  /* codes of one column dequantised at a time */
};

int mq_gptq_unit(int bits)
{
    return bits == 3 ? 32 : 32 / bits;
}

static int words_of_unit(int bits)
{
    return bits == 3 ? 3 : 1;
}

/* ---- packing --------------------------------------------------------------------------------- */

/* Word rows [r0, r1), at most PACK_RUN codes, of at most TILE columns: rows of codes are packed one
 * after the other and then turned, so that both sides move through memory in whole lines.
 * codes points to row n0, out to word row r0, column n0. */
static void pack_tile(const uint8_t *codes, int64_t n_in, int64_t n_columns, int bits, int64_t r0,
                      int64_t r1, int64_t stride, uint32_t *out)
{
    uint32_t turned[TILE][PACK_RUN / 32 * MQ_MAX_BITS];
    int64_t first = r0 / words_of_unit(bits) * mq_gptq_unit(bits);
    int64_t n =
        mq_min_i64(mq_ceil_div(r1 - r0, words_of_unit(bits)) * mq_gptq_unit(bits), n_in - first);
    for (int64_t c = 0; c < n_columns; c++) {
        mq_bits_pack(codes + c * n_in + first, n, bits, turned[c]);
    }
    for (int64_t r = 0; r < r1 - r0; r++) {
        for (int64_t c = 0; c < n_columns; c++) out[r * stride + c] = turned[c][r];
    }
}

void mq_gptq_pack_qweight(const uint8_t *codes, int64_t n_out, int64_t n_in, int bits, int64_t r0,
                          int64_t r1, uint32_t *out)
{
    int64_t step = (int64_t)PACK_RUN / 32 * bits;
    for (int64_t r = r0; r < r1; r += step) {
        for (int64_t c = 0; c < n_out; c += TILE) {
            pack_tile(codes + c * n_in, n_in, mq_min_i64(TILE, n_out - c), bits, r,
                      mq_min_i64(r + step, r1), n_out, out + (r - r0) * n_out + c);
        }
    }
}

void mq_gptq_pack_zeros(int64_t n_groups, int64_t n_out, int bits, int stored, uint32_t *out)
{
    int64_t n_words = mq_bits_words(n_out, bits), whole = n_out / 32 * bits;
    uint8_t codes[32];
    uint32_t full[MQ_MAX_BITS] = {0}, last[MQ_MAX_BITS] = {0};
    memset(codes, stored, sizeof codes);
    mq_bits_pack(codes, 32, bits, full);
    mq_bits_pack(codes, n_out % 32, bits, last);
    for (int64_t g = 0; g < n_groups; g++, out += n_words) {
        for (int64_t i = 0; i < n_words; i++) out[i] = i < whole ? full[i % bits] : last[i - whole];
    }
}

void mq_gptq_pack_zero_points(const uint8_t *zeros, int64_t n_out, int64_t n_groups, int bits,
                              uint32_t *out)
{
    for (int64_t g = 0; g < n_groups; g++, out += mq_bits_words(n_out, bits)) {
        for (int64_t c = 0; c < n_out; c += 32) {
            uint8_t codes[32];
            uint32_t words[MQ_MAX_BITS];
            int64_t n = mq_min_i64(32, n_out - c);
            for (int64_t i = 0; i < n; i++) codes[i] = zeros[(c + i) * n_groups + g];
            mq_bits_pack(codes, n, bits, words);
            memcpy(out + c / 32 * bits, words, (size_t)mq_bits_words(n, bits) * sizeof *out);
        }
    }
}

void mq_gptq_pack_scales(const float *scales, int64_t n_out, int64_t n_groups, uint16_t *out)
{
    for (int64_t c = 0; c < n_out; c += TILE) {
        int64_t end = mq_min_i64(c + TILE, n_out);
        for (int64_t g = 0; g < n_groups; g++) {
            for (int64_t i = c; i < end; i++) {
                out[g * n_out + i] = mq_f32_to_f16(scales[i * n_groups + g]);
            }
        }
    }
}

void mq_gptq_g_idx(int64_t n_in, int64_t group, int32_t *out)
{
    for (int64_t k = 0; k < n_in; k++) out[k] = (int32_t)(k / group);
}

/* ---- reading --------------------------------------------------------------------------------- */

mq_status mq_gptq_bits(int64_t qweight_rows, int64_t n_in, const char *name, int *bits)
{
    static const int known[] = {2, 3, 4, 8};
    int found = 0;
    for (int i = 0; i < 4; i++) {
        if (mq_bits_words(n_in, known[i]) != qweight_rows) continue;
        *bits = known[i];
        found++;
    }
    if (found == 1) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: qweight of %" PRId64 " rows for %" PRId64
                   " input channels %s; expected 2, 3, 4 or 8 bits",
                   name, qweight_rows, n_in,
                   found == 0 ? "fits no number of bits" : "fits several numbers of bits");
}

/* One call's constants. */
typedef struct unpacking {
    const mq_gptq_layer *layer;
    float (*scale)[TILE], (*zero)[TILE]; /* (n_groups, TILE) of the tile at hand */
} unpacking;

bool mq_gptq_is_symmetric(const mq_gptq_layer *layer)
{
    int64_t n_words = mq_bits_words(layer->n_out, layer->bits);
    for (int64_t g = 0; g < layer->n_groups; g++) {
        for (int64_t i = 0; i < layer->n_out; i++) {
            uint32_t stored = mq_bits_code(layer->qzeros + g * n_words, 1, i, layer->bits);
            if ((int)stored + layer->zero_offset != 1 << (layer->bits - 1)) return false;
        }
    }
    return true;
}

static mq_status scale_not_finite(const char *name, int64_t group, int64_t channel)
{
    return mq_fail(MQ_E_INPUT,
                   "%s: the scale of group %" PRId64 ", output channel %" PRId64 " is not finite",
                   name, group, channel);
}

/* Scales and zero points of the columns [c, c + n) for all groups. */
static mq_status fill_tables(const unpacking *u, const char *name, int64_t c, int64_t n)
{
    const mq_gptq_layer *layer = u->layer;
    int64_t zero_words = mq_bits_words(layer->n_out, layer->bits);
    for (int64_t g = 0; g < layer->n_groups; g++) {
        const uint32_t *zeros = layer->qzeros + g * zero_words;
        for (int64_t i = 0; i < n; i++) {
            float scale = mq_f16_to_f32(layer->scales[g * layer->n_out + c + i]);
            if (!isfinite(scale)) return scale_not_finite(name, g, c + i);
            u->scale[g][i] = scale;
            u->zero[g][i] =
                (float)((int)mq_bits_code(zeros, 1, c + i, layer->bits) + layer->zero_offset);
        }
    }
    return MQ_OK;
}

/* Input channels [k0, k1) of the columns [c, c + n): read along the lines of qweight, turned in a
 * small buffer, copied out row by row. dst points to (c, k0). */
static void unpack_tile(const unpacking *u, int64_t c, int64_t n, int64_t k0, int64_t k1,
                        float *dst)
{
    const mq_gptq_layer *layer = u->layer;
    const uint32_t mask = (1u << layer->bits) - 1u;
    float turned[TILE][READ_RUN + TILE]; /* padded: rows fall into different cache sets */
    for (int64_t k = k0; k < k1; k++) {
        int64_t at = k % 32 * layer->bits;
        const uint32_t *words =
            layer->qweight + (k / 32 * layer->bits + at / 32) * layer->n_out + c;
        const float *scale = u->scale[layer->g_idx[k]], *zero = u->zero[layer->g_idx[k]];
        int shift = (int)(at % 32), straddles = shift + layer->bits > 32;
        for (int64_t i = 0; i < n; i++) {
            uint32_t code = words[i] >> shift;
            if (straddles) code |= words[layer->n_out + i] << (32 - shift);
            turned[i][k - k0] = scale[i] * ((float)(code & mask) - zero[i]);
        }
    }
    for (int64_t i = 0; i < n; i++) {
        memcpy(dst + i * layer->n_in, turned[i], (size_t)(k1 - k0) * sizeof(float));
    }
}

static mq_status check_groups(const mq_gptq_layer *layer, const char *name)
{
    for (int64_t k = 0; k < layer->n_in; k++) {
        if (layer->g_idx[k] < 0 || layer->g_idx[k] >= layer->n_groups) {
            return mq_fail(MQ_E_INPUT,
                           "%s: g_idx[%" PRId64 "] = %" PRId32 " is outside [0, %" PRId64 ")", name,
                           k, layer->g_idx[k], layer->n_groups);
        }
    }
    return MQ_OK;
}

static mq_status unpack_rows(const unpacking *u, const char *name, int64_t n0, int64_t n1,
                             float *dst)
{
    int64_t n_in = u->layer->n_in;
    for (int64_t c = n0; c < n1; c += TILE) {
        int64_t n = mq_min_i64(TILE, n1 - c);
        MQ_TRY(fill_tables(u, name, c, n));
        for (int64_t k = 0; k < n_in; k += READ_RUN) {
            unpack_tile(u, c, n, k, mq_min_i64(k + READ_RUN, n_in), dst + (c - n0) * n_in + k);
        }
    }
    return MQ_OK;
}

mq_status mq_gptq_dequantise(const mq_gptq_layer *layer, const char *name, int64_t n0, int64_t n1,
                             float *dst)
{
    unpacking u = {.layer = layer};
    MQ_TRY(check_groups(layer, name));
    mq_status status = mq_alloc(layer->n_groups, sizeof *u.scale, "scales of a layer", &u.scale);
    if (status == MQ_OK) {
        status = mq_alloc(layer->n_groups, sizeof *u.zero, "zero points of a layer", &u.zero);
    }
    if (status == MQ_OK) status = unpack_rows(&u, name, n0, n1, dst);
    mq_free(&u.scale);
    mq_free(&u.zero);
    return status;
}

mq_status mq_gptq_check(const mq_gptq_layer *layer, const char *name)
{
    MQ_TRY(check_groups(layer, name));
    for (int64_t i = 0; i < layer->n_groups * layer->n_out; i++) {
        if (!isfinite(mq_f16_to_f32(layer->scales[i]))) {
            return scale_not_finite(name, i / layer->n_out, i % layer->n_out);
        }
    }
    return MQ_OK;
}
