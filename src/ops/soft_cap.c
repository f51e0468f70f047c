#include "ops/kernels.h"
#include "ops/vector.h"

static MQ_CLONES void vec_soft_cap(float *x, int64_t n, float factor, float cap)
{
    for (int64_t j = 0; j < n; j++) x[j] = cap * mq_tanhf(x[j] * factor);
}

void mq_soft_cap(float *x, int64_t n, double scale, double cap)
{
    vec_soft_cap(x, n, (float)(scale / cap), (float)cap);
}
