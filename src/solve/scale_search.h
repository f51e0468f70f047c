#ifndef MQ_SOLVE_SCALE_SEARCH_H
#define MQ_SOLVE_SCALE_SEARCH_H

#include "solve/solve.h"

/* Private to the solver: the candidates of the scale search and their weighted errors. For every
 * row and group there are 36 shrink factors x 2 ranges, each with both signs. A negative scale
 * turns the grid -half .. half - 1 around, so both signs share w / |s|.
 *
 * Rows go through in strips of MQ_SEARCH_LANES. Everything is f32 after two normalisations per
 * group that keep it away from overflow and underflow: weights w are divided by the row's largest,
 * Hessian weights by the group's largest. */

enum {
    MQ_SEARCH_LANES = 16,
    MQ_SEARCH_CHUNK = 128,
    MQ_SEARCH_SHRINKS = 36,
    MQ_SEARCH_SIZES = 2 * MQ_SEARCH_SHRINKS, /* |scale|: from wide to narrow, full range first */
    MQ_CANDIDATES = 2 * MQ_SEARCH_SIZES,     /* 2 size + (1 for the negative one): order of ties */
};

typedef struct mq_search {
    float v[MQ_SEARCH_CHUNK][MQ_SEARCH_LANES];       /* w / absmax, transposed */
    float h[MQ_SEARCH_CHUNK];                        /* weight / largest weight */
    float absmax[MQ_SEARCH_LANES];                   /* 0 for a row of zeros */
    float scale[MQ_SEARCH_SIZES][MQ_SEARCH_LANES];   /* on the output's grid, > 0 */
    float step[MQ_SEARCH_SIZES][MQ_SEARCH_LANES];    /* scale / absmax */
    float inverse[MQ_SEARCH_SIZES][MQ_SEARCH_LANES]; /* 1 / step */
    float error[MQ_CANDIDATES][MQ_SEARCH_LANES];     /* so far */
} mq_search;

/** The group and rows a strip covers. */
typedef struct mq_search_strip {
    const float *w;       /* first row, first column of the group */
    const double *weight; /* of the group's columns */
    double largest;       /* of those weights */
    int64_t ld, group;
    int64_t g;  /* which group of the row */
    int n_rows; /* <= MQ_SEARCH_LANES */
} mq_search_strip;

/** The largest weight of a row's group: of the columns that count, weight > 0, since a dead input
 *  must not widen the steps of the live ones; of all where those are zero. */
float mq_group_range(const float *w, const double *weight, int64_t group);

/** The strip of group g at rows [r, r + 16) of w (n_rows, n_in). */
mq_search_strip mq_search_strip_at(const float *w, int64_t n_rows, int64_t n_in,
                                   const double *weight, const mq_quant *quant, int64_t g,
                                   int64_t r);

/** Fills absmax, scale, step and inverse. */
void mq_search_list(mq_search *s, const mq_search_strip *strip, const mq_quant *quant);

/** Fills error, after mq_search_list; those of negative scales are infinite where quant forbids
 *  them, and of repeated ones where scales are squares. */
void mq_search_errors(mq_search *s, const mq_search_strip *strip, const mq_quant *quant);

/** Fills v and h with columns [j0, j0 + n) of the strip, after mq_search_list. */
void mq_search_load(mq_search *s, const mq_search_strip *strip, int64_t j0, int64_t n);

/** Widths tried, as shares of the range of the weights. */
static inline double mq_search_shrink(int i)
{
    return 1.12 - 0.02 * i;
}

enum { MQ_SEARCH_ZEROS = 5 };

/** Grids with a zero point: a scale for every shrink factor, each with several zero points. */
typedef struct mq_zero_search {
    float scale[MQ_SEARCH_SHRINKS][MQ_SEARCH_LANES];   /* on the output's grid, > 0 */
    float step[MQ_SEARCH_SHRINKS][MQ_SEARCH_LANES];    /* scale / absmax */
    float inverse[MQ_SEARCH_SHRINKS][MQ_SEARCH_LANES]; /* 1 / step */
    float zero[MQ_SEARCH_SHRINKS][MQ_SEARCH_ZEROS][MQ_SEARCH_LANES];
    float error[MQ_SEARCH_SHRINKS][MQ_SEARCH_ZEROS][MQ_SEARCH_LANES];
} mq_zero_search;

/** Candidates and their errors for a strip, after mq_search_list, which says what weights are
 *  divided by; overwrites v and h. */
void mq_zero_search_errors(mq_zero_search *z, mq_search *s, const mq_search_strip *strip,
                           const mq_quant *quant);

/** Replaces *scale and *zero of a lane when a candidate's error is below `error`, the error of
 *  these two. */
void mq_zero_take_best(const mq_zero_search *z, int lane, float error, float *scale, uint8_t *zero);

#endif
