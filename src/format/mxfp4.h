#ifndef MQ_FORMAT_MXFP4_H
#define MQ_FORMAT_MXFP4_H

#include "base/status.h"

#include <stdint.h>

/* Microscaling weights in 4-bit floats (OCP MX, E2M1): codes [N, K / 2] U8, column 2 i in the low
 * half of byte i; scales [N, K / 32] U8, powers of two, 2^(scale - 127). */

enum { MQ_MXFP4_BLOCK = 32 };

typedef struct mq_mxfp4_layer {
    const uint8_t *codes, *scale;
    int64_t n_out, n_in; /* n_in: a multiple of 32 */
    int64_t first, step; /* its row r is row first + step r of codes and scales */
} mq_mxfp4_layer;

/** Dequantises rows [n0, n1) of w (N, K) to f32: dst (n1 - n0, K). Exact, but below 2^-149, which
 *  becomes 0. Errors: MQ_E_INPUT for a scale that is no number (255), or so large that a weight
 *  would not be. */
mq_status mq_mxfp4_dequantise(const mq_mxfp4_layer *layer, const char *name, int64_t n0, int64_t n1,
                              float *dst);

/** What dequantising all rows would refuse; the codes are not read. */
mq_status mq_mxfp4_check(const mq_mxfp4_layer *layer, const char *name);

#endif
