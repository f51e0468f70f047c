/* The share of the correction that each layer gets (alpha), measured by halves on the rows of a
 * small model with two streams: against sums and solves in f64 over all tokens, for any number of
 * ranks, factored by one rank or by all. */
#include "base/memory.h"
#include "ops/ops.h"
#include "pipeline/run.h"

#include "../unit/test_solve.h"
#include "test_three_units.h"
#include "test_tiny_run.h"

/* All tokens of a stream, BF16. */
typedef struct tokens {
    uint16_t *inputs;   /* (N_TOKENS, n) of the tap */
    uint16_t *residual; /* (N_TOKENS, hidden) */
} tokens;

typedef struct setting {
    mq_comm *comm;
    mq_quantize_options options;
    mq_run run;
    mq_calib calib;
    mq_unit unit[N_UNITS];
    mq_tap_id tap;
    tokens stream[MQ_MAX_STREAMS];
    int64_t n, hidden;
    double *a, *b; /* (n, n) sums over the halves */
    mq_damping damping;
} setting;

/* ---- a run with two streams ------------------------------------------------------------------ */

/* The original stream is the other one and a drift: part follows from the inputs, part is noise. */
static void fill(const setting *s, double noise, const uint16_t *now, uint16_t *then, int64_t width,
                 uint64_t seed)
{
    for (int64_t i = 0; i < N_TOKENS * width; i++) {
        int64_t row = i / width, j = i % width;
        double x = (double)mq_bf16_to_f32(now[i]);
        double other = (double)mq_bf16_to_f32(s->stream[MQ_QUANTISED].inputs[row * s->n + j / 2]);
        double drift = 0.1 * other + noise * next_random(&seed);
        then[i] = mq_f32_to_bf16((float)(x + drift));
    }
}

static void make_tokens(setting *s, double noise)
{
    uint64_t seed = 7;
    for (int i = 0; i < MQ_MAX_STREAMS; i++) {
        s->stream[i].inputs = zeroed(N_TOKENS * s->n, sizeof(uint16_t));
        s->stream[i].residual = zeroed(N_TOKENS * s->hidden, sizeof(uint16_t));
    }
    tokens *now = &s->stream[MQ_QUANTISED], *then = &s->stream[MQ_ORIGINAL];
    for (int64_t i = 0; i < N_TOKENS * s->n; i++) {
        double size = exp(sin((double)(i % s->n)));
        now->inputs[i] = mq_f32_to_bf16((float)(next_random(&seed) * size));
    }
    for (int64_t i = 0; i < N_TOKENS * s->hidden; i++) {
        now->residual[i] = mq_f32_to_bf16((float)next_random(&seed));
    }
    fill(s, noise, now->inputs, then->inputs, s->n, 11);
    fill(s, noise, now->residual, then->residual, s->hidden, 13);
}

static mq_status make_run(setting *s)
{
    mq_run *run = &s->run;
    run->calib = &s->calib;
    run->n_streams = 2;
    run->stream[MQ_ORIGINAL].weights = run->stream[MQ_QUANTISED].weights;
    MQ_TRY(mq_alloc(N_TOKENS * (s->n + s->hidden), sizeof(float), "workspace", &run->work));
    for (int i = 0; i < MQ_MAX_STREAMS; i++) {
        MQ_TRY(three_units_rows(&s->calib, s->stream[i].inputs, s->n, &run->stream[i].tap[s->tap]));
        MQ_TRY(three_units_rows(&s->calib, s->stream[i].residual, s->hidden, &run->stream[i].x));
    }
    return mq_activations_create(&s->calib, s->hidden, MQ_BF16, "drift", &run->drift);
}

static bool begin(setting *s, const char *model, mq_tap_id tap, int64_t distribute_above,
                  double noise)
{
    memset(s, 0, sizeof *s);
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &s->comm) == MQ_OK)) return false;
    mq_quantize_defaults(&s->options);
    s->options.preset = "best";
    s->options.bits = 3;
    s->options.group = 32;
    s->options.distribute_above = distribute_above;
    s->tap = tap;
    s->damping = (mq_damping){0.05, 0.1};
    if (!tiny_run_open(&s->run, s->comm, &s->options, model, tap)) return false;
    s->n = s->run.result->n_in;
    s->hidden = s->run.arch->hidden;
    three_units(s->comm, s->unit, &s->calib);
    make_tokens(s, noise);
    return CHECK_ALL(make_run(s) == MQ_OK);
}

static void end(setting *s)
{
    for (int i = 0; i < MQ_MAX_STREAMS; i++) {
        mq_activations_free(&s->run.stream[i].tap[s->tap]);
        mq_activations_free(&s->run.stream[i].x);
        free(s->stream[i].inputs);
        free(s->stream[i].residual);
    }
    mq_activations_free(&s->run.drift);
    mq_free(&s->run.work);
    free(s->a);
    free(s->b);
    tiny_run_close(&s->run);
    mq_comm_destroy(&s->comm);
}

static bool measure(setting *s)
{
    mq_hessian *h = NULL, *half = NULL;
    mq_status status = mq_run_hessian(&s->run, 0, s->tap, &half, &h);
    if (status == MQ_OK) status = mq_run_drift(&s->run, s->tap);
    if (status == MQ_OK) status = mq_run_alpha(&s->run, 0, s->tap, half, h, s->damping);
    mq_hessian_destroy(&half);
    mq_hessian_destroy(&h);
    return CHECK_ALL(status == MQ_OK);
}

/* ---- the same by definition ------------------------------------------------------------------ */

static double at(const uint16_t *from, int64_t i)
{
    return (double)mq_bf16_to_f32(from[i]);
}

static bool in_first_half(int64_t t)
{
    int u = t >= first_token[2] ? 2 : t >= first_token[1] ? 1 : 0;
    return t - first_token[u] < sample_offset[u][u % 2 == 0 ? 2 : 1];
}

static void sum_halves(setting *s)
{
    const uint16_t *x = s->stream[MQ_QUANTISED].inputs;
    s->a = zeroed(s->n * s->n, sizeof *s->a);
    s->b = zeroed(s->n * s->n, sizeof *s->b);
    for (int64_t t = 0; t < N_TOKENS; t++) {
        double *to = in_first_half(t) ? s->a : s->b;
        for (int64_t i = 0; i < s->n * s->n; i++) {
            to[i] += at(x, t * s->n + i / s->n) * at(x, t * s->n + i % s->n);
        }
    }
}

/* How far the output of a row is from where it is to be, on token t. */
static double output_drift(const setting *s, const double *row, int64_t r, int64_t t)
{
    const tokens *now = &s->stream[MQ_QUANTISED], *then = &s->stream[MQ_ORIGINAL];
    mq_linear_id linear;
    double sum = 0;
    for (int64_t j = 0; j < s->n; j++) {
        int64_t i = t * s->n + j;
        sum += row[j] * (at(then->inputs, i) - at(now->inputs, i));
    }
    if (!mq_tap_writes_residual(s->tap, &linear)) return sum;
    int64_t i = t * s->hidden + r;
    return sum + at(then->residual, i) - at(now->residual, i);
}

static void add_row(const setting *s, const double *damped, int l, int64_t r, double *pull,
                    double *drag)
{
    const uint16_t *weights =
        s->run.stream[MQ_QUANTISED].weights->w[s->run.result->layer[l].linear];
    int64_t n = s->n;
    double *row = zeroed(n, 8), *first = zeroed(n, 8), *held_out = zeroed(n, 8), *z = zeroed(n, 8);
    for (int64_t j = 0; j < n; j++) row[j] = at(weights, r * n + j);
    for (int64_t t = 0; t < N_TOKENS; t++) {
        double drift = output_drift(s, row, r, t), *to = in_first_half(t) ? first : held_out;
        for (int64_t j = 0; j < n; j++) {
            to[j] += drift * at(s->stream[MQ_QUANTISED].inputs, t * n + j);
        }
    }
    naive_solve(damped, first, n, z);
    for (int64_t j = 0; j < n; j++) *pull += z[j] * held_out[j];
    *drag += quadratic(z, s->b, n);
    free(row);
    free(first);
    free(held_out);
    free(z);
}

static double naive_alpha(const setting *s, int l)
{
    int64_t n = s->n, n_out = s->run.result->layer[l].n_out, some = 32 / s->run.result->n_layers;
    double *damped = zeroed(n * n, sizeof *damped), mean = 0, pull = 0, drag = 0;
    memcpy(damped, s->a, (size_t)(n * n) * sizeof *damped);
    for (int64_t j = 0; j < n; j++) mean += s->a[j * n + j] / (double)n;
    for (int64_t j = 0; j < n; j++) {
        damped[j * n + j] = s->a[j * n + j] / (1 - s->damping.shrinkage) + s->damping.share * mean;
    }
    for (int64_t i = 0; i < some; i++) add_row(s, damped, l, i * n_out / some, &pull, &drag);
    free(damped);
    int64_t in_half = 0;
    for (int64_t t = 0; t < N_TOKENS; t++) in_half += in_first_half(t);
    double a = pull / drag, part = (double)in_half / N_TOKENS;
    return a > 0 ? fmin(a / (a + part * (1 - a)), 1) : 0;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void check(const char *model, mq_tap_id tap, int64_t distribute_above, double noise,
                  double least, double most)
{
    setting s;
    if (!begin(&s, model, tap, distribute_above, noise)) return;
    if (measure(&s)) {
        sum_halves(&s);
        for (int l = 0; l < s.run.result->n_layers; l++) {
            double got = s.run.alpha[s.run.result->layer[l].linear], expected = naive_alpha(&s, l);
            CHECK_MSG(fabs(got - expected) <= 0.005, "layer %d: %g, expected %g", l, got, expected);
            CHECK_MSG(got >= least && got <= most, "layer %d: %g is not from %g to %g", l, got,
                      least, most);
        }
    }
    end(&s);
}

static void test_inputs(void)
{
    check("llama2", MQ_TAP_MLP_IN, 8192, 0, 0.97, 1);
    check("llama2", MQ_TAP_MLP_IN, 8192, 0.6, 0.2, 0.9);
    check("llama2", MQ_TAP_MLP_IN, 0, 0.6, 0.2, 0.9);
    check("llama2", MQ_TAP_MLP_IN, 8192, 10, 0, 0.2);
}

static void test_residual(void)
{
    check("llama2", MQ_TAP_MLP_MID, 8192, 0, 0.97, 1);
    check("llama2", MQ_TAP_MLP_MID, 8192, 0.6, 0.1, 0.9);
    check("llama2", MQ_TAP_MLP_MID, 0, 0.6, 0.1, 0.9);
}

/* q, k, v, gate and up of a parallel block read one tap. */
static void test_parallel_block(void)
{
    check("command_r", MQ_TAP_ATTN_IN, 8192, 0.6, 0.1, 0.95);
}

/* What was asked for or measured last stays where nothing is to be measured, nothing is held out,
 * the half is not positive definite, or the streams do not differ. */
static void test_not_measured(void)
{
    setting s;
    if (!begin(&s, "llama2", MQ_TAP_MLP_IN, 8192, 0.1)) return;
    double *alpha = s.run.alpha;
    s.run.solver.measure_alpha = false;
    if (measure(&s)) CHECK(alpha[MQ_GATE] == 0.75 && alpha[MQ_UP] == 0.75);
    s.run.solver.measure_alpha = true;
    alpha[MQ_UP] = 0.3;
    mq_hessian *h = NULL, *none = NULL;
    mq_status status = mq_run_hessian(&s.run, 0, s.tap, NULL, &h);
    if (status == MQ_OK) status = mq_hessian_create(s.n, &none);
    if (CHECK_ALL(status == MQ_OK)) {
        CHECK(mq_run_alpha(&s.run, 0, s.tap, NULL, h, s.damping) == MQ_OK);
        CHECK(mq_run_alpha(&s.run, 0, s.tap, none, h, s.damping) == MQ_OK);
        CHECK(mq_run_alpha(&s.run, 0, s.tap, h, h, s.damping) == MQ_OK);
        CHECK(alpha[MQ_GATE] == 0.75 && alpha[MQ_UP] == 0.3);
    }
    mq_hessian_destroy(&h);
    mq_hessian_destroy(&none);
    s.damping = (mq_damping){-10, 0};
    if (measure(&s)) CHECK(alpha[MQ_GATE] == 0.75 && alpha[MQ_UP] == 0.3);
    s.damping = (mq_damping){0.05, 0};
    mq_activations *now = &s.run.stream[MQ_QUANTISED].tap[s.tap];
    for (int64_t u = 0; u < s.calib.n_local_units; u++) {
        memcpy(mq_activations_unit(&s.run.stream[MQ_ORIGINAL].tap[s.tap], &s.calib, u),
               mq_activations_unit(now, &s.calib, u), (size_t)(s.unit[u].n_tokens * s.n) * 2);
    }
    if (measure(&s)) CHECK(alpha[MQ_GATE] == 0.75 && alpha[MQ_UP] == 0.3);
    end(&s);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    if (mq_ops_start(1, "") != MQ_OK) return 1;
    RUN(test_inputs);
    RUN(test_residual);
    RUN(test_parallel_block);
    RUN(test_not_measured);
    mq_ops_stop();
    return harness_finish();
}
