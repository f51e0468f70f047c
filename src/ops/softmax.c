#include "ops/softmax.h"

#include "ops/vector.h"

#include <math.h>

enum { WIDE = 4 * MQ_LANES }; /* independent lanes hide the latency of a comparison */

/* The largest of n values, n a multiple of 16; NaN set aside. */
static MQ_CLONES float largest(const float *x, int64_t n)
{
    float lane[WIDE], top = -INFINITY;
    for (int l = 0; l < WIDE; l++) lane[l] = -INFINITY;
    int64_t j = 0;
    for (; j + WIDE <= n; j += WIDE) {
        for (int l = 0; l < WIDE; l++) lane[l] = x[j + l] > lane[l] ? x[j + l] : lane[l];
    }
    for (; j < n; j++) top = x[j] > top ? x[j] : top;
    for (int l = 0; l < WIDE; l++) top = lane[l] > top ? lane[l] : top;
    return top;
}

static MQ_CLONES void exp_row(float *x, int64_t n, float scale, float base)
{
    for (int64_t j = 0; j < n; j++) x[j] = mq_expf(x[j] * scale - base);
}

/* Sum of n values, n a multiple of 16, in 16 lanes. */
static MQ_CLONES float lane_sum(const float *x, int64_t n)
{
    mq_vec sum = {0}, v;
    for (int64_t j = 0; j < n; j += MQ_LANES) {
        MQ_VEC_LOAD(v, x + j);
        sum += v;
    }
    float total = 0;
    for (int l = 0; l < MQ_LANES; l++) total += sum[l];
    return total;
}

static MQ_CLONES void multiply(float *x, int64_t n, float factor)
{
    for (int64_t j = 0; j < n; j++) x[j] *= factor;
}

static MQ_CLONES void divide(float *x, int64_t n, float divisor)
{
    for (int64_t j = 0; j < n; j++) x[j] /= divisor;
}

void mq_row_multiply(float *x, int64_t n, float factor)
{
    multiply(x, n, factor);
}

void mq_row_divide(float *x, int64_t n, float divisor)
{
    divide(x, n, divisor);
}

float mq_softmax_chunk(mq_softmax *state, float *s, int64_t width, int64_t lo, int64_t hi,
                       float scale)
{
    if (lo >= hi) {
        memset(s, 0, (size_t)width * sizeof *s);
        return 1;
    }
    int64_t from = lo / MQ_LANES * MQ_LANES, to = (hi + MQ_LANES - 1) / MQ_LANES * MQ_LANES;
    for (int64_t j = from; j < lo; j++) s[j] = -INFINITY;
    for (int64_t j = hi; j < to; j++) s[j] = -INFINITY;
    float top = largest(s + from, to - from) * scale;
    top = top > state->top ? top : state->top;
    /* Scores of -inf alone: 0 in place of the maximum, for inf - inf would be NaN. */
    float base = top == -INFINITY ? 0.0f : top;
    float factor = mq_expf(state->top - base);
    exp_row(s + from, to - from, scale, base);
    memset(s, 0, (size_t)from * sizeof *s);
    memset(s + to, 0, (size_t)(width - to) * sizeof *s);
    state->top = top;
    state->total = state->total * factor + lane_sum(s + from, to - from);
    return factor;
}
