#include "hessian/grid.h"

#include "base/memory.h"
#include "par/collectives.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* A unit's entries are f32 sums, and no entry is larger than the largest diagonal one: half of
 * FLT_MAX leaves room for the rounding of those sums. NaN fails the comparison too. */
static mq_status check_bounds(const double *largest, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        if (largest[j] <= (double)FLT_MAX / 2) continue;
        if (isfinite(largest[j])) {
            return mq_fail(MQ_E_NUMERIC,
                           "input column %" PRId64 " has a sum of squares of %g over one unit, "
                           "more than f32 sums can hold (%g)",
                           j, largest[j], (double)FLT_MAX / 2);
        }
        return mq_fail(MQ_E_NUMERIC,
                       "input column %" PRId64 " holds NaN or inf: look for the sample or the "
                       "earlier layer that made it; no damping can mend that",
                       j);
    }
    return MQ_OK;
}

mq_status mq_grid_of_columns(const mq_comm *comm, const double *largest, int64_t n, int64_t n_units,
                             int *exponent)
{
    double *bound = NULL;
    mq_status status = check_bounds(largest, n);
    if (status == MQ_OK) status = mq_alloc(n, sizeof *bound, "bounds of a sum", &bound);
    status = mq_agree(comm, status);
    if (status == MQ_OK) {
        memcpy(bound, largest, (size_t)n * sizeof *bound);
        status = mq_max_f64(comm, bound, n);
    }
    for (int64_t j = 0; j < n && status == MQ_OK; j++) {
        exponent[j] = mq_grid_exponent(bound[j], n_units);
    }
    mq_free(&bound);
    return status;
}
