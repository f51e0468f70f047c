#ifndef MQ_FORMAT_EXL2_H
#define MQ_FORMAT_EXL2_H

#include "base/status.h"

#include <stdint.h>

/* ExLlamaV2's EXL2 layout. K = n_in, N = n_out, P = N up to a multiple of 32, G groups of rows of
 * the turned matrix (K, N), which may be permuted and of several widths, the widest first:
 * q_weight I32 [R, P], for every group a stream of bits (format/bits.h) down its rows; q_invperm
 * I32 [K], the row that input channel k is; q_groups I16 [2 G], (bits, first of the R) of a group;
 * q_scale I32 [G, P / 8], 4-bit roots less one along N; q_scale_max F16 [G]. With the scales of
 * base/squares.h, largest being q_scale_max[g]: w[n][k] = scale(q_scale[g][n] + 1) (code -
 * 2^(b-1)). What is written here has one width, no permutation and no padding. */

/** The tensors of one packed layer as read from a checkpoint, borrowed. */
typedef struct mq_exl2_layer {
    const uint32_t *weight, *scale;
    const int32_t *invperm;
    const uint16_t *groups;
    const uint16_t *scale_max;
    int64_t n_out, n_in, n_groups;
    int64_t n_words; /* rows of q_weight */
} mq_exl2_layer;

/** Columns of q_weight for n_out output channels. */
int64_t mq_exl2_columns(int64_t n_out);

/** Dequantises rows [n0, n1) of w (N, K) to f32: dst (n1 - n0, K). The product of scale and code is
 *  not rounded to half precision. Errors: MQ_E_INPUT when q_invperm is no permutation, the groups
 *  do not make up q_weight and K as ExLlamaV2 reads them, or a q_scale_max is negative or not
 *  finite; MQ_E_MEMORY. */
mq_status mq_exl2_dequantise(const mq_exl2_layer *layer, const char *name, int64_t n0, int64_t n1,
                             float *dst);

/** What dequantising would refuse, without the codes: layer->weight may be NULL. Cost: reads all
 * but the roots once. */
mq_status mq_exl2_check(const mq_exl2_layer *layer, const char *name);

#endif
