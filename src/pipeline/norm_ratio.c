#include "pipeline/norm_ratio.h"

#include "base/memory.h"

#include <inttypes.h>
#include <math.h>

static mq_status read_norm(mq_folder *folder, const char *name, int64_t n, float *out)
{
    const mq_tensor *norm = mq_folder_find(folder, name);
    if (!norm || norm->n_dims != 1 || norm->dim[0] != n) {
        return mq_fail(MQ_E_INPUT, "%s: no tensor %s of %" PRId64 " elements", folder->path, name,
                       n);
    }
    return mq_folder_read_rows(folder, norm, 0, n, MQ_F32, out);
}

/* Of zeros nothing is known, and nothing matters: such inputs are zero. */
static bool find_ratio(float of, float original, float *ratio)
{
    int exponent = 0;
    *ratio = original == 0 ? 1 : of / original;
    return (original != 0 || of == 0) && frexpf(*ratio, &exponent) == 0.5F;
}

/* ratio holds the norm. */
static mq_status divide(const mq_folder *folder, const char *name, const float *original, int64_t n,
                        float *ratio)
{
    for (int64_t j = 0; j < n; j++) {
        float of = ratio[j];
        if (find_ratio(of, original[j], &ratio[j])) continue;
        return mq_fail(MQ_E_INPUT,
                       "%s: %s[%" PRId64 "] is %.9g, which is not the source's %.9g times a power "
                       "of two: another source model, or a damaged file",
                       folder->path, name, j, (double)of, (double)original[j]);
    }
    return MQ_OK;
}

mq_status mq_norm_ratio(mq_folder *folder, mq_folder *source, const mq_arch *arch, int64_t block,
                        mq_linear_id linear, float **ratio)
{
    char name[2 * MQ_ARCH_NAME];
    mq_tap_id tap = mq_arch_linear_tap(arch, linear);
    int64_t n = mq_arch_tap_width(arch, block, tap);
    float *original = NULL;
    const char *pattern = mq_arch_tap_norm(arch, tap);
    *ratio = NULL;
    if (!pattern) return MQ_OK;
    mq_arch_name(pattern, block, name, sizeof name);
    mq_status status = mq_alloc(n, sizeof **ratio, "a norm", ratio);
    if (status == MQ_OK) status = mq_alloc(n, sizeof *original, "a norm", &original);
    if (status == MQ_OK) status = read_norm(folder, name, n, *ratio);
    if (status == MQ_OK) status = read_norm(source, name, n, original);
    if (status == MQ_OK) status = divide(folder, name, original, n, *ratio);
    mq_free(&original);
    if (status != MQ_OK) mq_free(ratio);
    return status;
}
