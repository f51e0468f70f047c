#include "solve/columns.h"

#include <math.h>

/* Columns from which nothing follows: NaN. */
static double wanted(double diagonal, double w2, double r)
{
    if (!(diagonal > 0 && w2 > 0 && r > 0 && isfinite(w2) && isfinite(r))) return NAN;
    return log2(w2) / 4 - log2(r) / 2;
}

static void round_group(const double *x, int64_t n, float *scale)
{
    double sum = 0;
    int64_t count = 0;
    for (int64_t j = 0; j < n; j++) {
        if (isnan(x[j])) continue;
        sum += x[j];
        count++;
    }
    for (int64_t j = 0; j < n; j++) {
        double e = isnan(x[j]) ? 0 : rint(x[j] - sum / (double)count);
        scale[j] = ldexpf(1, (int)fmin(fmax(e, -MQ_COLUMN_EXPONENT), MQ_COLUMN_EXPONENT));
    }
}

void mq_column_scales(int64_t n, int64_t group, const int64_t *order, const double *diagonal,
                      const double *r, double *w2, float *scale)
{
    for (int64_t k = 0; k < n; k++) {
        int64_t j = order[k];
        w2[j] = wanted(diagonal[j], w2[j], r[k]);
    }
    for (int64_t j = 0; j < n; j += group) round_group(w2 + j, group, scale + j);
}
