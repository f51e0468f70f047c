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
    int64_t half;     /* pairs of a head; those that do not turn are made of what is left over */
    int64_t (*at)[2]; /* (half) the coordinates of each */
    double *scale;    /* (half) of what it adds to a score */
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
    return rope && i < rope->dim / 2 ? (double)mq_rope_frequency(rope, i) : 0;
}

/* Both factors of a score are multiplied where they turn. */
static void lay_pairs(const mq_arch *arch, const mq_rope_kind *rope, mq_rope_mean *mean)
{
    int64_t dim = rope ? rope->dim : 0, turning = dim / 2;
    for (int64_t i = 0; i < mean->half; i++) {
        bool turns = i < turning, apart = turns && !arch->rope_interleaved;
        mean->at[i][0] = apart ? i : 2 * i;
        mean->at[i][1] = mean->at[i][0] + (apart ? turning : 1);
        mean->scale[i] = turns ? rope->attention_factor * rope->attention_factor : 1;
    }
}

static mq_status allocate(int64_t half, mq_rope_mean *mean)
{
    size_t row = (size_t)half * sizeof(factor);
    mean->half = half;
    MQ_TRY(mq_alloc(half, sizeof *mean->at, "mean rotation", &mean->at));
    MQ_TRY(mq_alloc(half, sizeof *mean->scale, "mean rotation", &mean->scale));
    MQ_TRY(mq_alloc(half, row, "mean rotation", &mean->difference));
    return mq_alloc(half, row, "mean rotation", &mean->sum);
}

mq_status mq_rope_mean_create(const mq_arch *arch, const mq_rope_kind *rope, const double *share,
                              int64_t n_distances, mq_rope_mean **out)
{
    mq_rope_mean *mean = NULL;
    int64_t half = arch->head_dim / 2;
    *out = NULL;
    MQ_TRY(mq_alloc(1, sizeof *mean, "mean rotation", &mean));
    mq_status status = allocate(half, mean);
    if (status == MQ_OK) lay_pairs(arch, rope, mean);
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
    mq_free(&(*mean)->at);
    mq_free(&(*mean)->scale);
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
    for (int64_t i = 0; i < half; i++) {
        const int64_t first = mean->at[i][0] * n, second = mean->at[i][1] * n;
        for (int64_t j = 0; j < half; j++) {
            const int64_t *to = mean->at[j];
            double p = m[first + to[0]], q = m[first + to[1]], r = m[second + to[0]],
                   s = m[second + to[1]], scale = mean->scale[i] * mean->scale[j];
            factor u = {(p + s) / 2, (r - q) / 2}, v = {(p - s) / 2, (r + q) / 2};
            u = turned(u, mean->difference[i * half + j], forward);
            v = turned(v, mean->sum[i * half + j], forward);
            out[first + to[0]] = scale * (u.re + v.re);
            out[first + to[1]] = scale * (v.im - u.im);
            out[second + to[0]] = scale * (u.im + v.im);
            out[second + to[1]] = scale * (u.re - v.re);
        }
    }
}
