#include "base/checked.h"
#include "base/parallel.h"
#include "ops/ops.h"
#include "solve/grid.h"
#include "solve/simd.h"

#include <math.h>

/* The scale search. For every row and group it tries 36 shrink factors x 2 ranges, each with both
 * signs, and keeps the scale of the smallest
 *     sum over the group's columns of (w - s q)^2 weight,   q = clamp(round(w / s)).
 * A negative scale turns the grid -half .. half - 1 around, so both signs share w / |s|.
 *
 * Rows go through in strips of LANES, columns in chunks, so that a chunk stays in the first-level
 * cache while all candidates pass over it; sums run over columns in ascending order whatever the
 * chunk. Everything is f32 after two normalisations per group that keep it away from overflow and
 * underflow: weights w are divided by the row's largest, Hessian weights by the group's largest. */

enum {
    LANES = 16,
    CHUNK = 128,
    N_SHRINKS = 36,
    N_CANDIDATES = 2 * N_SHRINKS,
    SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1
};

typedef struct search {
    float v[CHUNK][LANES];               /* w / absmax, transposed */
    float h[CHUNK];                      /* weight / largest weight */
    float absmax[LANES];                 /* 0 for a row of zeros */
    float scale[N_CANDIDATES][LANES];    /* on the output's grid, > 0 */
    float step[N_CANDIDATES][LANES];     /* scale / absmax */
    float inverse[N_CANDIDATES][LANES];  /* 1 / step */
    float positive[N_CANDIDATES][LANES]; /* errors so far, with scale and with -scale */
    float negative[N_CANDIDATES][LANES];
} search;

/* Errors of all candidates over n columns of the chunk. */
MQ_SIMD static void add_errors(search *s, int64_t n, float half)
{
    for (int c = 0; c < N_CANDIDATES; c++) {
        float positive[LANES], negative[LANES];
        for (int l = 0; l < LANES; l++) positive[l] = s->positive[c][l];
        for (int l = 0; l < LANES; l++) negative[l] = s->negative[c][l];
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
        for (int l = 0; l < LANES; l++) s->positive[c][l] = positive[l];
        for (int l = 0; l < LANES; l++) s->negative[c][l] = negative[l];
    }
}

/* The group and rows a strip covers. */
typedef struct strip {
    const float *w;       /* first row, first column of the group */
    const double *weight; /* of the group's columns */
    double largest;       /* of those weights */
    int64_t ld, group;
    int n_rows; /* <= LANES */
} strip;

/* The range of a row comes from the columns that count: a dead input must not widen the steps of
 * the live ones. Where those are all zero the others have the range to themselves. */
static void find_absmax(search *s, const strip *p)
{
    for (int l = 0; l < LANES; l++) {
        float live = 0, all = 0;
        for (int64_t j = 0; l < p->n_rows && j < p->group; j++) {
            float a = fabsf(p->w[l * p->ld + j]);
            all = a > all ? a : all;
            live = p->weight[j] > 0 && a > live ? a : live;
        }
        s->absmax[l] = live > 0 ? live : all;
    }
}

/* Candidates in the order in which ties are resolved: from wide to narrow, full range first. */
static void list_candidates(search *s, const mq_quant *quant)
{
    double half = (double)(1 << (quant->bits - 1));
    for (int c = 0; c < N_CANDIDATES; c++) {
        int shrink = c / 2;
        double factor = (1.12 - 0.02 * shrink) / (c % 2 == 0 ? half : half - 0.5);
        for (int l = 0; l < LANES; l++) {
            float absmax = s->absmax[l];
            float scale = mq_round_scale(quant->grid, (float)(factor * (double)absmax));
            float step = absmax > 0 ? scale / absmax : 1;
            s->scale[c][l] = scale;
            s->step[c][l] = step;
            s->inverse[c][l] = 1 / step;
            s->positive[c][l] = s->negative[c][l] = 0;
        }
    }
}

/* Columns [j0, j0 + n) of the strip, normalised. Where all weights of a group are zero (nothing is
 * known about its inputs) every column counts the same. */
static void load_chunk(search *s, const strip *p, int64_t j0, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        s->h[j] = p->largest > 0 ? (float)(p->weight[j0 + j] / p->largest) : 1;
        for (int l = 0; l < LANES; l++) {
            bool some = l < p->n_rows && s->absmax[l] > 0;
            s->v[j][l] = some ? p->w[l * p->ld + j0 + j] / s->absmax[l] : 0;
        }
    }
}

static float best_scale(const search *s, const mq_quant *quant, int l)
{
    if (!(s->absmax[l] > 0)) return mq_smallest_scale(quant->grid);
    float best = INFINITY, scale = s->scale[0][l];
    for (int c = 0; c < N_CANDIDATES; c++) {
        if (s->positive[c][l] < best) {
            best = s->positive[c][l];
            scale = s->scale[c][l];
        }
        if (s->negative[c][l] < best) {
            best = s->negative[c][l];
            scale = -s->scale[c][l];
        }
    }
    return scale;
}

static void search_strip(search *s, const strip *p, const mq_quant *quant, float *scales,
                         int64_t n_groups)
{
    find_absmax(s, p);
    list_candidates(s, quant);
    for (int64_t j0 = 0; j0 < p->group; j0 += CHUNK) {
        int64_t n = mq_min_i64(CHUNK, p->group - j0);
        load_chunk(s, p, j0, n);
        add_errors(s, n, (float)(1 << (quant->bits - 1)));
    }
    for (int l = 0; l < p->n_rows; l++) scales[l * n_groups] = best_scale(s, quant, l);
}

mq_status mq_search_scales(const float *w, int64_t n_rows, int64_t n_in, const double *weight,
                           const mq_quant *quant, float *scales)
{
    MQ_TRY(mq_check_quant(quant, n_in));
    search *s = mq_scratch(SCRATCH_SLOT, sizeof *s);
    if (!s) return mq_fail(MQ_E_MEMORY, "no memory for the search of scales");
    int64_t n_groups = n_in / quant->group;
    for (int64_t g = 0; g < n_groups; g++) {
        strip p = {.weight = weight + g * quant->group, .ld = n_in, .group = quant->group};
        for (int64_t j = 0; j < p.group; j++) p.largest = fmax(p.largest, p.weight[j]);
        for (int64_t r = 0; r < n_rows; r += LANES) {
            p.w = w + r * n_in + g * quant->group;
            p.n_rows = (int)mq_min_i64(LANES, n_rows - r);
            search_strip(s, &p, quant, scales + r * n_groups + g, n_groups);
        }
    }
    return MQ_OK;
}
