#ifndef MQ_OPS_DNNL_MATMUL_H
#define MQ_OPS_DNNL_MATMUL_H

#include "ops/gemm.h"

#ifdef MQ_WITH_DNNL
#include <oneapi/dnnl/dnnl.h>

/* The one place where the C APIs of oneDNN 2.x and 3.x differ: making a matmul. */

#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t mq_dnnl_desc;
#else
typedef const dnnl_memory_desc_t *mq_dnnl_desc;
#endif

/** *out = a matmul primitive for `shape` with user scratchpad, with_bias: plus a f32 row.
 *  The caller's thread must run OpenMP with one thread. Returns oneDNN's status. */
dnnl_status_t mq_dnnl_make_matmul(const mq_gemm_shape *shape, bool with_bias, dnnl_engine_t engine,
                                  dnnl_primitive_t *out);
#endif

#endif
