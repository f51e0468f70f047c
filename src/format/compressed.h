#ifndef MQ_FORMAT_COMPRESSED_H
#define MQ_FORMAT_COMPRESSED_H

#include "base/dtype.h"

/* The compressed-tensors "pack-quantized" layout, b bits, N = n_out, K = n_in, G groups of K / G
 * columns: weight_packed I32 [N, ceil(K b / 32)], a stream of bits (format/bits.h) for every row;
 * weight_scale [N, G]; weight_zero_point I32 [ceil(N b / 32), G], a stream along N for every group,
 * only where there are zero points; weight_shape I64 [2] = {N, K}. Codes and zero points are stored
 * plus 2^(b-1), so that w[n][k] = scale[n][k G / K] * (code - zero), zero being 2^(b-1) without. */

/** The tensors of one packed layer as read from a checkpoint, borrowed. */
typedef struct mq_compressed_layer {
    const uint32_t *packed;
    const void *scale;
    mq_dtype scale_dtype;
    const uint32_t *zero_point; /* NULL: symmetric */
    int64_t n_out, n_in, n_groups;
    int bits;
} mq_compressed_layer;

/** Dequantises rows [n0, n1) of w (N, K) to f32: dst (n1 - n0, K). Errors: MQ_E_INPUT when a scale
 *  is not finite, or so large that a weight would not be, or of no floating-point type,
 * MQ_E_MEMORY. */
mq_status mq_compressed_dequantise(const mq_compressed_layer *layer, const char *name, int64_t n0,
                                   int64_t n1, float *dst);

/** What dequantising all rows would refuse, without the codes: layer->packed may be NULL. Cost:
 *  reads the scales once. */
mq_status mq_compressed_check(const mq_compressed_layer *layer, const char *name);

#endif
