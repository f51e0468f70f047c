#ifndef MQ_FORMAT_GPTQ_H
#define MQ_FORMAT_GPTQ_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

/* The GPTQ checkpoint layout: bytes only, no I/O. v2 stores zero points as they are, v1 less one. K
 * = n_in, N = n_out, b = bits, G = ceil(K / group). Codes are unsigned, (N, K) row-major uint8, in
 * [0, 2^b - 1]. qweight I32 [ceil(K b / 32), N]    qzeros I32 [G, ceil(N b / 32)] scales  F16 [G,
 * N]                 g_idx  I32 [K] = k / group w[n][k] = scale[k / group][n] * (code - zero).
 * Along K (and N for zeros) codes are a stream of bits (format/bits.h). */

/** Rows of codes (along K) that fill whole words: 32 / b codes, 32 for 3 bits. */
int mq_gptq_unit(int bits);

/** Packs rows [r0, r1) of qweight (word rows), all N columns, from codes (N, K): word rows r0 and
 *  r1 are multiples of one word (2, 4, 8 bits) or of three (3 bits), but for the end of the tensor.
 *  out (r1 - r0, N) uint32. */
void mq_gptq_pack_qweight(const uint8_t *codes, int64_t n_out, int64_t n_in, int bits, int64_t r0,
                          int64_t r1, uint32_t *out);

/** Packs qzeros [G, words(N)] that hold `stored` everywhere: symmetric layers. */
void mq_gptq_pack_zeros(int64_t n_groups, int64_t n_out, int bits, int stored, uint32_t *out);

/** Packs v2 qzeros [G, words(N)] of zero points (N, G), each in [0, 2^b - 1]. v1 cannot hold a 0:
 *  it would be stored as 2^b - 1, which some readers take for 2^b and others for 0. */
void mq_gptq_pack_zero_points(const uint8_t *zeros, int64_t n_out, int64_t n_groups, int bits,
                              uint32_t *out);

/** Transposes scales (N, G) f32 (values on the F16 grid) to [G, N] F16. */
void mq_gptq_pack_scales(const float *scales, int64_t n_out, int64_t n_groups, uint16_t *out);

void mq_gptq_g_idx(int64_t n_in, int64_t group, int32_t *out);

/** The tensors of one packed layer as read from a checkpoint, borrowed. */
typedef struct mq_gptq_layer {
    const uint32_t *qweight, *qzeros;
    const uint16_t *scales;
    const int32_t *g_idx;
    int64_t n_out, n_in, n_groups;
    int bits;
    int zero_offset; /* 1 for v1 (stored zero - 1), 0 for v2 */
} mq_gptq_layer;

/** Bits from shapes: qweight rows, and K from g_idx. Errors: MQ_E_INPUT when nothing in {2,3,4,8}
 *  fits, or several do (possible below 32 input channels). `name` is for the message. */
mq_status mq_gptq_bits(int64_t qweight_rows, int64_t n_in, const char *name, int *bits);

/** True when every zero point is 2^(b-1). Cost: reads qzeros once. */
bool mq_gptq_is_symmetric(const mq_gptq_layer *layer);

/** Dequantises rows [n0, n1) of w (N, K) to f32: dst (n1 - n0, K). Any g_idx. A stored zero point
 *  z reads as z + zero_offset, without a mask. Cost: reads qweight once; 128 bytes of tables a
 * group. Errors: MQ_E_INPUT when a g_idx is outside [0, G) or a scale is not finite. */
mq_status mq_gptq_dequantise(const mq_gptq_layer *layer, const char *name, int64_t n0, int64_t n1,
                             float *dst);

/** What dequantising all rows would refuse, without the codes: layer->qweight may be NULL. Cost:
 *  reads scales and g_idx once. */
mq_status mq_gptq_check(const mq_gptq_layer *layer, const char *name);

#endif
