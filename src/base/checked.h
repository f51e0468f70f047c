#ifndef MQ_BASE_CHECKED_H
#define MQ_BASE_CHECKED_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* The one place where dimensions are multiplied. 256000 x 12288 does not fit an int32; nothing here
 * is ever narrower than 64 bits, and a product that does not fit 64 bits is an error, not a wrap.
 */

/** *out = a * b for counts (both >= 0). MQ_E_INPUT when negative or past INT64_MAX. */
mq_status mq_mul_i64(int64_t a, int64_t b, int64_t *out);

/** *out = a * b for bytes. MQ_E_INPUT past SIZE_MAX. */
mq_status mq_mul_size(size_t a, size_t b, size_t *out);

/** *out = a + b for bytes. MQ_E_INPUT past SIZE_MAX. */
mq_status mq_add_size(size_t a, size_t b, size_t *out);

/** Product of n_dims dimensions (each >= 0); 1 for n_dims == 0. A product that overflows before a
 *  zero dimension is still an error. */
mq_status mq_count(const int64_t *dims, int n_dims, int64_t *out);

/** value as int for an MPI, BLAS or ScaLAPACK boundary; `what` names it in the message. */
mq_status mq_to_int(int64_t value, const char *what, int *out);

/** ceil(a / b) for a >= 0, b > 0. */
static inline int64_t mq_ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

static inline int64_t mq_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t mq_max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif
