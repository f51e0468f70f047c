/* What the rows of q and k meet in the scores, on one block of every kind of family: against
 * queries and keys made token by token in f64, turned by the kernel of the forward. */
#include "base/memory.h"
#include "base/parallel.h"
#include "ops/ops.h"
#include "pipeline/row_work.h"

#include "../unit/test_solve.h"
#include "test_three_units.h"
#include "test_tiny_run.h"

enum { MOST_DIM = 64 };

typedef struct setting {
    mq_comm *comm;
    mq_quantize_options options;
    mq_run run;
    mq_calib calib;
    mq_unit unit[N_UNITS];
    uint16_t *x;              /* (N_TOKENS, n): the inputs of all units, BF16 */
    int64_t n, window, chunk; /* chunk 0: none */
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

/* Their inputs have a mean and channels of different size. */
static bool deal_units(setting *s)
{
    mq_activations *tap = &s->run.stream[MQ_QUANTISED].tap[MQ_TAP_ATTN_IN];
    uint64_t seed = 3;
    three_units(s->comm, s->unit, &s->calib);
    s->n = s->run.arch->hidden;
    s->x = zeroed(N_TOKENS * s->n, sizeof *s->x);
    for (int64_t i = 0; i < N_TOKENS * s->n; i++) {
        double size = exp(sin((double)(i % s->n)));
        s->x[i] = mq_f32_to_bf16((float)((0.3 + next_random(&seed)) * size));
    }
    return CHECK_ALL(three_units_rows(&s->calib, s->x, s->n, tap) == MQ_OK);
}

static bool begin(setting *s, const char *name, int64_t window, MPI_Comm parent)
{
    memset(s, 0, sizeof *s);
    if (!CHECK_ALL(mq_comm_create(parent, &s->comm) == MQ_OK)) return false;
    if (!open_model(s, name) || !deal_units(s)) return false;
    s->window = window;
    s->run.arch->window = window < LONGEST ? window : 0;
    s->run.arch->block[0].sliding = true;
    /* Of longrope all samples are short, or there would be no metric. */
    if (s->run.arch->rope.scaling == MQ_ROPE_LONG) s->run.arch->rope.original_positions = LONGEST;
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

static void centre(const mq_arch *a, double *y)
{
    double mean = 0;
    if (a->qk_norm_kind != MQ_NORM_LAYER) return;
    for (int64_t i = 0; i < a->head_dim; i++) mean += y[i] / (double)a->head_dim;
    for (int64_t i = 0; i < a->head_dim; i++) y[i] -= mean;
}

static const float *norm_weight(const setting *s, mq_linear_id linear, int64_t head)
{
    const mq_block_weights *w = s->run.stream[MQ_QUANTISED].weights;
    const float *weight = linear == MQ_Q ? w->q_norm : w->k_norm;
    if (!weight || s->run.arch->qk_norm == MQ_QK_HEAD_SHARED) return weight;
    return weight + head * s->run.arch->head_dim;
}

/* The layer that holds the rows of a head, and its first row there. */
static mq_linear_id layer_of(const mq_arch *a, mq_linear_id linear, int64_t head, int64_t *row)
{
    int64_t before = 0;
    if (a->fused_qkv && linear == MQ_K) before = a->n_heads;
    if (a->fused_qkv && linear == MQ_V) before = a->n_heads + a->n_kv_heads;
    *row = (before + head) * a->head_dim;
    if (a->attention_gate && linear == MQ_Q) *row *= 2;
    return a->fused_qkv ? MQ_Q : linear;
}

/* A head's query or key of a token before its norm, but for LayerNorm's mean. */
static void projected(const setting *s, mq_linear_id linear, int64_t head, int64_t t, double *y)
{
    const mq_block_weights *weights = s->run.stream[MQ_QUANTISED].weights;
    int64_t hd = s->run.arch->head_dim, first = 0;
    mq_linear_id stored = layer_of(s->run.arch, linear, head, &first);
    const uint16_t *w = weights->w[stored], *x = s->x + t * s->n;
    const float *bias = weights->bias[stored];
    for (int64_t i = 0; i < hd; i++) {
        int64_t row = first + i;
        y[i] = bias ? (double)bias[row] : 0;
        for (int64_t k = 0; k < s->n; k++) {
            y[i] += (double)mq_bf16_to_f32(w[row * s->n + k]) * (double)mq_bf16_to_f32(x[k]);
        }
    }
    if (norm_weight(s, linear, head)) centre(s->run.arch, y);
}

/* All tokens of a head, (N_TOKENS, head_dim), as attention gets them before it turns them. The norm
 * divides each by the root of its own mean square, or, as the moments have it, by that of all;
 * where the heads are normed as one, they leave out what is the same for all of them. */
static double *vectors_of(const setting *s, mq_linear_id linear, int64_t head, bool own_square)
{
    const mq_arch *a = s->run.arch;
    int64_t hd = a->head_dim;
    const float *weight = norm_weight(s, linear, head);
    double *y = zeroed(N_TOKENS * hd, sizeof *y), square[N_TOKENS], all = 0;
    for (int64_t t = 0; t < N_TOKENS; t++) {
        square[t] = a->norm_eps;
        projected(s, linear, head, t, y + t * hd);
        for (int64_t i = 0; i < hd; i++) square[t] += pow(y[t * hd + i], 2) / (double)hd;
        all += square[t] / N_TOKENS;
    }
    bool as_one = a->qk_norm == MQ_QK_ALL_HEADS;
    for (int64_t t = 0; t < N_TOKENS && as_one; t++) square[t] = 1;
    if (as_one) all = 1;
    for (int64_t i = 0; i < N_TOKENS * hd && weight; i++) {
        y[i] *= (double)weight[i % hd] / sqrt(own_square ? square[i / hd] : all);
    }
    return y;
}

/* Relative distance of a head's moment from that over the tokens. */
static double moment_error(const setting *s, mq_linear_id linear, int64_t head, const double *m,
                           bool own_square)
{
    int64_t hd = s->run.arch->head_dim;
    double want[MOST_DIM * MOST_DIM] = {0}, off = 0, all = 0;
    double *y = vectors_of(s, linear, head, own_square);
    for (int64_t t = 0; t < N_TOKENS; t++) {
        const double *v = y + t * hd;
        for (int64_t i = 0; i < hd * hd; i++) want[i] += v[i / hd] * v[i % hd] / N_TOKENS;
    }
    for (int64_t i = 0; i < hd * hd; i++) {
        off += (m[i] - want[i]) * (m[i] - want[i]);
        all += want[i] * want[i];
    }
    free(y);
    return sqrt(off / all);
}

/* Pairs at each distance, by counting them. */
static void count_pairs(int64_t window, int64_t chunk, double *share)
{
    for (int u = 0; u < N_UNITS; u++) {
        for (int i = 0; i < MOST_SAMPLES; i++) {
            int64_t length = sample_offset[u][i + 1] - sample_offset[u][i];
            for (int64_t t = 0; t < length; t++) {
                int64_t from = chunk > 0 ? t / chunk * chunk : 0;
                for (int64_t j = from; j <= t; j++) share[t - j] += t - j < window;
            }
        }
    }
}

/* Mean square over the distances of what y (still) and e, turned by the distance, make together. */
static double mean_square(const mq_arch *a, const float *table, const double *share,
                          const double *turned, const double *still)
{
    int64_t hd = a->head_dim;
    const mq_rope_kind *rope = mq_arch_rope(a, 0);
    double sum = 0, pairs = 0;
    for (int32_t d = 0; d < LONGEST; d++) {
        float far[MOST_DIM];
        double dot = 0;
        for (int64_t i = 0; i < hd; i++) far[i] = (float)turned[i];
        CHECK(mq_rope(far, 1, hd, 1, hd, rope->dim, table, &d, a->rope_interleaved, MQ_F32) ==
              MQ_OK);
        for (int64_t i = 0; i < hd; i++) {
            double factor = i < rope->dim ? rope->attention_factor : 1; /* which far has */
            dot += (double)far[i] * still[i] * factor;
        }
        sum += share[d] * dot * dot;
        pairs += share[d];
    }
    return sum / pairs;
}

/* The square of what an error of a head's outputs changes in the scores, averaged over the tokens
 * that it meets and their distances: a query is as far ahead of a key as they are apart. */
static double score_error(const setting *s, mq_linear_id linear, int64_t head, const double *error)
{
    const mq_arch *a = s->run.arch;
    int64_t hd = a->head_dim, shared = a->n_heads / a->n_kv_heads;
    const float *weight = norm_weight(s, linear, head);
    double share[LONGEST] = {0}, e[MOST_DIM], sum = 0;
    float *table = NULL;
    memcpy(e, error, (size_t)hd * sizeof *e);
    if (weight) centre(a, e);
    for (int64_t i = 0; i < hd && weight; i++) e[i] *= (double)weight[i];
    count_pairs(s->window, s->chunk, share);
    CHECK(mq_rope_table(mq_arch_rope(a, 0), LONGEST, &table) == MQ_OK);
    int64_t first = linear == MQ_Q ? head / shared : head * shared;
    int64_t last = linear == MQ_Q ? first : first + shared - 1;
    for (int64_t other = first; other <= last; other++) {
        double *y = vectors_of(s, linear == MQ_Q ? MQ_K : MQ_Q, other, false);
        for (int64_t t = 0; t < N_TOKENS; t++) {
            const double *v = y + t * hd;
            sum += mean_square(a, table, share, linear == MQ_Q ? e : v, linear == MQ_Q ? v : e);
        }
        free(y);
    }
    mq_free(&table);
    return sum / N_TOKENS;
}

static void check_metric(const setting *s, mq_linear_id linear, int64_t head)
{
    int64_t hd = s->run.arch->head_dim;
    double a[MOST_DIM * MOST_DIM], error[MOST_DIM];
    uint64_t seed = 17;
    CHECK(mq_head_metric(&s->run, &s->moments, linear, head, a) == MQ_OK);
    for (int c = 0; c < 3; c++) {
        double got = 0;
        for (int64_t i = 0; i < hd; i++) error[i] = next_random(&seed);
        for (int64_t i = 0; i < hd * hd; i++) got += error[i / hd] * a[i] * error[i % hd];
        double want = score_error(s, linear, head, error);
        CHECK_MSG(fabs(got - want) < 1e-5 * want, "head %d of %s: %g instead of %g", (int)head,
                  mq_linear_name(linear), got, want);
    }
}

static void check_moment(const setting *s, mq_linear_id linear, int64_t head, const double *m)
{
    double exact = moment_error(s, linear, head, m, false);
    double own = moment_error(s, linear, head, m, true);
    CHECK_MSG(exact < 1e-5, "%s, head %d: off by %g", mq_linear_name(linear), (int)head, exact);
    CHECK_MSG(own < 0.25, "%s, head %d: off by %g", mq_linear_name(linear), (int)head, own);
}

/* The rows of q and k in their blocks: those of a head that lie in one are coupled by their part of
 * the head's metric, and to no other rows. */
static void check_rows(setting *s)
{
    mq_row_work w = {0};
    mq_row_metric *want = zeroed(1, sizeof *want);
    int64_t hd = s->run.arch->head_dim;
    CHECK(mq_row_work_load(&s->run, 0, &s->system, 0, &w) == MQ_OK);
    CHECK(mq_row_work_metrics(&s->run, &s->moments, &w) == MQ_OK);
    for (int64_t b = 0; b < w.n_blocks; b++) {
        mq_linear_id linear = w.layer[b]->linear;
        if (linear != MQ_Q && linear != MQ_K) continue;
        double whole[MOST_DIM * MOST_DIM], part[MOST_DIM * MOST_DIM];
        int64_t r1 = w.first_row[b] + MQ_ROW_BLOCK;
        if (r1 > w.layer[b]->n_out) r1 = w.layer[b]->n_out;
        mq_metric_clear(want);
        for (int64_t r = w.first_row[b], m = 0; r < r1; r += m) {
            int64_t skip = r % hd;
            int64_t head = r / hd;
            bool gated = linear == MQ_Q && s->run.arch->attention_gate;
            m = hd - skip < r1 - r ? hd - skip : r1 - r;
            if (gated && head % 2 == 1) continue; /* gates: to no other rows at all */
            if (gated) head /= 2;
            CHECK(mq_head_metric(&s->run, &s->moments, linear, head, whole) == MQ_OK);
            for (int64_t i = 0; i < m * m; i++) {
                part[i] = whole[(skip + i / m) * hd + skip + i % m];
            }
            mq_metric_couple(want, r - w.first_row[b], m, part, 0.1);
        }
        CHECK(w.block[b].metric && memcmp(w.block[b].metric, want, sizeof *want) == 0);
    }
    mq_row_work_free(&w);
    free(want);
}

static void check_model(const char *name, int64_t window, bool has_norm, bool has_bias)
{
    setting s;
    if (begin(&s, name, window, MPI_COMM_WORLD)) {
        const mq_arch *a = s.run.arch;
        int64_t area = a->head_dim * a->head_dim;
        CHECK(a->head_dim <= MOST_DIM);
        CHECK(has_norm == (a->qk_norm != MQ_QK_NONE) && has_bias == a->has_bias[MQ_K]);
        for (int64_t h = 0; h < a->n_heads; h++) {
            check_moment(&s, MQ_Q, h, s.moments.query + h * area);
            check_metric(&s, MQ_Q, h);
        }
        for (int64_t h = 0; h < a->n_kv_heads; h++) {
            check_moment(&s, MQ_K, h, s.moments.key + h * area);
            check_metric(&s, MQ_K, h);
        }
        check_rows(&s);
    }
    end(&s);
}

static void test_plain(void)
{
    check_model("llama2", LONGEST, false, false);
}

static void test_bias(void)
{
    check_model("qwen2", LONGEST, false, true);
}

static void test_rms_norm(void)
{
    check_model("qwen3", LONGEST, true, false);
}

static void test_layer_norm_interleaved(void)
{
    check_model("command_r_plus", LONGEST, true, false);
}

/* One layer holds q, k and v; a part of each head turns, and its scores are larger. Its rows have
 * the metrics of the heads that they belong to. */
static void test_fused(void)
{
    setting s;
    mq_row_work w = {0};
    if (begin(&s, "phi3", LONGEST, MPI_COMM_WORLD)) {
        const mq_arch *a = s.run.arch;
        int64_t area = a->head_dim * a->head_dim;
        double whole[MOST_DIM * MOST_DIM];
        mq_row_metric *want = zeroed(1, sizeof *want);
        for (int64_t h = 0; h < a->n_heads; h++) {
            check_moment(&s, MQ_Q, h, s.moments.query + h * area);
            check_metric(&s, MQ_Q, h);
        }
        for (int64_t h = 0; h < a->n_kv_heads; h++) {
            check_moment(&s, MQ_K, h, s.moments.key + h * area);
            check_metric(&s, MQ_K, h);
        }
        CHECK(mq_row_work_load(&s.run, 0, &s.system, 0, &w) == MQ_OK);
        CHECK(mq_row_work_metrics(&s.run, &s.moments, &w) == MQ_OK);
        for (int64_t b = 0; b < w.n_blocks; b++) {
            int64_t kv = a->n_heads * a->head_dim;
            if (w.layer[b]->linear != MQ_Q || w.first_row[b] != 0) continue;
            mq_metric_clear(want);
            CHECK(mq_head_metric(&s.run, &s.moments, MQ_K, 1, whole) == MQ_OK);
            mq_metric_couple(want, kv + a->head_dim, a->head_dim, whole, 0.1);
            for (int64_t r = kv + a->head_dim; r < kv + 2 * a->head_dim; r++) {
                CHECK(w.block[b].metric->row[r] == want->row[r]);
                CHECK(memcmp(w.block[b].metric->ratio + r * MQ_ROW_BLOCK,
                             want->ratio + r * MQ_ROW_BLOCK, sizeof(float) * MQ_ROW_BLOCK) == 0);
            }
        }
        mq_row_work_free(&w);
        free(want);
        mq_head_moments_free(&s.moments);
        s.run.arch->rope.original_positions = LONGEST - 1;
        CHECK(mq_head_moments_create(&s.run, 0, &s.system, &s.moments) == MQ_OK);
        CHECK(s.moments.query == NULL);
    }
    end(&s);
}

static void test_all_heads_as_one(void)
{
    check_model("olmo2", LONGEST, true, false);
}

/* Another rope in blocks with a window; weights of norms less 1. */
static void test_sliding_rope(void)
{
    check_model("gemma3", 5, true, false);
}

/* Normed after rope: v alone has a metric. */
static void test_late_norm(void)
{
    setting s;
    mq_row_work w = {0};
    if (begin(&s, "hunyuan", LONGEST, MPI_COMM_WORLD)) {
        CHECK(s.moments.query == NULL);
        CHECK(mq_row_work_load(&s.run, 0, &s.system, 0, &w) == MQ_OK);
        CHECK(mq_row_work_metrics(&s.run, &s.moments, &w) == MQ_OK);
        for (int64_t b = 0; b < w.n_blocks; b++) {
            CHECK((w.block[b].metric != NULL) == (w.layer[b]->linear == MQ_V));
        }
        mq_row_work_free(&w);
    }
    end(&s);
}

/* Shorter than the samples, so that distances are missing. */
static void test_window(void)
{
    check_model("mistral", 5, false, false);
}

/* The mean rotation is made anew for a block of another window, and only then. */
static void test_windows_change(void)
{
    setting s;
    if (begin(&s, "llama2", LONGEST, MPI_COMM_WORLD)) {
        const mq_rope_mean *kept = s.run.rope_mean;
        mq_head_moments again;
        CHECK(mq_head_moments_create(&s.run, 0, &s.system, &again) == MQ_OK);
        CHECK(s.run.rope_mean == kept && s.run.rope_mean_window == 0);
        mq_head_moments_free(&again);
        s.run.arch->window = s.window = 7;
        CHECK(mq_head_moments_create(&s.run, 0, &s.system, &again) == MQ_OK);
        CHECK(s.run.rope_mean_window == 7);
        check_metric(&s, MQ_Q, 0);
        mq_head_moments_free(&again);
    }
    end(&s);
}

/* Gates stand between the heads of q, and weights of norms are less 1. */
static void test_gates(void)
{
    check_model("qwen3_5", LONGEST, true, false);
}

/* Chunks leave out the distances of tokens on two sides of a border. */
static void test_chunks(void)
{
    static const int64_t chunks[] = {1, 5, LONGEST, LONGEST + 1};
    setting s;
    if (begin(&s, "llama2", LONGEST, MPI_COMM_WORLD)) {
        for (int i = 0; i < 4; i++) {
            mq_head_moments again;
            s.run.arch->chunk = s.chunk = chunks[i];
            s.run.arch->block[0].chunked = true;
            CHECK(mq_head_moments_create(&s.run, 0, &s.system, &again) == MQ_OK);
            CHECK(s.run.rope_mean_chunk == chunks[i]);
            check_metric(&s, MQ_Q, 0);
            check_metric(&s, MQ_K, 1);
            mq_head_moments_free(&again);
        }
    }
    end(&s);
}

/* By all ranks, and by every rank alone. */
static void test_same_bits(void)
{
    static const char *const names[] = {"qwen2", "command_r_plus"};
    for (int i = 0; i < 2; i++) {
        setting all, alone;
        bool good = begin(&all, names[i], LONGEST, MPI_COMM_WORLD);
        if (begin(&alone, names[i], LONGEST, MPI_COMM_SELF) && good) {
            const mq_arch *a = all.run.arch;
            int64_t count = (a->n_heads + a->n_kv_heads) * a->head_dim * a->head_dim;
            CHECK(memcmp(all.moments.query, alone.moments.query, (size_t)count * sizeof(double)) ==
                  0);
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
    RUN(test_fused);
    RUN(test_all_heads_as_one);
    RUN(test_sliding_rope);
    RUN(test_late_norm);
    RUN(test_window);
    RUN(test_windows_change);
    RUN(test_gates);
    RUN(test_chunks);
    RUN(test_same_bits);
    mq_ops_stop();
    mq_scratch_free();
    return harness_finish();
}
