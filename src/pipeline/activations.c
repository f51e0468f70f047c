#include "pipeline/activations.h"

#include "base/checked.h"
#include "base/memory.h"
#include "ops/gemm.h"

#include <math.h>

mq_status mq_activations_create(const mq_calib *calib, int64_t width, mq_dtype dtype,
                                const char *purpose, mq_activations *out)
{
    int64_t count = 0;
    MQ_TRY(mq_mul_i64(calib->n_local_tokens, width, &count));
    out->width = width;
    out->dtype = dtype;
    return mq_alloc(count, mq_dtype_size(dtype), purpose, &out->rows);
}

void mq_activations_free(mq_activations *a)
{
    mq_free(&a->rows);
}

void *mq_activations_unit(const mq_activations *a, const mq_calib *calib, int64_t i)
{
    if (!a->rows) return NULL;
    size_t row_bytes = (size_t)a->width * mq_dtype_size(a->dtype);
    return a->rows + (size_t)calib->unit[i].token_begin * row_bytes;
}

mq_status mq_activations_bounds(const mq_activations *a, const mq_calib *calib, double *largest)
{
    double *sumsq = NULL;
    mq_status status = mq_alloc(a->width, sizeof *sumsq, "column sums", &sumsq);
    for (int64_t u = 0; u < calib->n_local_units && status == MQ_OK; u++) {
        status = mq_column_sumsq(mq_activations_unit(a, calib, u), a->dtype,
                                 calib->unit[u].n_tokens, a->width, sumsq);
        for (int64_t j = 0; j < a->width && status == MQ_OK; j++) {
            /* A NaN takes its place, and keeps it: nothing is larger. */
            if (sumsq[j] > largest[j] || isnan(sumsq[j])) largest[j] = sumsq[j];
        }
    }
    mq_free(&sumsq);
    return status;
}
