#include "ops/dnnl_matmul.h"

#ifdef MQ_WITH_DNNL

/* Returns the status of a oneDNN call that failed. */
#define DNNL_TRY(call)                                     \
    do {                                                   \
        dnnl_status_t try_status = (call);                 \
        if (try_status != dnnl_success) return try_status; \
    } while (0)

typedef struct operands {
    dnnl_memory_desc_t a, b, bias, c;
} operands;

static dnnl_data_type_t type_of(mq_dtype dtype)
{
    return dtype == MQ_BF16 ? dnnl_bf16 : dnnl_f32;
}

static dnnl_status_t describe(dnnl_memory_desc_t *out, int64_t rows, int64_t cols, bool trans,
                              int64_t ld, dnnl_data_type_t type)
{
    const dnnl_dims_t dims = {rows, cols};
    const dnnl_dims_t strides = {trans ? 1 : ld, trans ? ld : 1};
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_memory_desc_create_with_strides(out, 2, dims, type, strides);
#else
    return dnnl_memory_desc_init_by_strides(out, 2, dims, type, strides);
#endif
}

static dnnl_status_t describe_all(const mq_gemm_shape *s, operands *o)
{
    DNNL_TRY(describe(&o->a, s->m, s->k, s->a_trans, s->lda, type_of(s->in)));
    DNNL_TRY(describe(&o->b, s->k, s->n, s->b_trans, s->ldb, type_of(s->in)));
    DNNL_TRY(describe(&o->bias, 1, s->n, false, s->n, dnnl_f32));
    return describe(&o->c, s->m, s->n, false, s->ldc, type_of(s->out));
}

static dnnl_status_t set_attributes(dnnl_primitive_attr_t attr, dnnl_post_ops_t post_ops,
                                    bool accumulate)
{
    DNNL_TRY(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
    /* Whatever the environment says, f32 products are f32. */
    DNNL_TRY(dnnl_primitive_attr_set_fpmath_mode(attr, dnnl_fpmath_mode_strict));
    if (!accumulate) return dnnl_success;
#if DNNL_VERSION_MAJOR >= 3
    DNNL_TRY(dnnl_post_ops_append_sum(post_ops, 1.0f, 0, dnnl_data_type_undef));
#else
    DNNL_TRY(dnnl_post_ops_append_sum(post_ops, 1.0f));
#endif
    return dnnl_primitive_attr_set_post_ops(attr, post_ops);
}

static dnnl_status_t make_desc(operands *o, bool with_bias, dnnl_primitive_attr_t attr,
                               dnnl_engine_t engine, dnnl_primitive_desc_t *out)
{
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_matmul_primitive_desc_create(out, engine, o->a, o->b, with_bias ? o->bias : NULL,
                                             o->c, attr);
#else
    dnnl_matmul_desc_t desc;
    DNNL_TRY(dnnl_matmul_desc_init(&desc, &o->a, &o->b, with_bias ? &o->bias : NULL, &o->c));
    return dnnl_primitive_desc_create(out, &desc, attr, engine, NULL);
#endif
}

static void forget(operands *o)
{
#if DNNL_VERSION_MAJOR >= 3
    if (o->a) dnnl_memory_desc_destroy(o->a);
    if (o->b) dnnl_memory_desc_destroy(o->b);
    if (o->bias) dnnl_memory_desc_destroy(o->bias);
    if (o->c) dnnl_memory_desc_destroy(o->c);
#else
    (void)o; /* plain structs in 2.x */
#endif
}

dnnl_status_t mq_dnnl_make_matmul(const mq_gemm_shape *shape, bool with_bias, dnnl_engine_t engine,
                                  dnnl_primitive_t *out)
{
    static const operands none;
    operands o = none;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t post_ops = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_status_t status = describe_all(shape, &o);
    if (status == dnnl_success) status = dnnl_primitive_attr_create(&attr);
    if (status == dnnl_success) status = dnnl_post_ops_create(&post_ops);
    if (status == dnnl_success) status = set_attributes(attr, post_ops, shape->accumulate);
    if (status == dnnl_success) status = make_desc(&o, with_bias, attr, engine, &desc);
    if (status == dnnl_success) status = dnnl_primitive_create(out, desc);
    if (desc) dnnl_primitive_desc_destroy(desc);
    if (post_ops) dnnl_post_ops_destroy(post_ops);
    if (attr) dnnl_primitive_attr_destroy(attr);
    forget(&o);
    return status;
}

#endif
