/* Cross-validated damping on the rows of a small model: the losses on both halves and the choice,
 * against a naive solver in f64, for any number of ranks, factored by one rank or by all. */
#include "base/memory.h"
#include "ops/ops.h"
#include "pipeline/column_scales.h"

#include "../unit/test_solve.h"
#include "test_tiny_run.h"

static const mq_tap_id tap = MQ_TAP_MLP_IN;
static const mq_damping candidates[] = {
    {0.01, 0}, {0.01, 0.1}, {0.05, 0.1}, {0.2, 0.1}, {0.8, 0.1}};
enum { N_CANDIDATES = 5, USUAL = 2, N_LAYERS = 2 /* gate and up */ };

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

/* out = a b, or a b^T; all (n, n). */
static void multiply(const double *a, const double *b, bool transposed, int64_t n, double *out)
{
    for (int64_t i = 0; i < n * n; i++) {
        int64_t row = i / n, column = i % n;
        out[i] = 0;
        for (int64_t k = 0; k < n; k++) {
            out[i] += a[row * n + k] * (transposed ? b[column * n + k] : b[k * n + column]);
        }
    }
}

/* H under a change of channels: each becomes a mix of the first 16 and a little of its own, as in a
 * model, where few directions carry most of the activations. */
static void mix_channels(double *h, int64_t n)
{
    double *half = zeroed(n * n, sizeof *half), *mix = zeroed(n * n, sizeof *mix);
    for (int64_t i = 0; i < n * n; i++) {
        int64_t row = i / n, column = i % n;
        double factor = column < 16 ? sin(1.3 * (double)(row * column + column) + 1) : 0;
        mix[i] = factor + (row == column ? 0.05 : 0);
    }
    multiply(mix, h, false, n, half);
    multiply(half, mix, true, n, h);
    free(half);
    free(mix);
}

/* Entries on a grid, as the program's are, so that half sums come back from the whole exactly. */
static double *half_sum(int64_t n, int64_t n_tok, bool mixed, uint64_t seed)
{
    double *h = make_hessian(n, n_tok, seed);
    if (mixed) mix_channels(h, n);
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
static bool begin(setting *s, int64_t distribute_above, int64_t n_tok, bool mixed)
{
    memset(s, 0, sizeof *s);
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &s->comm) == MQ_OK)) return false;
    if (!open_model(s, distribute_above)) return false;
    s->n = s->run.result->n_in;
    s->a = half_sum(s->n, n_tok, mixed, 3);
    s->b = half_sum(s->n, 8 * s->n, mixed, 4);
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

/* Adds one row's losses and energies on both halves under the naive solver; columns scaled by
 * column_scale, as r and diagonal are. */
static void add_row(const setting *s, const float *row, const int64_t *order, const double *r,
                    const double *diagonal, const mq_quant *quant, const double *column_scale,
                    double sums[4])
{
    int64_t n = s->n;
    float scales[8], scaled[128];
    uint8_t *codes = zeroed(n, 1);
    double *w = zeroed(n, sizeof *w), *e = zeroed(n, sizeof *e);
    for (int64_t j = 0; j < n; j++) scaled[j] = row[j] / (float)column_scale[j];
    CHECK(mq_search_scales(scaled, 1, n, diagonal, quant, scales, NULL) == MQ_OK);
    for (int64_t k = 0; k < n; k++) w[k] = (double)scaled[order[k]];
    naive_ldlq(w, n, order, r, scales, quant, codes);
    for (int64_t j = 0; j < n; j++) {
        w[j] = (double)row[j];
        double packed = (codes[j] - (1 << (quant->bits - 1))) * (double)scales[j / quant->group];
        e[j] = w[j] - packed * column_scale[j];
    }
    sums[0] += quadratic(e, s->a, n);
    sums[1] += quadratic(w, s->a, n);
    sums[2] += quadratic(e, s->b, n);
    sums[3] += quadratic(w, s->b, n);
    free(codes);
    free(w);
    free(e);
}

/* 2^round(1/4 log2(w^2 / R^2) - its mean over the group), w^2 summed over all rows of the tap. */
static void naive_column_scales(const setting *s, const int64_t *order, const double *pivots,
                                double *scale)
{
    int64_t n = s->n, group = s->run.result->layer[0].quant.group;
    double w2[128] = {0}, wanted[128] = {0};
    for (int l = 0; l < N_LAYERS; l++) {
        const mq_tap_layer *of = &s->run.result->layer[l];
        const uint16_t *w = s->run.stream[MQ_QUANTISED].weights->w[of->linear];
        for (int64_t i = 0; i < of->n_out * n; i++) w2[i % n] += pow(mq_bf16_to_f32(w[i]), 2);
    }
    for (int64_t k = 0; k < n; k++) {
        wanted[order[k]] = log2(w2[order[k]] / (pivots[k] * pivots[k])) / 4;
    }
    for (int64_t j = 0; j < n; j++) {
        double mean = 0;
        for (int64_t i = j / group * group; i < (j / group + 1) * group; i++) mean += wanted[i];
        double e = nearbyint(wanted[j] - mean / (double)group);
        scale[j] = exp2(e > 4 ? 4 : e < -4 ? -4 : e);
    }
}

/* Relative losses of a layer on the halves: 64 of its 96 rows. */
static void naive_losses(const setting *s, int l, mq_damping damping, bool scale, double out[2])
{
    const mq_tap_layer *of = &s->run.result->layer[l];
    const uint16_t *weights = s->run.stream[MQ_QUANTISED].weights->w[of->linear];
    int64_t n = s->n, order[128];
    double diagonal[128] = {0}, pivots[128], column_scale[128], mean = 0, sums[4] = {0};
    double *damped = zeroed(n * n, sizeof *damped), *r = zeroed(n * n, sizeof *r);
    float *m = zeroed(n * n, sizeof *m), *row = zeroed(n, sizeof *row);
    for (int64_t j = 0; j < n; j++) diagonal[j] = s->a[j * n + j];
    for (int64_t j = 0; j < n; j++) mean += diagonal[j] / (double)n;
    mq_order_columns(diagonal, n, order);
    for (int64_t i = 0; i < n * n; i++) {
        int64_t p = order[i / n], q = order[i % n];
        damped[i] = s->a[p * n + q] * (p == q ? 1 : 1 - damping.shrinkage);
        if (p == q) damped[i] += damping.share * mean * (1 - damping.shrinkage);
    }
    naive_factor(damped, n, r, m, pivots);
    for (int64_t j = 0; j < n; j++) column_scale[j] = 1;
    if (scale) naive_column_scales(s, order, pivots, column_scale);
    for (int64_t i = 0; i < n * n; i++) r[i] *= column_scale[order[i / n]];
    for (int64_t j = 0; j < n; j++) diagonal[j] *= column_scale[j] * column_scale[j];
    for (int64_t i = 0; i < 64; i++) {
        CHECK(mq_to_f32(weights + i * 96 / 64 * n, MQ_BF16, n, row) == MQ_OK);
        add_row(s, row, order, r, diagonal, &of->quant, column_scale, sums);
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

/* Losses on the held-out half, summed over the layers. */
static void naive_trials(const setting *s, double loss[N_CANDIDATES][N_LAYERS][2],
                         double held_out[N_CANDIDATES])
{
    for (int c = 0; c < N_CANDIDATES; c++) {
        held_out[c] = 0;
        for (int l = 0; l < N_LAYERS; l++) {
            naive_losses(s, l, candidates[c], false, loss[c][l]);
            held_out[c] += loss[c][l][1];
        }
    }
}

/* 3 % decide about a step, 5 % about that to no shrinkage; the naive losses are those of the
 * program within half a per cent. */
static bool taken(const double held_out[N_CANDIDATES], int to, int from, double slack)
{
    return held_out[to] < (to == 0 ? 0.95 : 0.97) * (1 + slack) * held_out[from];
}

static void check_steps(const double held_out[N_CANDIDATES], int c)
{
    for (int i = USUAL; i < c; i++) CHECK(taken(held_out, i + 1, i, 0.005));
    for (int i = USUAL; i > c; i--) CHECK(taken(held_out, i - 1, i, 0.005));
    if (c >= USUAL && c + 1 < N_CANDIDATES) CHECK(!taken(held_out, c + 1, c, -0.005));
    if (c <= USUAL && c > 0) CHECK(!taken(held_out, c - 1, c, -0.005));
}

static bool same(mq_damping a, mq_damping b)
{
    return a.share == b.share && a.shrinkage == b.shrinkage;
}

static void check_choice(int64_t distribute_above, int64_t n_tok, bool mixed, int *chosen)
{
    setting s;
    mq_damping_choice got;
    double loss[N_CANDIDATES][N_LAYERS][2], held_out[N_CANDIDATES];
    int c = 0;
    if (!begin(&s, distribute_above, n_tok, mixed)) return;
    CHECK(mq_run_damping(&s.run, 0, tap, s.half, s.h, &got) == MQ_OK);
    while (c < N_CANDIDATES - 1 && !same(candidates[c], got.damping)) c++;
    CHECK(same(candidates[c], got.damping));
    naive_trials(&s, loss, held_out);
    check_steps(held_out, c);
    for (int l = 0; l < N_LAYERS; l++) {
        CHECK_MSG(near(got.half_loss[l], loss[c][l][0]) &&
                      near(got.held_out_loss[l], loss[c][l][1]),
                  "layer %d, damping %g: %g and %g, expected %g and %g", l, got.damping.share,
                  got.half_loss[l], got.held_out_loss[l], loss[c][l][0], loss[c][l][1]);
    }
    CHECK(same(s.run.damping_found[tap], got.damping));
    *chosen = c;
    end(&s);
}

static void test_against_naive(void)
{
    int thin = -1, thin_distributed = -1, thick = -1;
    check_choice(8192, 40, false, &thin);
    check_choice(0, 40, false, &thin_distributed);
    check_choice(8192, 4000, true, &thick);
    CHECK(thin == thin_distributed);
    CHECK_MSG(thin > USUAL && thick == 0, "%d for few tokens, %d for many", thin, thick);
}

static double unevenness(int64_t j)
{
    return ldexp(1, (int)(j * 5 % 7) - 3);
}

/* Weights and inputs of the same layers, whose columns have been scaled as if to make it hard. */
static void make_uneven(const setting *s)
{
    int64_t n = s->n;
    double *half = s->half->packed, *h = s->h->packed;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = i; j < n; j++) {
            double factor = 1 / (unevenness(i) * unevenness(j));
            s->a[i * n + j] = s->a[j * n + i] = *half++ *= factor;
            *h++ *= factor;
            s->b[i * n + j] = s->b[j * n + i] = h[-1] - half[-1];
        }
    }
    for (int l = 0; l < N_LAYERS && s->comm->node_rank == 0; l++) {
        const mq_tap_layer *of = &s->run.result->layer[l];
        uint16_t *w = s->run.stream[MQ_QUANTISED].weights->w[of->linear];
        for (int64_t i = 0; i < of->n_out * n; i++) {
            w[i] = mq_f32_to_bf16(mq_bf16_to_f32(w[i]) * (float)unevenness(i % n));
        }
    }
    CHECK(mq_share_fence(s->comm, s->run.stream[MQ_QUANTISED].weights->share) == MQ_OK);
}

/* Columns are scaled where that takes off a tenth at the usual damping: what was made uneven, and
 * not what is even. */
static void check_scaling(int64_t distribute_above, bool uneven)
{
    setting s;
    mq_damping_choice got;
    double plain = 0, scaled = 0, loss[N_LAYERS][2], unscaled[2];
    if (!begin(&s, distribute_above, 400, true)) return;
    if (uneven) make_uneven(&s);
    s.run.scheme->scale_columns = true;
    CHECK(mq_run_damping(&s.run, 0, tap, s.half, s.h, &got) == MQ_OK);
    for (int l = 0; l < N_LAYERS; l++) {
        naive_losses(&s, l, candidates[USUAL], false, unscaled);
        naive_losses(&s, l, candidates[USUAL], true, loss[l]);
        plain += unscaled[1];
        scaled += loss[l][1];
    }
    CHECK_MSG(got.scale_columns == uneven, "%g of the loss left", scaled / plain);
    CHECK(uneven ? scaled < 0.85 * plain : scaled > 0.95 * plain);
    CHECK(s.run.scaling_found[tap] == got.scale_columns);
    for (int l = 0; l < N_LAYERS && uneven; l++) {
        CHECK_MSG(near(got.half_loss[l], loss[l][0]) && near(got.held_out_loss[l], loss[l][1]),
                  "layer %d: %g and %g, expected %g and %g", l, got.half_loss[l],
                  got.held_out_loss[l], loss[l][0], loss[l][1]);
    }
    CHECK(mq_run_damping(&s.run, 1, tap, NULL, s.h, &got) == MQ_OK);
    CHECK(got.scale_columns == uneven); /* what was found last holds where nothing is measured */
    end(&s);
}

static void test_scaling(void)
{
    check_scaling(8192, true);
    check_scaling(0, true);
    check_scaling(8192, false);
}

/* A kept layer would read what was scaled for the others. */
static void test_scaling_with_a_kept_layer(void)
{
    setting s;
    mq_damping_choice got;
    if (!begin(&s, 8192, 400, false)) return;
    s.run.scheme->scale_columns = true;
    CHECK(mq_scaled_norm(s.run.source, s.run.scheme, 0, tap) != NULL);
    CHECK(mq_scaled_norm(s.run.source, s.run.scheme, 0, MQ_TAP_MLP_MID) == NULL);
    CHECK(mq_scaled_norm(s.run.source, s.run.scheme, 0, MQ_TAP_HEAD_IN) == NULL);
    s.run.scheme->layer[MQ_UP].quantise = false;
    CHECK(mq_scaled_norm(s.run.source, s.run.scheme, 0, tap) == NULL);
    CHECK(mq_run_damping(&s.run, 0, tap, s.half, s.h, &got) == MQ_OK);
    CHECK(!got.scale_columns);
    s.run.scaling_found[tap] = true; /* in another block */
    CHECK(mq_run_damping(&s.run, 0, tap, NULL, s.h, &got) == MQ_OK);
    CHECK(!got.scale_columns);
    CHECK(mq_run_damping(&s.run, 0, tap, s.half, s.h, &got) == MQ_OK);
    CHECK(!got.scale_columns && s.run.scaling_found[tap]);
    end(&s);
}

static void choose_scales(setting *s, mq_tap_system *system, float *scale)
{
    double w2[128];
    CHECK(mq_column_energies(&s->run, w2) == MQ_OK);
    mq_choose_column_scales(&s->run, tap, system, w2, scale);
}

/* The first column with a scale above 1, or below. */
static int64_t first(const float *scale, bool above)
{
    int64_t j = 0;
    while (j < 127 && !(above ? scale[j] > 1 : scale[j] < 1)) j++;
    return j;
}

/* The largest BF16 is not multiplied, and no digit of the smallest is lost. */
static void test_norms_at_the_end_of_their_type(void)
{
    setting s;
    mq_tap_system system = {0};
    float before[128], after[128];
    int64_t minor = 0;
    if (!begin(&s, 8192, 400, true)) return;
    make_uneven(&s);
    s.run.scheme->scale_columns = true;
    CHECK(mq_tap_system_create(&s.run, s.h, &system) == MQ_OK);
    CHECK(mq_tap_system_try(&s.run, s.comm, candidates[USUAL], 0, &system, &minor) == MQ_OK);
    choose_scales(&s, &system, before);
    int64_t large = first(before, true), small = first(before, false);
    float *norm = s.run.stream[MQ_QUANTISED].weights->mlp_norm;
    norm[large] = 0x1.fep127F;
    norm[small] = 0x1.02p-126F;
    choose_scales(&s, &system, after);
    CHECK(after[large] == 1 && after[small] == 1);
    for (int64_t j = 0; j < s.n; j++) CHECK(j == large || j == small || after[j] == before[j]);
    mq_tap_system_destroy(&system);
    end(&s);
}

/* One that was asked for is never left out. */
static void test_fixed_shrinkage(void)
{
    setting s;
    mq_damping_choice got;
    if (!begin(&s, 8192, 4000, true)) return;
    s.run.solver.measure_shrinkage = false;
    s.run.solver.damping.shrinkage = 0.02;
    CHECK(mq_run_damping(&s.run, 0, tap, s.half, s.h, &got) == MQ_OK);
    CHECK(same(got.damping, (mq_damping){0.01, 0.02}));
    end(&s);
}

/* No shrinkage where the mean gain by that, over all blocks so far, is 5 %. */
static void test_blocks_that_differ(void)
{
    setting s;
    mq_damping_choice got;
    if (!begin(&s, 8192, 4000, true)) return;
    mq_gain *gain = &s.run.gain_unshrunk[tap];
    CHECK(mq_run_damping(&s.run, 0, tap, s.half, s.h, &got) == MQ_OK);
    CHECK(same(got.damping, candidates[0]));
    double one = gain->sum;
    CHECK(gain->blocks == 1 && one > 0.05 && one < 1);
    *gain = (mq_gain){.blocks = (int64_t)(one / 0.05)}; /* so many without a gain are too many */
    CHECK(mq_run_damping(&s.run, 0, tap, s.half, s.h, &got) == MQ_OK);
    CHECK(same(got.damping, candidates[1]) && gain->sum == one);
    *gain = (mq_gain){.blocks = (int64_t)(one / 0.05) - 1};
    CHECK(mq_run_damping(&s.run, 0, tap, s.half, s.h, &got) == MQ_OK);
    CHECK(same(got.damping, candidates[0]));
    *gain = (mq_gain){.sum = 0.05 * 4 - one, .blocks = 4}; /* four with less than 5 % */
    CHECK(mq_run_damping(&s.run, 0, tap, s.half, s.h, &got) == MQ_OK);
    CHECK(same(got.damping, candidates[1]));
    end(&s);
}

/* A half that only the strongest damping makes positive definite: two channels that go together
 * more than they can, everything else alike. */
static void test_indefinite_half(void)
{
    setting s;
    mq_damping_choice got;
    if (!begin(&s, 8192, 4000, false)) return;
    double *half = s.half->packed, *h = s.h->packed;
    for (int64_t i = 0; i < s.n; i++) {
        for (int64_t j = i; j < s.n; j++) {
            *half++ = i == j ? 1024 : i == 0 && j == 1 ? 1536 : 0;
            *h++ = i == j ? 3072 : i == 0 && j == 1 ? 1536 : 0;
        }
    }
    CHECK(mq_run_damping(&s.run, 0, tap, s.half, s.h, &got) == MQ_OK);
    CHECK(same(got.damping, candidates[N_CANDIDATES - 1]));
    CHECK(isfinite(got.held_out_loss[0]) && got.held_out_loss[0] > 0);
    end(&s);
}

/* No half, or one without tokens: the damping found before, or else the usual one. */
static void test_nothing_held_out(void)
{
    setting s;
    mq_damping_choice got;
    if (!begin(&s, 8192, 40, false)) return;
    CHECK(mq_run_damping(&s.run, 0, tap, NULL, s.h, &got) == MQ_OK);
    CHECK(same(got.damping, candidates[USUAL]) && isnan(got.held_out_loss[0]) &&
          isnan(got.half_loss[0]));
    CHECK(mq_run_damping(&s.run, 0, tap, s.h, s.h, &got) == MQ_OK);
    CHECK(same(got.damping, candidates[USUAL]) && isnan(got.held_out_loss[0]));
    s.run.damping_found[tap] = candidates[0];
    CHECK(mq_run_damping(&s.run, 0, tap, NULL, s.h, &got) == MQ_OK);
    CHECK(same(got.damping, candidates[0]));
    end(&s);
}

/* All narrow taps; of wide ones those of the first, second, third, fifth, ninth block. */
static void test_when(void)
{
    setting s;
    if (!begin(&s, 8192, 40, false)) return;
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
    RUN(test_scaling);
    RUN(test_scaling_with_a_kept_layer);
    RUN(test_norms_at_the_end_of_their_type);
    RUN(test_fixed_shrinkage);
    RUN(test_blocks_that_differ);
    RUN(test_indefinite_half);
    RUN(test_nothing_held_out);
    RUN(test_when);
    mq_ops_stop();
    return harness_finish();
}
