#ifndef MQ_TEST_SOLVE_H
#define MQ_TEST_SOLVE_H

#include "solve/solve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Naive f64 counterparts of the solver for its tests: plain loops over the definitions. */

/** Deterministic numbers in [-1, 1). */
static inline double next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(*state >> 11) * 0x1p-52 - 1;
}

/** A heavy-tailed number: mostly small, sometimes large, like weights. */
static inline double next_heavy(uint64_t *state)
{
    double x = next_random(state), y = next_random(state);
    return x * exp(2 * y);
}

static inline void *zeroed(int64_t count, size_t elem)
{
    void *p = calloc((size_t)(count > 0 ? count : 1), elem);
    if (!p) abort();
    return p;
}

/** h (n, n) = X^T X of n_tok correlated tokens with channels of very different size. */
static inline double *make_hessian(int64_t n, int64_t n_tok, uint64_t seed)
{
    uint64_t state = seed;
    double *x = zeroed(n_tok * n, sizeof *x), *h = zeroed(n * n, sizeof *h);
    for (int64_t t = 0; t < n_tok; t++) {
        double common = next_random(&state);
        for (int64_t j = 0; j < n; j++) {
            x[t * n + j] = (common + next_random(&state)) * exp(3 * sin((double)j));
        }
    }
    for (int64_t t = 0; t < n_tok; t++) {
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = i; j < n; j++) h[i * n + j] += x[t * n + i] * x[t * n + j];
        }
    }
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < i; j++) h[i * n + j] = h[j * n + i];
    }
    free(x);
    return h;
}

/** R upper triangular with R R^T = a (n, n), from the last column to the first; rows scaled into
 *  m = R / diag(R) as f32. */
static inline void naive_factor(const double *a, int64_t n, double *r, float *m, double *diagonal)
{
    memset(r, 0, (size_t)(n * n) * sizeof *r);
    for (int64_t j = n - 1; j >= 0; j--) {
        for (int64_t i = j; i >= 0; i--) {
            double sum = a[i * n + j];
            for (int64_t k = j + 1; k < n; k++) sum -= r[i * n + k] * r[j * n + k];
            r[i * n + j] = i == j ? sqrt(sum) : sum / r[j * n + j];
        }
    }
    for (int64_t j = 0; j < n; j++) diagonal[j] = r[j * n + j];
    for (int64_t i = 0; i < n * n; i++) m[i] = (float)(r[i] / diagonal[i % n]);
}

/** a mq_panel_source over a whole M. */
typedef struct whole_m {
    const float *m; /* (n, n) */
    int64_t n;
    int64_t asked; /* columns handed out so far */
    float *panel;  /* (n, 128) */
} whole_m;

static inline mq_status panel_of_m(void *context, int64_t k0, int64_t k1, const float **m)
{
    whole_m *p = context;
    if (k0 != p->asked || k1 > p->n || k1 - k0 > MQ_SOLVE_PANEL) {
        return mq_fail(MQ_E_INTERNAL, "panels were asked for out of order");
    }
    p->asked = k1;
    for (int64_t i = 0; i < k1; i++) {
        memcpy(p->panel + i * (k1 - k0), p->m + i * p->n + k0, (size_t)(k1 - k0) * sizeof(float));
    }
    *m = p->panel;
    return MQ_OK;
}

/** Rounds to nearest even and clamps; the signed code. */
static inline double naive_code(double t, double scale, int bits)
{
    double half = (double)(1 << (bits - 1)), q = nearbyint(t / scale);
    return q < -half ? -half : q > half - 1 ? half - 1 : q;
}

/** LDLQ of one row in f64 (algorithms.md 2). w, order and r in processing order; codes original. */
static inline void naive_ldlq(const double *w, int64_t n, const int64_t *order, const double *r,
                              const float *scales, const mq_quant *quant, uint8_t *codes)
{
    double *e = zeroed(n, sizeof *e);
    for (int64_t k = 0; k < n; k++) {
        double t = w[k], scale = (double)scales[order[k] / quant->group];
        for (int64_t j = 0; j < k; j++) t += e[j] * r[j * n + k] / r[k * n + k];
        double q = naive_code(t, scale, quant->bits);
        e[k] = w[k] - q * scale;
        codes[order[k]] = (uint8_t)((int)q + (1 << (quant->bits - 1)));
    }
    free(e);
}

/** x a x^T. */
static inline double quadratic(const double *x, const double *a, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double row = 0;
        for (int64_t j = 0; j < n; j++) row += a[i * n + j] * x[j];
        sum += x[i] * row;
    }
    return sum;
}

/** x a = b for one row, a (n, n) symmetric positive definite: Gaussian elimination. */
static inline void naive_solve(const double *a, const double *b, int64_t n, double *x)
{
    double *m = zeroed(n * n, sizeof *m);
    memcpy(m, a, (size_t)(n * n) * sizeof *m);
    memcpy(x, b, (size_t)n * sizeof *x);
    for (int64_t k = 0; k < n; k++) {
        for (int64_t i = k + 1; i < n; i++) {
            double f = m[i * n + k] / m[k * n + k];
            for (int64_t j = k; j < n; j++) m[i * n + j] -= f * m[k * n + j];
            x[i] -= f * x[k];
        }
    }
    for (int64_t k = n - 1; k >= 0; k--) {
        for (int64_t j = k + 1; j < n; j++) x[k] -= m[k * n + j] * x[j];
        x[k] /= m[k * n + k];
    }
    free(m);
}

/** Storage of `n_blocks` blocks of one layer; scales and quant are the caller's to fill. */
typedef struct layer {
    int64_t n_blocks, n, n_groups;
    mq_row_block *block;
    float *w, *e, *scales;
    uint8_t *codes, *zeros; /* zeros: NULL when symmetric */
    double *sums;           /* loss, energy, error2, weight2 of all rows */
} layer;

static inline layer layer_create(int64_t n_blocks, int64_t n, mq_quant quant)
{
    int64_t rows = n_blocks * MQ_ROW_BLOCK;
    layer l = {.n_blocks = n_blocks, .n = n, .n_groups = n / quant.group};
    l.block = zeroed(n_blocks, sizeof *l.block);
    l.w = zeroed(rows * n, sizeof *l.w);
    l.e = zeroed(rows * n, sizeof *l.e);
    l.scales = zeroed(rows * l.n_groups, sizeof *l.scales);
    l.codes = zeroed(rows * n, 1);
    if (quant.zero_points) l.zeros = zeroed(rows * l.n_groups, 1);
    l.sums = zeroed(4 * rows, sizeof *l.sums);
    for (int64_t b = 0; b < n_blocks; b++) {
        int64_t r0 = b * MQ_ROW_BLOCK;
        l.block[b] = (mq_row_block){.w = l.w + r0 * n,
                                    .e = l.e + r0 * n,
                                    .codes = l.codes + r0 * n,
                                    .scales = l.scales + r0 * l.n_groups,
                                    .zeros = l.zeros ? l.zeros + r0 * l.n_groups : NULL,
                                    .quant = quant,
                                    .loss = l.sums + r0,
                                    .energy = l.sums + rows + r0,
                                    .error2 = l.sums + 2 * rows + r0,
                                    .weight2 = l.sums + 3 * rows + r0};
    }
    return l;
}

static inline void layer_free(layer *l)
{
    free(l->block);
    free(l->w);
    free(l->e);
    free(l->scales);
    free(l->codes);
    free(l->zeros);
    free(l->sums);
}

#endif
