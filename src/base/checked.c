#include "base/checked.h"

#include <inttypes.h>
#include <limits.h>

mq_status mq_mul_i64(int64_t a, int64_t b, int64_t *out)
{
    if (a < 0 || b < 0) {
        return mq_fail(MQ_E_INPUT, "negative dimension in %" PRId64 " x %" PRId64, a, b);
    }
    if (b != 0 && a > INT64_MAX / b) {
        return mq_fail(MQ_E_INPUT, "%" PRId64 " x %" PRId64 " does not fit 63 bits", a, b);
    }
    *out = a * b;
    return MQ_OK;
}

mq_status mq_mul_size(size_t a, size_t b, size_t *out)
{
    if (b != 0 && a > SIZE_MAX / b) {
        return mq_fail(MQ_E_INPUT, "%zu x %zu bytes does not fit 64 bits", a, b);
    }
    *out = a * b;
    return MQ_OK;
}

mq_status mq_add_size(size_t a, size_t b, size_t *out)
{
    if (a > SIZE_MAX - b) {
        return mq_fail(MQ_E_INPUT, "%zu + %zu bytes does not fit 64 bits", a, b);
    }
    *out = a + b;
    return MQ_OK;
}

mq_status mq_count(const int64_t *dims, int n_dims, int64_t *out)
{
    int64_t count = 1;
    for (int i = 0; i < n_dims; i++) {
        /* A zero is folded in last, so that 2^62 x 4 x 0 is refused like the reference reader does.
         */
        if (dims[i] != 0) MQ_TRY(mq_mul_i64(count, dims[i], &count));
    }
    for (int i = 0; i < n_dims; i++) {
        if (dims[i] == 0) count = 0;
    }
    *out = count;
    return MQ_OK;
}

mq_status mq_to_int(int64_t value, const char *what, int *out)
{
    if (value < INT_MIN || value > INT_MAX) {
        return mq_fail(MQ_E_INTERNAL, "%s = %" PRId64 " does not fit the int of a library call",
                       what, value);
    }
    *out = (int)value;
    return MQ_OK;
}
