#ifndef MQ_OPS_SOFTMAX_H
#define MQ_OPS_SOFTMAX_H

#include <stdint.h>

/* Private to src/ops: the softmax of one query of attention, chunk of keys by chunk of keys. */

/** Largest scaled score so far (start: -INFINITY) and sum of exp(score - top) (start: 0). */
typedef struct mq_softmax {
    float top, total;
} mq_softmax;

/** Turns the raw scores s of one chunk into exp(scale * s - top), where [lo, hi) of [0, width) is
 *  visible and the rest becomes 0. width is a multiple of 16; scale > 0. Returns the factor by
 *  which what was summed over former chunks has to be multiplied. */
float mq_softmax_chunk(mq_softmax *state, float *s, int64_t width, int64_t lo, int64_t hi,
                       float scale);

/** x[j] *= factor and x[j] /= divisor. */
void mq_row_multiply(float *x, int64_t n, float factor);
void mq_row_divide(float *x, int64_t n, float divisor);

#endif
