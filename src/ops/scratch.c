#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm_impl.h"

enum { ALIGNMENT = 64 };

size_t mq_scratch_add(mq_scratch_plan *plan, int64_t count, size_t elem)
{
    size_t at = plan->bytes, bytes = 0, padded = 0;
    if (plan->status != MQ_OK) return at;
    plan->status = mq_mul_size((size_t)count, elem, &bytes);
    if (plan->status == MQ_OK) plan->status = mq_add_size(bytes, ALIGNMENT - 1, &padded);
    padded = padded / ALIGNMENT * ALIGNMENT;
    if (plan->status == MQ_OK) plan->status = mq_add_size(at, padded, &plan->bytes);
    return at;
}

mq_status mq_scratch_get(const mq_scratch_plan *plan, int slot, char **out)
{
    if (plan->status != MQ_OK) return plan->status;
    *out = mq_scratch(slot, plan->bytes);
    if (!*out) {
        return mq_fail(MQ_E_MEMORY,
                       "cannot allocate %zu bytes of thread scratch: use fewer threads per rank",
                       plan->bytes);
    }
    return MQ_OK;
}
