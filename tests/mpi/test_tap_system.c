/* The damping ladder, on Hessians of every kind of trouble: which step each needs, what the run
 * says of it, and both ends. */
#include "harness.h"
#include "par/comm.h"
#include "pipeline/tap_system.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 150 };

/* Of the run: below N all ranks factor together. */
static int64_t distribute_above = 8192;

typedef struct setting {
    mq_comm *comm;
    mq_quantize_options options;
    mq_run run;
    mq_hessian *h;
    mq_tap_system system;
    mq_tap_result result;
} setting;

static bool begin(setting *s, double damping, int64_t n_tokens)
{
    memset(s, 0, sizeof *s);
    s->run.solver.damping.share = damping;
    s->options.distribute_above = distribute_above;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &s->comm) == MQ_OK)) return false;
    s->run.comm = s->comm;
    s->run.options = &s->options;
    s->run.result = &s->result;
    if (!CHECK_ALL(mq_hessian_create(N, &s->h) == MQ_OK)) return false;
    s->h->n_tokens = n_tokens;
    return true;
}

static double *entry(const setting *s, int64_t i, int64_t j)
{
    return &s->h->packed[i * N - i * (i - 1) / 2 + (j - i)]; /* j >= i */
}

static mq_status factor(setting *s)
{
    if (!CHECK(mq_tap_system_create(&s->run, s->h, &s->system) == MQ_OK)) return MQ_E_INTERNAL;
    return mq_tap_system_factor(&s->run, 1, MQ_TAP_MLP_IN, s->run.solver.damping, &s->system);
}

static void end(setting *s)
{
    mq_tap_system_destroy(&s->system);
    memset(&s->system, 0, sizeof s->system);
    mq_hessian_destroy(&s->h);
    mq_comm_destroy(&s->comm);
}

/* The sum of n_tok tokens; entries of channel j are of the size 10^(-decades j / N). */
static void add_tokens(const setting *s, int64_t n_tok, double decades)
{
    for (int64_t t = 0; t < n_tok; t++) {
        double x[N];
        for (int64_t j = 0; j < N; j++) {
            x[j] = sin(1.7 * (double)(t * N + j) + (double)(t * t % 31)) *
                   pow(10, -decades * (double)j / (N - 1));
        }
        for (int64_t i = 0; i < N; i++) {
            for (int64_t j = i; j < N; j++) *entry(s, i, j) += x[i] * x[j];
        }
    }
}

static void expect(const setting *s, mq_trouble trouble, int attempts, double damping)
{
    CHECK(s->system.factor != NULL);
    CHECK_MSG(s->system.trouble == trouble, "%s", mq_trouble_name(s->system.trouble));
    CHECK_MSG(s->system.attempts == attempts, "%d steps", s->system.attempts);
    CHECK_MSG(s->system.damping.share == damping, "damping %g", s->system.damping.share);
}

static void test_thin(void)
{
    setting s;
    if (!begin(&s, 0.05, 8)) return;
    add_tokens(&s, 8, 0);
    CHECK(factor(&s) == MQ_OK);
    expect(&s, MQ_TROUBLE_RANK, 0, 0.05);
    mq_tap_system_destroy(&s.system);
    memset(&s.system, 0, sizeof s.system);
    s.run.solver.damping.share = 1e-18; /* less than f64 sees */
    CHECK(factor(&s) == MQ_OK);
    expect(&s, MQ_TROUBLE_RANK, 1, 0.01);
    end(&s);
}

/* Tokens enough, but all in one direction. */
static void test_repeated_token(void)
{
    setting s;
    if (!begin(&s, 1e-18, 10 * N)) return;
    add_tokens(&s, 1, 0);
    CHECK(factor(&s) == MQ_OK);
    expect(&s, MQ_TROUBLE_NUMERICAL, 1, 0.01);
    end(&s);
}

static void test_condition_1e16(void)
{
    static const double dampings[] = {0.05, 1e-12};
    for (int d = 0; d < 2; d++) {
        setting s;
        if (!begin(&s, dampings[d], 2 * N)) return;
        add_tokens(&s, 2 * N, 8);
        CHECK(factor(&s) == MQ_OK);
        expect(&s, MQ_TROUBLE_NONE, 0, dampings[d]);
        end(&s);
    }
}

/* Every second column is the one before it, but for a share of 1e-8 of its own: condition 1e16, and
 * no scaling of the diagonal helps. */
static void add_near_twins(const setting *s, int64_t n_tok)
{
    for (int64_t t = 0; t < n_tok; t++) {
        double x[N];
        for (int64_t j = 0; j < N; j++) {
            double own = sin(1.7 * (double)(t * N + j) + (double)(t * t % 31));
            x[j] = j % 2 == 0 ? own : x[j - 1] + 1e-8 * own;
        }
        for (int64_t i = 0; i < N; i++) {
            for (int64_t j = i; j < N; j++) *entry(s, i, j) += x[i] * x[j];
        }
    }
}

static void test_near_twins(void)
{
    setting s;
    if (!begin(&s, 0.05, 2 * N)) return;
    add_near_twins(&s, 2 * N);
    CHECK(factor(&s) == MQ_OK);
    expect(&s, MQ_TROUBLE_NONE, 0, 0.05);
    mq_tap_system_destroy(&s.system);
    memset(&s.system, 0, sizeof s.system);
    s.run.solver.damping.share = 1e-18;
    CHECK(factor(&s) == MQ_OK);
    expect(&s, MQ_TROUBLE_NUMERICAL, 1, 0.01);
    const double *r = mq_factor_diagonal(s.system.factor);
    for (int64_t k = 0; k < N; k++) CHECK(r[k] * r[k] > 0.01 * s.system.mean * (1 - 1e-9));
    end(&s);
}

/* Dead columns are no trouble: they get a diagonal. */
static void test_dead(void)
{
    setting s;
    if (!begin(&s, 0.05, 2 * N)) return;
    add_tokens(&s, 2 * N, 0);
    for (int64_t i = 0; i < N; i++) {
        for (int64_t j = i; j < N; j++) {
            if (i % 10 == 3 || j % 10 == 3) *entry(&s, i, j) = 0;
        }
    }
    CHECK(factor(&s) == MQ_OK);
    CHECK(s.system.n_dead == N / 10);
    expect(&s, MQ_TROUBLE_NONE, 0, 0.05);
    end(&s);
}

/* No sum of squares: off-diagonal entries above the diagonal, by so much that the matrix becomes
 * positive definite at a chosen step, or never. */
static void add_indefinite(const setting *s, double excess)
{
    for (int64_t i = 0; i < N; i++) *entry(s, i, i) = 1;
    *entry(s, 4, 90) = 1 + excess; /* positive definite from damping `excess` on */
}

static void test_every_step(void)
{
    static const double ladder[] = {0.01, 0.03, 0.1, 0.3, 1};
    for (int step = 0; step < 5; step++) {
        setting s;
        if (!begin(&s, 0.005, 2 * N)) return;
        add_indefinite(&s, ladder[step] * 0.9);
        CHECK(factor(&s) == MQ_OK);
        expect(&s, MQ_TROUBLE_NUMERICAL, step + 1, ladder[step]);
        end(&s);
    }
}

static void test_ladder_ends(void)
{
    for (int go_on = 0; go_on < 2; go_on++) {
        setting s;
        if (!begin(&s, 0.05, 2 * N)) return;
        s.run.solver.go_on = go_on;
        add_indefinite(&s, 2);
        mq_status status = factor(&s);
        CHECK(status == (go_on ? MQ_OK : MQ_E_NUMERIC));
        if (!go_on) CHECK(strstr(mq_message(), "--on-failure rtn"));
        CHECK(s.system.factor == NULL);
        CHECK(s.system.trouble == MQ_TROUBLE_NUMERICAL);
        CHECK(isnan(s.system.damping.share));
        CHECK(s.system.attempts == 4); /* 0.05, 0.1, 0.3, 1 */
        /* What failed is tried again from the intact H. */
        CHECK(*entry(&s, 4, 90) == 3);
        end(&s);
    }
}

/* Two channels of correlation 0.6: off-diagonal entries count less by the shrinkage, but for a
 * factor of the whole matrix; damping comes on top. */
static void test_shrinkage(void)
{
    setting s;
    if (!begin(&s, 0.5, 2 * N)) return;
    for (int64_t j = 0; j < N; j++) *entry(&s, j, j) = 4;
    *entry(&s, 0, 1) = 2.4;
    s.run.solver.damping.shrinkage = 0.2;
    CHECK(factor(&s) == MQ_OK);
    expect(&s, MQ_TROUBLE_NONE, 0, 0.5);
    double entry_of_all = 4 / (1 - 0.2) + 0.5 * 4;
    const double *r = mq_factor_diagonal(s.system.factor);
    for (int64_t k = 1; k < N; k++) CHECK(fabs(r[k] * r[k] - entry_of_all) < 1e-12);
    CHECK(fabs(r[0] * r[0] - (entry_of_all - 2.4 * 2.4 / entry_of_all)) < 1e-12);
    end(&s);
}

/* M_ik s_i / s_k and R_kk s_k; and the same bits as before when that is undone. */
static void test_scaled_columns(void)
{
    setting s;
    float scale[N], *m = NULL;
    double diagonal[N], added[N];
    if (!begin(&s, 0.05, 2 * N)) return;
    add_tokens(&s, 2 * N, 1);
    if (!CHECK(factor(&s) == MQ_OK)) return;
    const mq_tap_system *t = &s.system;
    const double *r = mq_factor_diagonal(t->factor);
    for (int64_t j = 0; j < N; j++) scale[j] = ldexpf(1, (int)(j * 7 % 9) - 4);
    memcpy(diagonal, t->diagonal, sizeof diagonal);
    memcpy(added, t->added, sizeof added);
    m = malloc(N * MQ_FACTOR_PANEL * sizeof *m);
    for (int64_t k0 = 0; k0 < N; k0 += MQ_FACTOR_PANEL) {
        int64_t k1 = k0 + MQ_FACTOR_PANEL < N ? k0 + MQ_FACTOR_PANEL : N, nk = k1 - k0;
        const float *panel = NULL;
        mq_tap_system_scale(&s.system, NULL);
        CHECK(mq_tap_system_panel(&s.system, k0, k1, &panel) == MQ_OK);
        memcpy(m, panel, (size_t)(k1 * nk) * sizeof *m);
        mq_tap_system_scale(&s.system, scale);
        CHECK(mq_tap_system_panel(&s.system, k0, k1, &panel) == MQ_OK);
        for (int64_t e = 0; e < k1 * nk; e++) {
            float of_row = scale[t->order[e / nk]], of_column = scale[t->order[k0 + e % nk]];
            CHECK(panel[e] == m[e] * of_row / of_column);
        }
    }
    for (int64_t k = 0; k < N; k++) {
        int64_t j = t->order[k];
        double squared = (double)scale[j] * (double)scale[j];
        CHECK(t->r[k] == r[k] * (double)scale[j]);
        CHECK(t->diagonal[j] == diagonal[j] * squared && t->added[j] == added[j] * squared);
    }
    mq_tap_system_scale(&s.system, NULL);
    CHECK(memcmp(t->r, r, sizeof diagonal) == 0);
    CHECK(memcmp(t->diagonal, diagonal, sizeof diagonal) == 0);
    CHECK(memcmp(t->added, added, sizeof added) == 0);
    free(m);
    end(&s);
}

static void test_no_tokens(void)
{
    setting s;
    if (!begin(&s, 0.05, 0)) return;
    s.run.solver.go_on = true;
    CHECK(factor(&s) == MQ_OK);
    CHECK(s.system.factor == NULL);
    CHECK(s.system.trouble == MQ_TROUBLE_NOT_FINITE);
    end(&s);
}

static void test_all(void)
{
    RUN(test_thin);
    RUN(test_repeated_token);
    RUN(test_condition_1e16);
    RUN(test_near_twins);
    RUN(test_dead);
    RUN(test_every_step);
    RUN(test_ladder_ends);
    RUN(test_shrinkage);
    RUN(test_scaled_columns);
    RUN(test_no_tokens);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    test_all();
    distribute_above = N - 1;
    test_all();
    return harness_finish();
}
