#ifndef MQ_FORMAT_FP8_H
#define MQ_FORMAT_FP8_H

#include "base/dtype.h"

/* Weights in F8_E4M3 with scales: weight [N, K], scale [ceil(N / rows), ceil(K / columns)], one for
 * every block of rows x columns weights. One scale in all is a block of N x K, one for each output
 * channel 1 x K; DeepSeek's blocks are 128 x 128. w[n][k] = scale[n / rows][k / columns] * weight,
 * also where the scale is called weight_scale_inv. */

typedef struct mq_fp8_layer {
    const uint8_t *codes;
    const void *scale;
    mq_dtype scale_dtype;
    int64_t n_out, n_in;
    int64_t rows, columns; /* of a block */
} mq_fp8_layer;

/** The number that a byte of F8_E4M3 stands for; NaN for 0x7F and 0xFF (there is no inf). */
float mq_f8_e4m3_to_f32(uint8_t code);

/** Dequantises rows [n0, n1) of w (N, K) to f32: dst (n1 - n0, K). Errors: MQ_E_INPUT when a scale
 *  or a weight is not finite, naming its place, or a scale is so large that a weight would not be;
 *  MQ_E_MEMORY. */
mq_status mq_fp8_dequantise(const mq_fp8_layer *layer, const char *name, int64_t n0, int64_t n1,
                            float *dst);

#endif
