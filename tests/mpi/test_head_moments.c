/* What the rows of q and k meet in the scores, on one block of every kind of family: against
 * queries and keys made token by token in f64, turned by the kernel of the forward. */
#include "base/memory.h"
#include "base/parallel.h"
#include "ops/ops.h"
#include "pipeline/head_moments.h"

#include "../unit/test_solve.h"
#include "test_tiny_run.h"

enum { N_UNITS = 3, MOST_SAMPLES = 3, N_TOKENS = 330, MOST_DIM = 64 };
static const int64_t sample_offset[N_UNITS][MOST_SAMPLES + 1] = {
    {0, 40, 47, 120}, {0, 1, 60, 90}, {0, 60, 61, 120}};
static const int64_t first_token[N_UNITS + 1] = {0, 120, 210, N_TOKENS};

typedef struct setting {
    mq_comm *comm;
    mq_quantize_options options;
    mq_run run;
    mq_calib calib;
    mq_unit unit[N_UNITS];
    uint16_t *x; /* (N_TOKENS, n): the inputs of all units, BF16 */
    int64_t n;
    mq_hessian *h;
    mq_tap_system system;
    mq_head_moments moments;
} setting;

static bool open_model(setting *s, const char *name)
{
    mq_quantize_defaults(&s->options);
    s->options.group = 32;
    if (!tiny_run_open(&s->run, s->comm, &s->options, name, MQ_TAP_ATTN_IN)) return false;
    s->run.calib = &s->calib;
    return true;
}

/* Units go round; their inputs have a mean and channels of different size. */
static bool deal_units(setting *s)
{
    mq_calib *c = &s->calib;
    mq_activations *tap = &s->run.stream[MQ_QUANTISED].tap[MQ_TAP_ATTN_IN];
    uint64_t seed = 3;
    *c = (mq_calib){.n_samples = 9,
                    .n_tokens = N_TOKENS,
                    .n_units = N_UNITS,
                    .longest = 73,
                    .shortest = 1,
                    .max_unit_tokens = 120,
                    .unit = s->unit};
    s->n = s->run.arch->hidden;
    s->x = zeroed(N_TOKENS * s->n, sizeof *s->x);
    for (int64_t i = 0; i < N_TOKENS * s->n; i++) {
        double size = exp(sin((double)(i % s->n)));
        s->x[i] = mq_f32_to_bf16((float)((0.3 + next_random(&seed)) * size));
    }
    for (int u = s->comm->rank; u < N_UNITS; u += s->comm->size) {
        s->unit[c->n_local_units++] = (mq_unit){.id = u,
                                                .n_tokens = sample_offset[u][MOST_SAMPLES],
                                                .n_samples = MOST_SAMPLES,
                                                .first_sample = 3 * u,
                                                .token_begin = c->n_local_tokens,
                                                .offset = sample_offset[u]};
        c->n_local_tokens += sample_offset[u][MOST_SAMPLES];
    }
    if (!CHECK_ALL(mq_activations_create(c, s->n, MQ_BF16, "inputs", tap) == MQ_OK)) return false;
    for (int64_t u = 0; u < c->n_local_units; u++) {
        memcpy(mq_activations_unit(tap, c, u), s->x + first_token[c->unit[u].id] * s->n,
               (size_t)(c->unit[u].n_tokens * s->n) * sizeof *s->x);
    }
    return true;
}

static bool begin(setting *s, const char *name, MPI_Comm parent)
{
    memset(s, 0, sizeof *s);
    if (!CHECK_ALL(mq_comm_create(parent, &s->comm) == MQ_OK)) return false;
    if (!open_model(s, name) || !deal_units(s)) return false;
    mq_status status = mq_run_hessian(&s->run, 0, MQ_TAP_ATTN_IN, NULL, &s->h);
    if (status == MQ_OK) status = mq_tap_system_create(&s->run, s->h, &s->system);
    if (status == MQ_OK) status = mq_head_moments_create(&s->run, 0, &s->system, &s->moments);
    return CHECK_ALL(status == MQ_OK);
}

static void end(setting *s)
{
    mq_head_moments_free(&s->moments);
    mq_tap_system_destroy(&s->system);
    mq_hessian_destroy(&s->h);
    mq_activations_free(&s->run.stream[MQ_QUANTISED].tap[MQ_TAP_ATTN_IN]);
    free(s->x);
    tiny_run_close(&s->run);
    mq_comm_destroy(&s->comm);
}

/* What the norm makes of an f64 vector; `square` is the mean square that it divides by, below 0:
 * its own. */
static void norm(const mq_arch *a, const float *weight, double square, double *y)
{
    int64_t hd = a->head_dim;
    double mean = 0, own = a->norm_eps;
    for (int64_t i = 0; i < hd; i++) mean += y[i] / (double)hd;
    for (int64_t i = 0; i < hd && a->qk_norm_kind == MQ_NORM_LAYER; i++) y[i] -= mean;
    for (int64_t i = 0; i < hd; i++) own += y[i] * y[i] / (double)hd;
    double factor = 1 / sqrt(square < 0 ? own : square);
    for (int64_t i = 0; i < hd; i++) y[i] *= (double)weight[i] * factor;
}

static const float *norm_weight(const setting *s, mq_linear_id linear, int64_t head)
{
    const mq_block_weights *w = s->run.stream[MQ_QUANTISED].weights;
    const float *weight = linear == MQ_Q ? w->q_norm : w->k_norm;
    if (!weight || s->run.arch->qk_norm != MQ_QK_PER_HEAD) return weight;
    return weight + head * s->run.arch->head_dim;
}

/* A head's query or key of a token, before it is turned. */
static void vector_of(const setting *s, mq_linear_id linear, int64_t head, int64_t t, double *y)
{
    const mq_block_weights *weights = s->run.stream[MQ_QUANTISED].weights;
    const uint16_t *w = weights->w[linear], *x = s->x + t * s->n;
    const float *bias = weights->bias[linear], *weight = norm_weight(s, linear, head);
    int64_t hd = s->run.arch->head_dim;
    for (int64_t i = 0; i < hd; i++) {
        int64_t row = head * hd + i;
        y[i] = bias ? (double)bias[row] : 0;
        for (int64_t k = 0; k < s->n; k++) {
            y[i] += (double)mq_bf16_to_f32(w[row * s->n + k]) * (double)mq_bf16_to_f32(x[k]);
        }
    }
    if (weight) norm(s->run.arch, weight, -1, y);
}

/* Relative distance of a head's moment from that over the tokens. */
static double moment_error(const setting *s, mq_linear_id linear, int64_t head, const double *m)
{
    int64_t hd = s->run.arch->head_dim;
    double want[MOST_DIM * MOST_DIM] = {0}, y[MOST_DIM], off = 0, all = 0;
    for (int64_t t = 0; t < N_TOKENS; t++) {
        vector_of(s, linear, head, t, y);
        for (int64_t i = 0; i < hd * hd; i++) want[i] += y[i / hd] * y[i % hd] / N_TOKENS;
    }
    for (int64_t i = 0; i < hd * hd; i++) {
        off += (m[i] - want[i]) * (m[i] - want[i]);
        all += want[i] * want[i];
    }
    return sqrt(off / all);
}

/* The square of what an error of a head's row outputs changes in the scores, averaged over tokens
 * that it meets and their distances. */
static double score_error(const setting *s, mq_linear_id linear, int64_t head, const double *error)
{
    const mq_arch *a = s->run.arch;
    int64_t hd = a->head_dim, shared = a->n_heads / a->n_kv_heads, n = 0;
    const float *weight = norm_weight(s, linear, head);
    double *share = NULL, e[MOST_DIM], y[MOST_DIM], sum = 0, pairs = 0;
    float *table = NULL;
    memcpy(e, error, (size_t)hd * sizeof *e);
    if (weight) norm(a, weight, 1, e);
    CHECK(mq_calib_distances(s->comm, &s->calib, 0, &share, &n) == MQ_OK);
    CHECK(mq_rope_table(a, n, &table) == MQ_OK);
    int64_t first = linear == MQ_Q ? head / shared : head * shared;
    int64_t last = linear == MQ_Q ? first : first + shared - 1;
    for (int64_t other = first; other <= last; other++) {
        for (int64_t t = 0; t < N_TOKENS; t++) {
            vector_of(s, linear == MQ_Q ? MQ_K : MQ_Q, other, t, y);
            for (int64_t d = 0; d < n; d++) {
                float far[MOST_DIM];
                double dot = 0;
                int32_t position = (int32_t)d;
                const double *turned = linear == MQ_Q ? e : y, *still = linear == MQ_Q ? y : e;
                for (int64_t i = 0; i < hd; i++) far[i] = (float)turned[i];
                CHECK(mq_rope(far, 1, hd, 1, hd, table, &position, a->rope_interleaved, MQ_F32) ==
                      MQ_OK);
                for (int64_t i = 0; i < hd; i++) dot += (double)far[i] * still[i];
                sum += share[d] * dot * dot;
            }
        }
    }
    for (int64_t d = 0; d < n; d++) pairs += share[d];
    mq_free(&share);
    mq_free(&table);
    return sum / pairs / N_TOKENS;
}

static void check_metric(const setting *s, mq_linear_id linear, int64_t head, double tolerance)
{
    int64_t hd = s->run.arch->head_dim;
    double a[MOST_DIM * MOST_DIM], error[MOST_DIM], got = 0;
    uint64_t seed = 17;
    CHECK(mq_head_metric(&s->run, &s->moments, linear, head, a) == MQ_OK);
    for (int64_t i = 0; i < hd; i++) error[i] = next_random(&seed);
    for (int64_t i = 0; i < hd * hd; i++) got += error[i / hd] * a[i] * error[i % hd];
    double want = score_error(s, linear, head, error);
    CHECK_MSG(fabs(got - want) < tolerance * want, "head %d of %s: %g instead of %g", (int)head,
              mq_linear_name(linear), got, want);
}

/* Where there is a norm, it divides every token by its own mean square, the moment by the mean:
 * hence the tolerance. */
static void check_model(const char *name, bool has_norm, bool has_bias)
{
    setting s;
    double tolerance = has_norm ? 0.15 : 1e-5;
    if (begin(&s, name, MPI_COMM_WORLD)) {
        const mq_arch *a = s.run.arch;
        int64_t area = a->head_dim * a->head_dim;
        CHECK(a->head_dim <= MOST_DIM);
        CHECK(has_norm == (a->qk_norm != MQ_QK_NONE) && has_bias == a->has_bias[MQ_K]);
        for (int64_t h = 0; h < a->n_heads; h++) {
            double off = moment_error(&s, MQ_Q, h, s.moments.query + h * area);
            CHECK_MSG(off < tolerance, "%s: queries of head %d are off by %g", name, (int)h, off);
        }
        for (int64_t h = 0; h < a->n_kv_heads; h++) {
            double off = moment_error(&s, MQ_K, h, s.moments.key + h * area);
            CHECK_MSG(off < tolerance, "%s: keys of head %d are off by %g", name, (int)h, off);
        }
        check_metric(&s, MQ_Q, a->n_heads - 1, tolerance);
        check_metric(&s, MQ_K, a->n_kv_heads - 1, tolerance);
    }
    end(&s);
}

static void test_plain(void)
{
    check_model("llama2", false, false);
}

static void test_bias(void)
{
    check_model("qwen2", false, true);
}

static void test_rms_norm(void)
{
    check_model("qwen3", true, false);
}

static void test_layer_norm_interleaved(void)
{
    check_model("command_r_plus", true, false);
}

/* By all ranks, and by every rank alone. */
static void test_same_bits(void)
{
    static const char *const names[] = {"qwen2", "command_r_plus"};
    for (int i = 0; i < 2; i++) {
        setting all, alone;
        bool good = begin(&all, names[i], MPI_COMM_WORLD);
        if (begin(&alone, names[i], MPI_COMM_SELF) && good) {
            const mq_arch *a = all.run.arch;
            int64_t count = (a->n_heads + a->n_kv_heads) * a->head_dim * a->head_dim;
            CHECK(memcmp(all.moments.storage, alone.moments.storage,
                         (size_t)count * sizeof(double)) == 0);
        }
        end(&alone);
        end(&all);
    }
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    if (mq_ops_start(2, "") != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    RUN(test_plain);
    RUN(test_bias);
    RUN(test_rms_norm);
    RUN(test_layer_norm_interleaved);
    RUN(test_same_bits);
    mq_ops_stop();
    mq_scratch_free();
    return harness_finish();
}
