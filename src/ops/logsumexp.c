#include "ops/kernels.h"
#include "ops/rows.h"
#include "ops/vector.h"

#include <math.h>

/* exp(x) for x <= 0 within 2 units of the last place of f64; 0 below -708, where f64 turns
 * subnormal; NaN for NaN. Branch-free, like mq_expf. */
MQ_INLINE double exp_below_zero(double x)
{
    const double magic = 0x1.8p52;
    union {
        double f;
        uint64_t u;
    } n, scale;
    double y = x < -708.0 ? -708.0 : x;
    n.f = y * 0x1.71547652b82fep0 + magic;
    double k = n.f - magic;
    double r = y - k * 0x1.62e42feep-1; /* ln 2 in two parts; k times the first is exact */
    r = r - k * 0x1.a39ef35793c76p-33;
    /* Taylor: |r| <= ln 2 / 2, so the first term left out is below 2^-56 of the result */
    double p = 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * (r * r) + r + 1.0;
    scale.u = (n.u + 1023) << 52;
    return x < -708.0 ? 0.0 : p * scale.f;
}

/* sum of exp(x - top) in 16 lanes. */
static MQ_CLONES double vec_exp_sum(const float *x, int64_t n, double top)
{
    double lane[MQ_LANES] = {0}, e[MQ_LANES], sum = 0;
    int64_t j = 0;
    for (; j + MQ_LANES <= n; j += MQ_LANES) {
        for (int l = 0; l < MQ_LANES; l++) e[l] = exp_below_zero((double)x[j + l] - top);
        for (int l = 0; l < MQ_LANES; l++) lane[l] += e[l];
    }
    for (int l = 0; j < n; j++, l++) lane[l] += exp_below_zero((double)x[j] - top);
    for (int l = 0; l < MQ_LANES; l++) sum += lane[l];
    return sum;
}

double mq_logsumexp(const float *x, int64_t n, int64_t *argmax)
{
    double top = (double)mq_row_largest(x, n);
    int64_t first = 0;
    while (first < n && (double)x[first] != top) first++;
    *argmax = first < n ? first : 0; /* all NaN */
    if (!isinf(top)) return top + log(vec_exp_sum(x, n, top));
    /* +inf wins, and -inf everywhere is an empty sum; inf - inf must not be formed. */
    for (int64_t j = 0; j < n; j++) {
        if (isnan(x[j])) return NAN;
    }
    return top;
}
