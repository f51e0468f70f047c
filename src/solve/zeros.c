#include "base/checked.h"
#include "solve/grid.h"
#include "solve/scale_search.h"
#include "solve/simd.h"

#include <math.h>

/* The search for zero points. A grid s (0 .. top) - s z reaches from -z s to (top - z) s. Its range
 * comes from the smallest and the largest live weight, 0 included: an integer zero point keeps 0 on
 * the grid, so a group of one sign starts there. A grid narrower than the range can keep the lower
 * end, the upper end, or lose some of both: the zero points tried lie evenly between the two, and
 * at least one apart. */

enum { LANES = MQ_SEARCH_LANES, CHUNK = MQ_SEARCH_CHUNK };

typedef struct range {
    double low, high; /* low <= 0 <= high, divided by absmax */
} range;

static void widen(range *r, double x)
{
    if (x < r->low) r->low = x;
    if (x > r->high) r->high = x;
}

/* From the columns that count, as in the search for scales. */
static range find_range(const mq_search_strip *p, int lane, double absmax)
{
    range live = {0, 0}, all = {0, 0};
    for (int64_t j = 0; lane < p->n_rows && j < p->group; j++) {
        double x = (double)p->w[lane * p->ld + j] / absmax;
        widen(&all, x);
        if (p->weight[j] > 0) widen(&live, x);
    }
    return live.low < live.high ? live : all;
}

static float zero_of(double x, const mq_quant *quant)
{
    double top = (double)((1 << quant->bits) - 1), z = nearbyint(x);
    if (!(z > quant->lowest_zero)) return (float)quant->lowest_zero;
    return z < top ? (float)z : (float)top;
}

static void list_lane(mq_zero_search *z, int l, range r, float absmax, const mq_quant *quant,
                      int64_t g)
{
    double top = (double)((1 << quant->bits) - 1);
    for (int c = 0; c < MQ_SEARCH_SHRINKS; c++) {
        double width = (r.high - r.low) * (double)absmax;
        float scale = mq_round_scale(quant, g, (float)(mq_search_shrink(c) * width / top));
        float step = absmax > 0 ? scale / absmax : 1;
        double keeps_low = -r.low / (double)step, keeps_high = top - r.high / (double)step;
        double middle = (keeps_low + keeps_high) / 2, apart = fabs(keeps_low - keeps_high);
        apart = fmax(apart / (MQ_SEARCH_ZEROS - 1), 1);
        z->scale[c][l] = scale;
        z->step[c][l] = step;
        z->inverse[c][l] = 1 / step;
        for (int i = 0; i < MQ_SEARCH_ZEROS; i++) {
            z->zero[c][i][l] = zero_of(middle + (i - MQ_SEARCH_ZEROS / 2) * apart, quant);
            z->error[c][i][l] = 0;
        }
    }
}

/* One scale and one zero point over a chunk whose rounded w / s is given. */
static inline void add_one(const mq_search *s, int64_t n, const float (*q)[LANES],
                           const float *step, const float *zero, float top, float *error)
{
    float low[LANES], high[LANES], sum[LANES];
    for (int l = 0; l < LANES; l++) {
        low[l] = -zero[l];
        high[l] = top - zero[l];
        sum[l] = error[l];
    }
    for (int64_t j = 0; j < n; j++) {
        for (int l = 0; l < LANES; l++) {
            float e = s->v[j][l] - mq_clamp(q[j][l], low[l], high[l]) * step[l];
            sum[l] += e * e * s->h[j];
        }
    }
    for (int l = 0; l < LANES; l++) error[l] = sum[l];
}

MQ_SIMD static void add_zero_errors(mq_zero_search *z, const mq_search *s, int64_t n, float top)
{
    float q[CHUNK][LANES];
    for (int c = 0; c < MQ_SEARCH_SHRINKS; c++) {
        for (int64_t j = 0; j < n; j++) {
            for (int l = 0; l < LANES; l++) {
                q[j][l] = mq_round_even(mq_clamp(s->v[j][l] * z->inverse[c][l], -top, top));
            }
        }
        for (int i = 0; i < MQ_SEARCH_ZEROS; i++) {
            add_one(s, n, (const float(*)[LANES])q, z->step[c], z->zero[c][i], top, z->error[c][i]);
        }
    }
}

void mq_zero_search_errors(mq_zero_search *z, mq_search *s, const mq_search_strip *strip,
                           const mq_quant *quant)
{
    for (int l = 0; l < LANES; l++) {
        range r = {0, 0};
        if (s->absmax[l] > 0) r = find_range(strip, l, (double)s->absmax[l]);
        list_lane(z, l, r, s->absmax[l], quant, strip->g);
    }
    for (int64_t j0 = 0; j0 < strip->group; j0 += CHUNK) {
        int64_t n = mq_min_i64(CHUNK, strip->group - j0);
        mq_search_load(s, strip, j0, n);
        add_zero_errors(z, s, n, (float)((1 << quant->bits) - 1));
    }
}

void mq_zero_take_best(const mq_zero_search *z, int lane, float error, float *scale, uint8_t *zero)
{
    for (int c = 0; c < MQ_SEARCH_SHRINKS; c++) {
        for (int i = 0; i < MQ_SEARCH_ZEROS; i++) {
            if (!(z->error[c][i][lane] < error)) continue;
            error = z->error[c][i][lane];
            *scale = z->scale[c][lane];
            *zero = (uint8_t)z->zero[c][i][lane];
        }
    }
}
