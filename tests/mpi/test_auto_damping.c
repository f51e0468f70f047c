/* Cross-validated damping on the rows of a small model: the losses on both halves and the choice,
 * against a naive solver in f64, for any number of ranks, factored by one rank or by all. */
#include "base/memory.h"
#include "ops/ops.h"

#include "../unit/test_solve.h"
#include "test_tiny_run.h"

static const mq_tap_id tap = MQ_TAP_MLP_IN;
static const double candidates[] = {0.01, 0.05, 0.2, 0.8};
enum { N_CANDIDATES = 4, USUAL = 1 /* 0.05 */, N_LAYERS = 2 /* gate and up */ };

typedef struct setting {
    mq_comm *comm;
    mq_quantize_options options;
    mq_run run;
    int64_t n;
    double *a, *b; /* (n, n) half sums */
    mq_hessian *half, *h;
} setting;

static mq_hessian *packed(const double *a, int64_t n)
{
    mq_hessian *h = NULL;
    if (!CHECK(mq_hessian_create(n, &h) == MQ_OK)) return NULL;
    double *to = h->packed;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = i; j < n; j++) *to++ = a[i * n + j];
    }
    h->n_tokens = 4 * n;
    return h;
}

/* Entries on a grid, as the program's are, so that half sums come back from the whole exactly. */
static double *half_sum(int64_t n, int64_t n_tok, uint64_t seed)
{
    double *h = make_hessian(n, n_tok, seed);
    for (int64_t i = 0; i < n * n; i++) h[i] = nearbyint(ldexp(h[i], 20));
    return h;
}

static bool open_model(setting *s, int64_t distribute_above)
{
    mq_quantize_defaults(&s->options);
    s->options.damping = 0;
    s->options.bits = 3;
    s->options.group = 32;
    s->options.distribute_above = distribute_above;
    return tiny_run_open(&s->run, s->comm, &s->options, "llama2", tap) &&
           CHECK_ALL(s->run.result->n_layers == N_LAYERS);
}

/* Few tokens in the first half, so that damping matters. */
static bool begin(setting *s, int64_t distribute_above, int64_t n_tok)
{
    memset(s, 0, sizeof *s);
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &s->comm) == MQ_OK)) return false;
    if (!open_model(s, distribute_above)) return false;
    s->n = s->run.result->n_in;
    s->a = half_sum(s->n, n_tok, 3);
    s->b = half_sum(s->n, 8 * s->n, 4);
    double *sum = zeroed(s->n * s->n, sizeof *sum);
    for (int64_t i = 0; i < s->n * s->n; i++) sum[i] = s->a[i] + s->b[i];
    s->half = packed(s->a, s->n);
    s->h = packed(sum, s->n);
    free(sum);
    return CHECK_ALL(s->half && s->h);
}

static void end(setting *s)
{
    mq_hessian_destroy(&s->half);
    mq_hessian_destroy(&s->h);
    free(s->a);
    free(s->b);
    tiny_run_close(&s->run);
    mq_comm_destroy(&s->comm);
}

/* Adds one row's losses and energies on both halves under the naive solver. */
static void add_row(const setting *s, const float *row, const int64_t *order, const double *r,
                    const double *diagonal, const mq_quant *quant, double sums[4])
{
    int64_t n = s->n;
    float scales[8];
    uint8_t *codes = zeroed(n, 1);
    double *w = zeroed(n, sizeof *w), *e = zeroed(n, sizeof *e);
    CHECK(mq_search_scales(row, 1, n, diagonal, quant, scales, NULL) == MQ_OK);
    for (int64_t k = 0; k < n; k++) w[k] = (double)row[order[k]];
    naive_ldlq(w, n, order, r, scales, quant, codes);
    for (int64_t j = 0; j < n; j++) {
        w[j] = (double)row[j];
        e[j] = w[j] - (codes[j] - (1 << (quant->bits - 1))) * (double)scales[j / quant->group];
    }
    sums[0] += quadratic(e, s->a, n);
    sums[1] += quadratic(w, s->a, n);
    sums[2] += quadratic(e, s->b, n);
    sums[3] += quadratic(w, s->b, n);
    free(codes);
    free(w);
    free(e);
}

/* Relative losses of a layer on the halves: 64 of its 96 rows. */
static void naive_losses(const setting *s, int l, double share, double out[2])
{
    const mq_tap_layer *of = &s->run.result->layer[l];
    const uint16_t *weights = s->run.stream[MQ_QUANTISED].weights->w[of->linear];
    int64_t n = s->n, order[128];
    double diagonal[128], pivots[128], mean = 0, sums[4] = {0};
    double *damped = zeroed(n * n, sizeof *damped), *r = zeroed(n * n, sizeof *r);
    float *m = zeroed(n * n, sizeof *m), *row = zeroed(n, sizeof *row);
    for (int64_t j = 0; j < n; j++) diagonal[j] = s->a[j * n + j];
    for (int64_t j = 0; j < n; j++) mean += diagonal[j] / (double)n;
    mq_order_columns(diagonal, n, order);
    for (int64_t i = 0; i < n * n; i++) {
        int64_t p = order[i / n], q = order[i % n];
        double keep = p == q ? 1 : 1 - s->run.solver.shrinkage;
        damped[i] = s->a[p * n + q] * keep;
        if (p == q) damped[i] += share * mean * (1 - s->run.solver.shrinkage);
    }
    naive_factor(damped, n, r, m, pivots);
    for (int64_t i = 0; i < 64; i++) {
        CHECK(mq_to_f32(weights + i * 96 / 64 * n, MQ_BF16, n, row) == MQ_OK);
        add_row(s, row, order, r, diagonal, &of->quant, sums);
    }
    out[0] = sums[0] / sums[1];
    out[1] = sums[2] / sums[3];
    free(damped);
    free(r);
    free(m);
    free(row);
}

/* Ties of roundings fall differently in f32. */
static bool near(double got, double expected)
{
    return fabs(got - expected) <= 0.02 * expected;
}

static void check_choice(int64_t distribute_above, int64_t n_tok, double *chosen)
{
    setting s;
    mq_damping got;
    double loss[N_CANDIDATES][N_LAYERS][2], least = INFINITY;
    int c = 0;
    if (!begin(&s, distribute_above, n_tok)) return;
    CHECK(mq_run_damping(&s.run, 0, tap, s.half, s.h, &got) == MQ_OK);
    for (int i = 0; i < N_CANDIDATES; i++) {
        for (int l = 0; l < N_LAYERS; l++) naive_losses(&s, l, candidates[i], loss[i][l]);
        least = fmin(least, loss[i][0][1] + loss[i][1][1]);
        if (got.share == candidates[i]) c = i;
    }
    double chosen_loss = loss[c][0][1] + loss[c][1][1];
    double usual_loss = loss[USUAL][0][1] + loss[USUAL][1][1];
    /* 3 % decide, and the naive losses are that of the program within half a per cent. */
    if (usual_loss < 1.025 * least) CHECK(c == USUAL);
    if (usual_loss > 1.035 * least) {
        CHECK_MSG(chosen_loss < 1.005 * least, "damping %g of %ld tokens: %g, least %g", got.share,
                  (long)n_tok, chosen_loss, least);
    }
    for (int l = 0; l < N_LAYERS; l++) {
        CHECK_MSG(near(got.half_loss[l], loss[c][l][0]) &&
                      near(got.held_out_loss[l], loss[c][l][1]),
                  "layer %d, damping %g: %g and %g, expected %g and %g", l, got.share,
                  got.half_loss[l], got.held_out_loss[l], loss[c][l][0], loss[c][l][1]);
    }
    CHECK(s.run.damping_found[tap] == got.share);
    *chosen = got.share;
    end(&s);
}

static void test_against_naive(void)
{
    double thin = 0, thin_distributed = 0, thick = 0;
    check_choice(8192, 40, &thin);
    check_choice(0, 40, &thin_distributed);
    check_choice(8192, 4000, &thick);
    CHECK(thin == thin_distributed);
    CHECK_MSG(thin > thick, "%g for few tokens, %g for many", thin, thick);
}

/* No half, or one without tokens: the damping found before, or else the one asked for. */
static void test_nothing_held_out(void)
{
    setting s;
    mq_damping got;
    if (!begin(&s, 8192, 40)) return;
    CHECK(mq_run_damping(&s.run, 0, tap, NULL, s.h, &got) == MQ_OK);
    CHECK(got.share == 0.05 && isnan(got.held_out_loss[0]) && isnan(got.half_loss[0]));
    CHECK(mq_run_damping(&s.run, 0, tap, s.h, s.h, &got) == MQ_OK);
    CHECK(got.share == 0.05 && isnan(got.held_out_loss[0]));
    s.run.damping_found[tap] = 0.8;
    CHECK(mq_run_damping(&s.run, 0, tap, NULL, s.h, &got) == MQ_OK);
    CHECK(got.share == 0.8);
    end(&s);
}

/* All narrow taps; of wide ones those of the first, second, third, fifth, ninth block. */
static void test_when(void)
{
    setting s;
    if (!begin(&s, 8192, 40)) return;
    for (int64_t b = 0; b < 10; b++) {
        s.options.distribute_above = 8192;
        CHECK(mq_run_measures_damping(&s.run, b, tap));
        s.options.distribute_above = 0;
        bool due = b == 0 || b == 1 || b == 2 || b == 4 || b == 8;
        CHECK_MSG(mq_run_measures_damping(&s.run, b, tap) == due, "block %ld", (long)b);
    }
    s.run.solver.measure_damping = false;
    CHECK(!mq_run_measures_damping(&s.run, 0, tap));
    end(&s);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    if (mq_ops_start(1, "") != MQ_OK) return 1;
    RUN(test_against_naive);
    RUN(test_nothing_held_out);
    RUN(test_when);
    mq_ops_stop();
    return harness_finish();
}
