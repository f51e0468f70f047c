/* base/checked.c as it would be had it counted in an int, like the program whose tensor of 256000 x
 * 12288 got a size of -2298478592: what is linked with it has to fail its tests. */
#include "base/checked.h"

static int32_t narrow(uint64_t x)
{
    return (int32_t)(uint32_t)x;
}

mq_status mq_mul_i64(int64_t a, int64_t b, int64_t *out)
{
    *out = narrow((uint64_t)a * (uint64_t)b);
    return MQ_OK;
}

mq_status mq_mul_size(size_t a, size_t b, size_t *out)
{
    *out = (size_t)narrow(a * b);
    return MQ_OK;
}

mq_status mq_add_size(size_t a, size_t b, size_t *out)
{
    *out = (size_t)narrow(a + b);
    return MQ_OK;
}

mq_status mq_count(const int64_t *dims, int n_dims, int64_t *out)
{
    *out = 1;
    for (int i = 0; i < n_dims; i++) *out = narrow((uint64_t)*out * (uint64_t)dims[i]);
    return MQ_OK;
}

mq_status mq_to_int(int64_t value, const char *what, int *out)
{
    (void)what;
    *out = narrow((uint64_t)value);
    return MQ_OK;
}
