#ifndef MQ_OPS_GEMM_IMPL_H
#define MQ_OPS_GEMM_IMPL_H

#include "ops/gemm.h"
#include "ops/ops.h"

#include <stddef.h>

/* Private to src/ops and its tests: the two ways a product can run, and thread scratch. */

/** Which scratch slot each layer of ops uses, so that a kernel may hold its own across a product.
 */
enum { MQ_SLOT_INDEX = MQ_OPS_FIRST_SCRATCH, MQ_SLOT_KERNEL, MQ_SLOT_GEMM };

/** mq_gemm plus bias[j] (f32, length n, or NULL) on every row. bias excludes accumulate. */
mq_status mq_gemm_bias(const mq_gemm_shape *shape, const void *a, const void *b, const float *bias,
                       void *c);

/** The same by OpenBLAS: sgemm, bf16 converted to f32 tile by tile. m, n and k are > 0. */
mq_status mq_gemm_blas(const mq_gemm_shape *shape, const void *a, const void *b, const float *bias,
                       void *c);

/** Makes the libraries run in the calling thread alone; mq_gemm_bias calls it. Cheap to repeat. */
void mq_gemm_one_thread(void);

#ifdef MQ_WITH_DNNL
/** The same by oneDNN, through the cache of primitives. m, n and k are > 0. */
mq_status mq_gemm_dnnl(const mq_gemm_shape *shape, const void *a, const void *b, const float *bias,
                       void *c);

/** Primitives in the cache now; it is emptied when it would pass its capacity. */
int64_t mq_gemm_dnnl_cached(void);
int64_t mq_gemm_dnnl_capacity(void);

/** Frees the cache and the engine. No product may be running. */
void mq_gemm_dnnl_stop(void);
#endif

/** Appends "m x n x k, bf16 -> f32, ld a/b/c ..." to messages: one text for all failures. */
typedef struct mq_gemm_text {
    char text[160];
} mq_gemm_text;
mq_gemm_text mq_gemm_describe(const mq_gemm_shape *shape);

/** Thread scratch of `slot` in pieces: add() each piece, get() the memory once, then take each
 *  piece at its offset. Pieces start on 64-byte boundaries; an overflow is remembered. */
typedef struct mq_scratch_plan {
    size_t bytes;
    mq_status status;
} mq_scratch_plan;

/** Offset of a new piece of count elements of elem bytes. */
size_t mq_scratch_add(mq_scratch_plan *plan, int64_t count, size_t elem);

/** *out = the memory of the whole plan. Errors: MQ_E_MEMORY, MQ_E_INPUT for an overflow. */
mq_status mq_scratch_get(const mq_scratch_plan *plan, int slot, char **out);

#endif
