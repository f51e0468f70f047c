#include "solve/judge.h"

#include "base/checked.h"
#include "base/parallel.h"
#include "ops/ops.h"
#include "solve/grid.h"
#include "solve/scale_search.h"
#include "solve/simd.h"

#include <math.h>
#include <string.h>

/* A strip of 16 rows is judged with 4 candidates at once, each row with its own: 64 lanes that
 * never mix. Left-looking, so that the sums stay in registers. Normalised as in the weighted
 * search. */

enum {
    LANES = MQ_SEARCH_LANES,
    ABREAST = 4,
    WIDE = ABREAST * LANES,
    SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1
};

typedef struct work {
    mq_search search;
    int kept[MQ_CANDIDATES][LANES];  /* candidates to judge */
    float loss[WIDE];                /* of the four under judgement */
    float step[WIDE], inverse[WIDE]; /* their signed scale / absmax, and 1 / that */
    float best[LANES];
    int choice[LANES];             /* the best candidate so far */
    float r2[MQ_JUDGE_GROUP];      /* R_kk^2 / the largest of the group */
    float v[MQ_JUDGE_GROUP][WIDE]; /* w / absmax in the group's order, for each candidate again */
    float e[MQ_JUDGE_GROUP][WIDE]; /* v - v_hat */
} work;

/* 16 floats in registers. Loops over so few lanes are unrolled to scalars before they are
 * vectorised; this is the one way to keep the sums out of memory with gcc and clang. */
typedef float vector __attribute__((vector_size(LANES * sizeof(float))));

/* sum = columns [0, k) of the errors times column k of M. */
static inline void add_feedback(const work *w, const float *m, int64_t k, float sum[WIDE])
{
    vector total[ABREAST] = {{0}};
    for (int64_t j = 0; j < k; j++) {
        vector e[ABREAST];
        memcpy(e, w->e[j], sizeof e);
        for (int c = 0; c < ABREAST; c++) total[c] += e[c] * m[j];
    }
    memcpy(sum, total, sizeof total);
}

/* Losses of four candidates over a group of n columns; m (n, n). */
MQ_SIMD static void judge_four(work *w, const float *m, int64_t n, float half)
{
    for (int i = 0; i < WIDE; i++) w->loss[i] = 0;
    for (int64_t k = 0; k < n; k++) {
        float sum[WIDE], r2 = w->r2[k];
        add_feedback(w, m + k * n, k, sum);
        for (int i = 0; i < WIDE; i++) {
            float v = w->v[k][i], t = v + sum[i];
            float x = t * w->inverse[i];
            float rounded = mq_round_even(mq_clamp(x, -half, half - 1)) * w->step[i];
            float d = t - rounded;
            w->e[k][i] = v - rounded;
            w->loss[i] += d * d * r2;
        }
    }
}

/* The n_keep candidates of the smallest weighted errors, in any order. */
static void keep_smallest(work *w, int n_keep)
{
    for (int i = 0; i < n_keep; i++) {
        float best[LANES];
        int *at = w->kept[i];
        for (int l = 0; l < LANES; l++) {
            best[l] = INFINITY;
            at[l] = 0;
        }
        for (int c = 0; c < MQ_CANDIDATES; c++) {
            for (int l = 0; l < LANES; l++) {
                bool better = w->search.error[c][l] < best[l];
                best[l] = better ? w->search.error[c][l] : best[l];
                at[l] = better ? c : at[l];
            }
        }
        for (int l = 0; l < LANES; l++) w->search.error[at[l]][l] = INFINITY;
    }
}

static void keep_all(work *w)
{
    for (int c = 0; c < MQ_CANDIDATES; c++) {
        for (int l = 0; l < LANES; l++) w->kept[c][l] = c;
    }
}

/* The strip's weights and R^2 in the group's order. */
static void load_group(work *w, const mq_search_strip *p, const int32_t *order, const double *r2)
{
    double largest = 0;
    for (int64_t k = 0; k < p->group; k++) largest = fmax(largest, r2[k]);
    for (int64_t k = 0; k < p->group; k++) {
        w->r2[k] = largest > 0 ? (float)(r2[k] / largest) : 1;
        for (int l = 0; l < LANES; l++) {
            float absmax = w->search.absmax[l];
            bool some = l < p->n_rows && absmax > 0;
            float v = some ? p->w[l * p->ld + order[k]] / absmax : 0;
            for (int c = 0; c < ABREAST; c++) w->v[k][c * LANES + l] = v;
        }
    }
}

/* Candidates [i, i + 4) of those kept; past the end the last one again. */
static void load_four(work *w, int i, int n_keep)
{
    for (int c = 0; c < ABREAST; c++) {
        const int *kept = w->kept[i + c < n_keep ? i + c : n_keep - 1];
        for (int l = 0; l < LANES; l++) {
            float sign = kept[l] % 2 == 0 ? 1.0f : -1.0f;
            w->step[c * LANES + l] = sign * w->search.step[kept[l] / 2][l];
            w->inverse[c * LANES + l] = sign * w->search.inverse[kept[l] / 2][l];
        }
    }
}

static void take_best(work *w, int i, int n_keep, bool positive)
{
    for (int c = 0; c < ABREAST && i + c < n_keep; c++) {
        for (int l = 0; l < LANES; l++) {
            float loss = w->loss[c * LANES + l];
            int candidate = w->kept[i + c][l];
            if (positive && candidate % 2 != 0) continue;
            bool tie = loss == w->best[l] && candidate < w->choice[l];
            if (!(loss < w->best[l]) && !tie) continue;
            w->best[l] = loss;
            w->choice[l] = candidate;
        }
    }
}

static void judge_strip(work *w, const mq_search_strip *p, const mq_quant *quant,
                        const mq_group_judge *judge, int64_t g)
{
    int64_t n = p->group;
    int n_keep = judge->n_keep > 0 && judge->n_keep < MQ_CANDIDATES ? judge->n_keep : MQ_CANDIDATES;
    mq_search_list(&w->search, p, quant);
    if (n_keep < MQ_CANDIDATES) {
        mq_search_errors(&w->search, p, quant);
        keep_smallest(w, n_keep);
    } else {
        keep_all(w);
    }
    load_group(w, p, judge->order + g * n, judge->r2 + g * n);
    for (int l = 0; l < LANES; l++) {
        w->best[l] = INFINITY;
        w->choice[l] = w->kept[0][l];
    }
    for (int i = 0; i < n_keep; i += ABREAST) {
        load_four(w, i, n_keep);
        judge_four(w, judge->m + g * n * n, n, (float)(1 << (quant->bits - 1)));
        take_best(w, i, n_keep, quant->positive);
    }
}

static float chosen_scale(const work *w, const mq_quant *quant, int64_t g, int l)
{
    if (!(w->search.absmax[l] > 0)) return mq_smallest_scale(quant, g);
    float scale = w->search.scale[w->choice[l] / 2][l];
    return w->choice[l] % 2 == 0 ? scale : -scale;
}

mq_status mq_judge_scales(const float *w, int64_t n_rows, int64_t n_in, const double *weight,
                          const mq_quant *quant, const mq_group_judge *judge, float *scales,
                          uint8_t *zeros)
{
    MQ_TRY(mq_check_quant(quant, n_in));
    if (quant->group > MQ_JUDGE_GROUP || quant->zero_points) {
        return mq_search_scales(w, n_rows, n_in, weight, quant, scales, zeros);
    }
    work *s = mq_scratch(SCRATCH_SLOT, sizeof *s);
    if (!s) return mq_fail(MQ_E_MEMORY, "no memory for the search of scales");
    int64_t n_groups = n_in / quant->group;
    for (int64_t g = 0; g < n_groups; g++) {
        for (int64_t r = 0; r < n_rows; r += LANES) {
            mq_search_strip p = mq_search_strip_at(w, n_rows, n_in, weight, quant, g, r);
            judge_strip(s, &p, quant, judge, g);
            for (int l = 0; l < p.n_rows; l++) {
                scales[(r + l) * n_groups + g] = chosen_scale(s, quant, g, l);
            }
        }
    }
    return MQ_OK;
}
