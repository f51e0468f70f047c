#include "model/rope_mean.h"

#include "base/memory.h"
#include "model/block.h"

#include <math.h>

/* Coordinates come in pairs that turn by an angle of their own, a for pair i and b for pair j. The
 * 2 x 2 block of M between two pairs is, as R(a) block R(b)^T sees it, the sum of a part that turns
 * by a - b and one that turns by a + b:
 *     | p q |        u = (p + s) / 2 + i (r - q) / 2   times e^{i (a - b)}
 *     | r s |        v = (p - s) / 2 + i (r + q) / 2   times e^{i (a + b)}
 * so the mean over distances needs the means of those two factors alone. */

typedef struct factor {
    double re, im;
} factor;

struct mq_rope_mean {
    int64_t half; /* pairs of a head */
    bool interleaved;
    factor *difference, *sum; /* (half, half) means of e^{i d (a - b)} and e^{i d (a + b)} */
};

/* Mean of e^{i angle d} with share[d]; the power goes on from that of the distance before. */
static factor mean_factor(double angle, const double *share, int64_t n)
{
    double step_re = cos(angle), step_im = sin(angle), re = 1, im = 0, total = 0;
    factor mean = {0, 0};
    for (int64_t d = 0; d < n; d++) {
        double next = re * step_re - im * step_im;
        total += share[d];
        mean.re += share[d] * re;
        mean.im += share[d] * im;
        im = re * step_im + im * step_re;
        re = next;
    }
    return (factor){mean.re / total, mean.im / total};
}

static double frequency(const mq_rope_kind *rope, int64_t i)
{
    return rope ? (double)mq_rope_frequency(rope, i) : 0;
}

mq_status mq_rope_mean_create(const mq_arch *arch, const mq_rope_kind *rope, const double *share,
                              int64_t n_distances, mq_rope_mean **out)
{
    mq_rope_mean *mean = NULL;
    int64_t half = arch->head_dim / 2;
    *out = NULL;
    MQ_TRY(mq_alloc(1, sizeof *mean, "mean rotation", &mean));
    mean->half = half;
    mean->interleaved = arch->rope_interleaved;
    size_t row = (size_t)half * sizeof(factor);
    mq_status status = mq_alloc(half, row, "mean rotation", &mean->difference);
    if (status == MQ_OK) status = mq_alloc(half, row, "mean rotation", &mean->sum);
    for (int64_t i = 0; i < half && status == MQ_OK; i++) {
        double a = frequency(rope, i);
        for (int64_t j = i; j < half; j++) {
            double b = frequency(rope, j);
            factor by = mean_factor(a - b, share, n_distances);
            mean->difference[i * half + j] = by;
            mean->difference[j * half + i] = (factor){by.re, -by.im};
            by = mean_factor(a + b, share, n_distances);
            mean->sum[i * half + j] = mean->sum[j * half + i] = by;
        }
    }
    if (status != MQ_OK) mq_rope_mean_destroy(&mean);
    *out = mean;
    return status;
}

void mq_rope_mean_destroy(mq_rope_mean **mean)
{
    if (!*mean) return;
    mq_free(&(*mean)->difference);
    mq_free(&(*mean)->sum);
    mq_free(mean);
}

static factor turned(factor x, factor by, bool forward)
{
    double im = forward ? by.im : -by.im;
    return (factor){x.re * by.re - x.im * im, x.re * im + x.im * by.re};
}

void mq_rope_mean_turn(const mq_rope_mean *mean, bool forward, const double *m, double *out)
{
    int64_t half = mean->half, n = 2 * half;
    int64_t pair = mean->interleaved ? 2 : 1, second = mean->interleaved ? 1 : half;
    for (int64_t i = 0; i < half; i++) {
        for (int64_t j = 0; j < half; j++) {
            int64_t at = i * pair * n + j * pair, down = second * n;
            double p = m[at], q = m[at + second], r = m[at + down], s = m[at + down + second];
            factor u = {(p + s) / 2, (r - q) / 2}, v = {(p - s) / 2, (r + q) / 2};
            u = turned(u, mean->difference[i * half + j], forward);
            v = turned(v, mean->sum[i * half + j], forward);
            out[at] = u.re + v.re;
            out[at + second] = v.im - u.im;
            out[at + down] = u.im + v.im;
            out[at + down + second] = u.re - v.re;
        }
    }
}
