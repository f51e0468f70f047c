#ifndef MQ_TEST_SOLVE_PROBLEM_H
#define MQ_TEST_SOLVE_PROBLEM_H

#include "test_solve.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* A layer's problem for the tests of what runs on row blocks. */

/** A damped, ordered problem with its factor. */
typedef struct problem {
    int64_t n;
    double lambda;
    double *h;      /* (n, n) original order, undamped */
    double *damped; /* (n, n) processing order, H + lambda I */
    double *r, *diagonal;
    float *m;
    int64_t *order;
    whole_m source;
} problem;

static inline problem problem_create(int64_t n)
{
    problem p = {.n = n, .h = make_hessian(n, n + 3, 11 + (uint64_t)n)};
    double *diagonal = zeroed(n, sizeof *diagonal);
    p.damped = zeroed(n * n, sizeof *p.damped);
    p.r = zeroed(n * n, sizeof *p.r);
    p.m = zeroed(n * n, sizeof *p.m);
    p.diagonal = zeroed(n, sizeof *p.diagonal);
    p.order = zeroed(n, sizeof *p.order);
    for (int64_t j = 0; j < n; j++) diagonal[j] = p.h[j * n + j];
    mq_order_columns(diagonal, n, p.order);
    for (int64_t j = 0; j < n; j++) p.lambda += 0.02 * diagonal[j] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j++) {
            p.damped[i * n + j] = p.h[p.order[i] * n + p.order[j]] + (i == j ? p.lambda : 0);
        }
    }
    naive_factor(p.damped, n, p.r, p.m, p.diagonal);
    p.source = (whole_m){.m = p.m, .n = n, .panel = zeroed(n * MQ_SOLVE_PANEL, sizeof(float))};
    free(diagonal);
    return p;
}

static inline void problem_free(problem *p)
{
    free(p->h);
    free(p->damped);
    free(p->r);
    free(p->m);
    free(p->diagonal);
    free(p->order);
    free(p->source.panel);
}

/** Random weights in processing order in the first n_rows rows, scales by the search; the rows
 * after them stay zero, their scales too. */
static inline layer layer_of(const problem *p, int64_t n_rows, mq_quant quant)
{
    int64_t n = p->n;
    layer l = layer_create((n_rows + MQ_ROW_BLOCK - 1) / MQ_ROW_BLOCK, n, quant);
    float *w = zeroed(n_rows * n, sizeof *w);
    double *weight = zeroed(n, sizeof *weight);
    uint64_t seed = 5;
    for (int64_t i = 0; i < n_rows * n; i++) w[i] = (float)(0.02 * next_heavy(&seed));
    for (int64_t j = 0; j < n; j++) weight[j] = p->h[j * n + j];
    assert_int_equal(mq_search_scales(w, n_rows, n, weight, &quant, l.scales, NULL), MQ_OK);
    for (int64_t r = 0; r < n_rows; r++) {
        for (int64_t k = 0; k < n; k++) l.w[r * n + k] = w[r * n + p->order[k]];
    }
    free(w);
    free(weight);
    return l;
}

/** LDLQ, and that every panel was asked for. */
static inline mq_status solve(problem *p, layer *l)
{
    p->source.asked = 0;
    mq_status status =
        mq_ldlq(l->block, l->n_blocks, p->n, p->order, p->diagonal, panel_of_m, &p->source);
    if (status == MQ_OK) assert_int_equal(p->source.asked, p->n);
    return status;
}

static inline void assert_near(double got, double expected, double relative, double absolute)
{
    if (fabs(got - expected) <= relative * fabs(expected) + absolute) return;
    fail_msg("got %.17g, expected %.17g", got, expected);
}

#endif
