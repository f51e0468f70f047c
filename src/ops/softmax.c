#include "ops/softmax.h"

#include "ops/rows.h"
#include "ops/vector.h"

#include <math.h>

static MQ_CLONES void vec_exp_row(float *x, int64_t n, float scale, float base)
{
    for (int64_t j = 0; j < n; j++) x[j] = mq_expf(x[j] * scale - base);
}

/* Sum of n values, n a multiple of 16, in 16 lanes. */
static MQ_CLONES float vec_lane_sum(const float *x, int64_t n)
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

static MQ_CLONES void vec_multiply(float *x, int64_t n, float factor)
{
    for (int64_t j = 0; j < n; j++) x[j] *= factor;
}

static MQ_CLONES void vec_divide(float *x, int64_t n, float divisor)
{
    for (int64_t j = 0; j < n; j++) x[j] /= divisor;
}

void mq_row_multiply(float *x, int64_t n, float factor)
{
    vec_multiply(x, n, factor);
}

void mq_row_divide(float *x, int64_t n, float divisor)
{
    vec_divide(x, n, divisor);
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
    float top = mq_row_largest(s + from, to - from) * scale;
    top = top > state->top ? top : state->top;
    /* Scores of -inf alone: 0 in place of the maximum, for inf - inf would be NaN. */
    float base = top == -INFINITY ? 0.0f : top;
    float factor = mq_expf(state->top - base);
    vec_exp_row(s + from, to - from, scale, base);
    memset(s, 0, (size_t)from * sizeof *s);
    memset(s + to, 0, (size_t)(width - to) * sizeof *s);
    state->top = top;
    state->total = state->total * factor + vec_lane_sum(s + from, to - from);
    return factor;
}
