#include "ops/gemm.h"

#include "ops/gemm_impl.h"
#include "ops/ops.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

mq_gemm_text mq_gemm_describe(const mq_gemm_shape *s)
{
    mq_gemm_text t;
    snprintf(t.text, sizeof t.text,
             "product %" PRId64 " x %" PRId64 " x %" PRId64 " (%s%s, %s -> %s%s, strides %" PRId64
             ", %" PRId64 ", %" PRId64 ")",
             s->m, s->n, s->k, s->a_trans ? "At" : "A", s->b_trans ? "Bt" : "B",
             mq_dtype_name(s->in), mq_dtype_name(s->out), s->accumulate ? " added" : "", s->lda,
             s->ldb, s->ldc);
    return t;
}

static mq_status check_shape(const mq_gemm_shape *s, const float *bias)
{
    bool dims = s->m >= 0 && s->n >= 0 && s->k >= 0;
    bool types = (s->in == MQ_F32 && s->out == MQ_F32) ||
                 (s->in == MQ_BF16 && (s->out == MQ_F32 || s->out == MQ_BF16));
    bool strides = s->lda >= (s->a_trans ? s->m : s->k) && s->ldb >= (s->b_trans ? s->k : s->n) &&
                   s->ldc >= s->n;
    bool sum = !s->accumulate || (s->out == MQ_F32 && !bias);
    if (dims && types && strides && sum) return MQ_OK;
    return mq_fail(MQ_E_INTERNAL, "%s makes no sense", mq_gemm_describe(s).text);
}

/* C of an empty sum: zero, or the bias. */
static void fill_empty(const mq_gemm_shape *s, const float *bias, void *c)
{
    size_t elem = mq_dtype_size(s->out);
    for (int64_t i = 0; i < s->m; i++) {
        char *row = (char *)c + (size_t)(i * s->ldc) * elem;
        memset(row, 0, (size_t)s->n * elem);
        for (int64_t j = 0; bias && j < s->n; j++) {
            if (s->out == MQ_F32) ((float *)(void *)row)[j] = bias[j];
            if (s->out == MQ_BF16) ((uint16_t *)(void *)row)[j] = mq_f32_to_bf16(bias[j]);
        }
    }
}

#ifdef MQ_WITH_DNNL
/* oneDNN 3.7 forgets strides where a product has one row or one column (measured: a vector
 * with gaps is read or written as if it had none). Such products are tiny: OpenBLAS does them with
 * every version, so that bits follow from the shape alone. */
static bool is_vector_product(const mq_gemm_shape *s)
{
    return s->m == 1 || s->n == 1;
}
#endif

mq_status mq_gemm_bias(const mq_gemm_shape *shape, const void *a, const void *b, const float *bias,
                       void *c)
{
    MQ_TRY(check_shape(shape, bias));
    if (shape->m == 0 || shape->n == 0) return MQ_OK;
    if (shape->k == 0) {
        if (!shape->accumulate) fill_empty(shape, bias, c);
        return MQ_OK;
    }
    mq_gemm_one_thread();
#ifdef MQ_WITH_DNNL
    if ((shape->in == MQ_F32 || mq_ops_has_bf16()) && !is_vector_product(shape)) {
        return mq_gemm_dnnl(shape, a, b, bias, c);
    }
#endif
    return mq_gemm_blas(shape, a, b, bias, c);
}

mq_status mq_gemm(const mq_gemm_shape *shape, const void *a, const void *b, void *c)
{
    return mq_gemm_bias(shape, a, b, NULL, c);
}
