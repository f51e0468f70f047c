#include "base/checked.h"
#include "base/parallel.h"
#include "ops/ops.h"
#include "solve/grid.h"
#include "solve/scale_search.h"
#include "solve/simd.h"

#include <math.h>

/* The scale search by weighted errors: keeps the candidate of the smallest
 *     sum over the group's columns of (w - s q)^2 weight,   q = clamp(round(w / s)).
 * Columns go through in chunks, so that a chunk stays in the first-level cache while all candidates
 * pass over it; sums run over columns in ascending order whatever the chunk. With zero points the
 * two signs are the zero points half and half - 1 of a positive scale, and those of zeros.c are
 * tried besides: the result is never worse than a symmetric one. */

enum {
    LANES = MQ_SEARCH_LANES,
    CHUNK = MQ_SEARCH_CHUNK,
    SIZES = MQ_SEARCH_SIZES,
    SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1
};

/* Errors of all candidates over n columns of the chunk. */
MQ_SIMD static void add_errors(mq_search *s, int64_t n, float half)
{
    for (int c = 0; c < SIZES; c++) {
        float positive[LANES], negative[LANES];
        for (int l = 0; l < LANES; l++) positive[l] = s->error[2 * c][l];
        for (int l = 0; l < LANES; l++) negative[l] = s->error[2 * c + 1][l];
        for (int64_t j = 0; j < n; j++) {
            float h = s->h[j];
            for (int l = 0; l < LANES; l++) {
                float v = s->v[j][l], step = s->step[c][l];
                float q = mq_round_even(mq_clamp(v * s->inverse[c][l], -half, half));
                float up = q < half - 1 ? q : half - 1, down = q > 1 - half ? q : 1 - half;
                float e = v - up * step, f = v - down * step;
                positive[l] += e * e * h;
                negative[l] += f * f * h;
            }
        }
        for (int l = 0; l < LANES; l++) s->error[2 * c][l] = positive[l];
        for (int l = 0; l < LANES; l++) s->error[2 * c + 1][l] = negative[l];
    }
}

static void find_absmax(mq_search *s, const mq_search_strip *p)
{
    for (int l = 0; l < LANES; l++) {
        bool row = l < p->n_rows;
        s->absmax[l] = row ? mq_group_range(p->w + l * p->ld, p->weight, p->group) : 0;
    }
}

void mq_search_list(mq_search *s, const mq_search_strip *p, const mq_quant *quant)
{
    find_absmax(s, p);
    double half = (double)(1 << (quant->bits - 1));
    for (int c = 0; c < SIZES; c++) {
        double factor = mq_search_shrink(c / 2) / (c % 2 == 0 ? half : half - 0.5);
        for (int l = 0; l < LANES; l++) {
            float absmax = s->absmax[l];
            float scale = mq_round_scale(quant, p->g, (float)(factor * (double)absmax));
            float step = absmax > 0 ? scale / absmax : 1;
            s->scale[c][l] = scale;
            s->step[c][l] = step;
            s->inverse[c][l] = 1 / step;
            s->error[2 * c][l] = s->error[2 * c + 1][l] = 0;
        }
    }
}

/* Columns [j0, j0 + n) of the strip, normalised. Where all weights of a group are zero (nothing is
 * known about its inputs) every column counts the same. */
void mq_search_load(mq_search *s, const mq_search_strip *p, int64_t j0, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        s->h[j] = p->largest > 0 ? (float)(p->weight[j0 + j] / p->largest) : 1;
        for (int l = 0; l < LANES; l++) {
            bool some = l < p->n_rows && s->absmax[l] > 0;
            s->v[j][l] = some ? p->w[l * p->ld + j0 + j] / s->absmax[l] : 0;
        }
    }
}

/* The best symmetric scale of a lane; returns its error. */
static float best_scale(const mq_search *s, int l, float *scale)
{
    float best = INFINITY;
    *scale = s->scale[0][l];
    for (int c = 0; c < MQ_CANDIDATES; c++) {
        if (!(s->error[c][l] < best)) continue;
        best = s->error[c][l];
        *scale = c % 2 == 0 ? s->scale[c / 2][l] : -s->scale[c / 2][l];
    }
    return best;
}

static void forbid_negative(mq_search *s)
{
    for (int c = 1; c < MQ_CANDIDATES; c += 2) {
        for (int l = 0; l < LANES; l++) s->error[c][l] = INFINITY;
    }
}

/* Squares are so few that most candidates are the scale of an earlier one, which alone stays: else
 * those that the accurate search judges were all the same. */
MQ_SIMD static void forbid_repeated(mq_search *s)
{
    for (int c = 1; c < SIZES; c++) {
        for (int earlier = 0; earlier < c; earlier++) {
            for (int l = 0; l < LANES; l++) {
                bool same = s->scale[c][l] == s->scale[earlier][l];
                s->error[2 * c][l] = same ? INFINITY : s->error[2 * c][l];
            }
        }
    }
}

void mq_search_errors(mq_search *s, const mq_search_strip *p, const mq_quant *quant)
{
    for (int64_t j0 = 0; j0 < p->group; j0 += CHUNK) {
        int64_t n = mq_min_i64(CHUNK, p->group - j0);
        mq_search_load(s, p, j0, n);
        add_errors(s, n, (float)(1 << (quant->bits - 1)));
    }
    if (quant->positive && !quant->zero_points) forbid_negative(s);
    if (quant->grid == MQ_SCALE_SQUARES) forbid_repeated(s);
}

mq_search_strip mq_search_strip_at(const float *w, int64_t n_rows, int64_t n_in,
                                   const double *weight, const mq_quant *quant, int64_t g,
                                   int64_t r)
{
    mq_search_strip p = {.w = w + r * n_in + g * quant->group,
                         .weight = weight + g * quant->group,
                         .ld = n_in,
                         .group = quant->group,
                         .g = g,
                         .n_rows = (int)mq_min_i64(LANES, n_rows - r)};
    for (int64_t j = 0; j < p.group; j++) p.largest = fmax(p.largest, p.weight[j]);
    return p;
}

typedef struct work {
    mq_search search;
    mq_zero_search zeros; /* only with zero points */
} work;

static void take_best(const work *w, const mq_quant *quant, int64_t g, int l, float *scale,
                      uint8_t *zero)
{
    int half = 1 << (quant->bits - 1);
    float error = 0;
    *scale = mq_smallest_scale(quant, g);
    if (w->search.absmax[l] > 0) error = best_scale(&w->search, l, scale);
    if (!quant->zero_points) return;
    /* -half .. half - 1 turned around is 1 - half .. half. */
    *zero = (uint8_t)(*scale < 0 ? half - 1 : half);
    *scale = fabsf(*scale);
    mq_zero_take_best(&w->zeros, l, error, scale, zero);
}

mq_status mq_search_scales(const float *w, int64_t n_rows, int64_t n_in, const double *weight,
                           const mq_quant *quant, float *scales, uint8_t *zeros)
{
    MQ_TRY(mq_check_quant(quant, n_in));
    MQ_TRY(mq_check_zeros(quant, zeros));
    work *s = mq_scratch(SCRATCH_SLOT, sizeof *s);
    if (!s) return mq_fail(MQ_E_MEMORY, "no memory for the search of scales");
    int64_t n_groups = n_in / quant->group;
    for (int64_t g = 0; g < n_groups; g++) {
        for (int64_t r = 0; r < n_rows; r += LANES) {
            mq_search_strip p = mq_search_strip_at(w, n_rows, n_in, weight, quant, g, r);
            mq_search_list(&s->search, &p, quant);
            mq_search_errors(&s->search, &p, quant);
            if (quant->zero_points) mq_zero_search_errors(&s->zeros, &s->search, &p, quant);
            for (int l = 0; l < p.n_rows; l++) {
                int64_t at = (r + l) * n_groups + g;
                take_best(s, quant, g, l, scales + at, zeros ? zeros + at : NULL);
            }
        }
    }
    return MQ_OK;
}
