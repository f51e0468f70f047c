#include "base/file.h"
#include "base/memory.h"
#include "harness.h"
#include "model/block.h"
#include "model/mixture.h"
#include "ops/ops.h"
#include "par/collectives.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Every model of tests/data/tiny goes through the block forward and is compared with what
 * transformers computed from the same BF16 weights in f32 (tests/data/tiny/README.md), at sample
 * lengths 1, 7 and 129, with its config.json as transformers 5 and as transformers 4 write it.
 *
 * F32: an entry may differ by 2e-5 of its row's norm (the order of sums differs), the KL divergence
 *      of the logits by 1e-9: an error of 2e-5 in logits costs 2e-10.
 * BF16: relative Frobenius error of a block's output at most 2 % (five roundings of 2^-9 a block,
 * on rows and weights that are rounded as well; transformers' own BF16 has 0.7 to 1.1 % of the
 *      largest entry), mean KL at most 1e-4. */

enum { N_LENGTHS = 3, KEPT = 8, N_TOKENS = 137 };
static const int64_t lengths[N_LENGTHS] = {1, 7, 129};
static const int64_t offset_of_all[N_LENGTHS + 1] = {0, 1, 8, N_TOKENS};

static mq_comm *comm;

/* ---- expected.safetensors -------------------------------------------------------------------- */

typedef struct expected {
    mq_header header;
    char path[512];
} expected;

/* A tensor of the file as f32 or int32; NULL when it is not there. */
static void *expect_tensor(const expected *e, const char *name)
{
    void *data = NULL;
    const mq_tensor *t = mq_header_find(&e->header, name);
    if (!CHECK_MSG(t != NULL, "%s lacks %s", e->path, name)) return NULL;
    size_t bytes = (size_t)(t->end - t->begin);
    int fd = open(e->path, O_RDONLY);
    bool good = fd >= 0 && mq_alloc((int64_t)bytes, 1, "expected", &data) == MQ_OK &&
                pread(fd, data, bytes, (off_t)(e->header.data_start + t->begin)) == (ssize_t)bytes;
    CHECK_MSG(good, "cannot read %s of %s", name, e->path);
    if (fd >= 0) close(fd);
    return data;
}

/* ---- comparisons ----------------------------------------------------------------------------- */

static double norm_of(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* Largest difference of an entry over its row's norm, and the Frobenius error over the norm. */
static void compare(const float *x, const float *ref, int64_t rows, int64_t n, double *entry,
                    double *frobenius)
{
    double error = 0, all = 0;
    *entry = 0;
    for (int64_t r = 0; r < rows; r++) {
        double norm = norm_of(ref + r * n, n);
        for (int64_t i = r * n; i < (r + 1) * n; i++) {
            double d = (double)x[i] - (double)ref[i];
            error += d * d;
            *entry = fmax(*entry, fabs(d) / norm);
        }
        all += norm * norm;
    }
    *frobenius = sqrt(error / all);
}

/* Mean over rows of KL(softmax(ref) || softmax(x)). */
static double mean_kl(const float *x, const float *ref, int64_t rows, int64_t n)
{
    double sum = 0;
    for (int64_t r = 0; r < rows; r++) {
        double z_x = 0, z_ref = 0;
        for (int64_t i = 0; i < n; i++) {
            z_x += exp((double)x[r * n + i]);
            z_ref += exp((double)ref[r * n + i]);
        }
        for (int64_t i = 0; i < n; i++) {
            double p = exp((double)ref[r * n + i]) / z_ref;
            sum += p * ((double)ref[r * n + i] - log(z_ref) - (double)x[r * n + i] + log(z_x));
        }
    }
    return sum / (double)rows;
}

/* ---- one model, one dtype -------------------------------------------------------------------- */

typedef struct setup {
    const char *name; /* for messages */
    const mq_arch *arch;
    mq_folder *folder;
    mq_dtype dtype;
    mq_outer_weights *outer;
    mq_block_weights *weights;
    mq_rope_tables rope;
    mq_mixture_room mixture;
    const expected *expected;
    int32_t token[N_TOKENS], position[N_TOKENS];
    char *x; /* (N_TOKENS, hidden), of the dtype */
    double worst_entry, worst_frobenius, worst_kl;
} setup;

/* In BF16 another expert may be chosen where two have nearly the same score: a few rows differ. */
static bool may_flip(const setup *s)
{
    return s->dtype == MQ_BF16 && s->arch->moe.routing.n_experts > 0;
}

/* name: of a tensor with the last rows of what x (length, n) should be. */
static void check_rows(setup *s, const float *x, int64_t length, int64_t n, const char *name)
{
    int64_t kept = length < KEPT ? length : KEPT, flipped = 0;
    double entry = 0, frobenius = 0, slack = s->dtype == MQ_F32 ? 2e-5 : 0.03;
    float *ref = expect_tensor(s->expected, name);
    if (!ref) return;
    compare(x + (length - kept) * n, ref, kept, n, &entry, &frobenius);
    s->worst_entry = fmax(s->worst_entry, entry);
    s->worst_frobenius = fmax(s->worst_frobenius, frobenius);
    CHECK_MSG(s->dtype == MQ_F32 ? entry <= 2e-5 : frobenius <= (may_flip(s) ? 0.1 : 0.02),
              "%s %s: %g, %g", s->name, name, entry, frobenius);
    mq_free(&ref);
    /* "hidden_norm_7_0" beside "hidden_7_0": the rows that are not stored in full */
    char norm_name[64];
    const char *bar = strchr(name, '_');
    snprintf(norm_name, sizeof norm_name, "%.*s_norm%s", (int)(bar - name), name, bar);
    float *norms = expect_tensor(s->expected, norm_name);
    for (int64_t t = 0; norms && t < length; t++) {
        double got = norm_of(x + t * n, n), error = fabs(got - (double)norms[t]);
        bool far = error > slack * (double)norms[t];
        flipped += far && may_flip(s);
        CHECK_MSG(!far || may_flip(s), "%s %s row %d: %g", s->name, norm_name, (int)t, error);
    }
    CHECK_MSG(flipped * 20 <= length + 19, "%s %s: %d of %d rows differ", s->name, norm_name,
              (int)flipped, (int)length);
    mq_free(&norms);
}

static void check_block(setup *s, int block)
{
    int64_t n = s->arch->hidden;
    float *x = NULL;
    if (!CHECK(mq_alloc(N_TOKENS * n, sizeof *x, "test", &x) == MQ_OK)) return;
    CHECK(mq_to_f32(s->x, s->dtype, N_TOKENS * n, x) == MQ_OK);
    for (int i = 0; i < N_LENGTHS; i++) {
        char name[32];
        snprintf(name, sizeof name, "hidden_%d_%d", (int)lengths[i], block);
        check_rows(s, x + offset_of_all[i] * n, lengths[i], n, name);
    }
    mq_free(&x);
}

/* Those of rows [begin, begin + length). */
static void check_logits(setup *s, int64_t begin, int64_t length, const char *name)
{
    int64_t n = s->arch->vocab, kept = length < KEPT ? length : KEPT;
    float *logits = NULL, *ref = expect_tensor(s->expected, name);
    char *h = NULL;
    CHECK(mq_alloc(length * n, sizeof *logits, "test", &logits) == MQ_OK);
    CHECK(mq_alloc(length * s->arch->hidden, sizeof(float), "test", &h) == MQ_OK);
    CHECK(mq_block_logits(s->outer, s->arch, s->x, begin, begin + length, h, logits) == MQ_OK);
    check_rows(s, logits, length, n, name);
    double kl = ref ? mean_kl(logits + (length - kept) * n, ref, kept, n) : 0;
    double most = s->dtype == MQ_F32 ? 1e-9 : may_flip(s) ? 3e-3 : 1e-4;
    s->worst_kl = fmax(s->worst_kl, kl);
    CHECK_MSG(fabs(kl) <= most, "%s %s: KL %g", s->name, name, kl);
    mq_free(&ref);
    mq_free(&h);
    mq_free(&logits);
}

/* Runs the taps of the current block for one unit, then ends the block. */
static void run_unit(setup *s, const mq_unit *unit)
{
    mq_tap_id taps[MQ_N_TAPS];
    int64_t block = s->weights->block;
    int n_taps = mq_arch_taps(s->arch, block, taps);
    char *tap[MQ_N_TAPS] = {NULL}, *work = NULL;
    const void *from[MQ_N_TAPS] = {NULL};
    void *x = s->x + (size_t)(unit->token_begin * s->arch->hidden) * mq_dtype_size(s->dtype);
    size_t bytes = 0;
    CHECK(mq_block_work_bytes(s->arch, s->dtype, unit->n_tokens, &bytes) == MQ_OK);
    CHECK(mq_alloc((int64_t)bytes, 1, "work", &work) == MQ_OK);
    for (int i = 0; i < n_taps; i++) {
        int64_t width = mq_arch_tap_width(s->arch, block, taps[i]);
        CHECK(mq_alloc(unit->n_tokens * width, mq_dtype_size(s->dtype), "tap", &tap[i]) == MQ_OK);
        CHECK(mq_block_produce(s->weights, &s->rope, taps[i], unit, x, from, work, tap[i]) ==
              MQ_OK);
        from[taps[i]] = tap[i];
        if (taps[i] != MQ_TAP_MLP_IN || !s->arch->block[block].routed) continue;
        CHECK(mq_mixture(s->weights, unit, tap[i], &s->mixture, x) == MQ_OK);
    }
    CHECK(mq_block_finish(s->weights, unit, x, tap[n_taps - 1], work) == MQ_OK);
    for (int i = 0; i < n_taps; i++) mq_free(&tap[i]);
    mq_free(&work);
}

/* The three samples as one unit (n_units == 1) or a unit each. */
static void units_of(const setup *s, int n_units, mq_unit *unit)
{
    static const int64_t alone[N_LENGTHS][2] = {{0, 1}, {0, 7}, {0, 129}};
    for (int u = 0; u < n_units; u++) {
        int64_t begin = offset_of_all[u];
        unit[u] = (mq_unit){.id = u,
                            .n_tokens = n_units == 1 ? N_TOKENS : lengths[u],
                            .n_samples = n_units == 1 ? N_LENGTHS : 1,
                            .first_sample = u,
                            .token_begin = begin,
                            .offset = n_units == 1 ? offset_of_all : alone[u],
                            .position = s->position + begin};
    }
}

static void run_model(setup *s, int n_units)
{
    mq_unit unit[N_LENGTHS];
    units_of(s, n_units, unit);
    for (int u = 0; u < n_units; u++) {
        int64_t begin = unit[u].token_begin;
        void *x = s->x + (size_t)(begin * s->arch->hidden) * mq_dtype_size(s->dtype);
        CHECK(mq_block_embed(s->outer, s->arch, &unit[u], s->token + begin, x) == MQ_OK);
    }
    for (int64_t b = 0; b < s->arch->n_blocks; b++) {
        CHECK(mq_block_weights_read(comm, s->folder, b, s->weights) == MQ_OK);
        for (int u = 0; u < n_units; u++) run_unit(s, &unit[u]);
        check_block(s, (int)b);
    }
    for (int i = 0; i < N_LENGTHS; i++) {
        char name[32];
        snprintf(name, sizeof name, "logits_%d", (int)lengths[i]);
        check_logits(s, offset_of_all[i], lengths[i], name);
    }
}

/* Text, an image and text as the language model gets them: rows, and three positions for each. */
static void run_image(setup *s)
{
    const mq_tensor *t = mq_header_find(&s->expected->header, "embeds_image");
    if (!t) return;
    int64_t n = t->dim[0], width = s->arch->hidden;
    const int64_t offset[2] = {0, n};
    void *rows = expect_tensor(s->expected, "embeds_image"), *deep = NULL;
    int32_t *by_axis = expect_tensor(s->expected, "positions_image"), position[3 * N_TOKENS];
    mq_unit unit = {.n_tokens = n, .n_samples = 1, .offset = offset, .position = s->position};
    if (!CHECK(n <= N_TOKENS && t->dim[1] == width && s->arch->rope.n_axes == 3)) return;
    for (int64_t i = 0; i < 3 * n; i++) position[i % n * 3 + i / n] = by_axis[i];
    if (s->arch->deepstack) deep = expect_tensor(s->expected, "deepstack_0_image");
    unit.n_axes = 3;
    unit.rope_position = position;
    CHECK(mq_block_rows(s->arch, s->dtype, n, rows, s->x) == MQ_OK);
    for (int64_t b = 0; b < s->arch->n_blocks; b++) {
        CHECK(mq_block_weights_read(comm, s->folder, b, s->weights) == MQ_OK);
        run_unit(s, &unit);
        if (b == 0 && deep) {
            CHECK(mq_block_add_rows(s->arch, s->dtype, n, deep, s->x) == MQ_OK);
        }
    }
    check_logits(s, 0, n, "logits_image");
    mq_free(&deep);
    mq_free(&by_axis);
    mq_free(&rows);
}

static void read_tokens(setup *s)
{
    for (int i = 0; i < N_LENGTHS; i++) {
        char name[32];
        snprintf(name, sizeof name, "tokens_%d", (int)lengths[i]);
        int32_t *token = expect_tensor(s->expected, name);
        for (int64_t t = 0; token && t < lengths[i]; t++) {
            s->token[offset_of_all[i] + t] = token[t];
            s->position[offset_of_all[i] + t] = (int32_t)t;
        }
        mq_free(&token);
    }
}

static void run_dtype(const char *name, const mq_arch *arch, mq_folder *folder, mq_dtype dtype,
                      const expected *e)
{
    setup s = {.name = name, .arch = arch, .folder = folder, .dtype = dtype, .expected = e};
    mq_status status = mq_outer_weights_read(
        comm, folder, arch, dtype, MQ_OUTER_EMBED | MQ_OUTER_HEAD | MQ_OUTER_NORM, &s.outer);
    if (status == MQ_OK) status = mq_block_weights_create(comm, arch, dtype, &s.weights);
    if (status == MQ_OK) status = mq_rope_tables_create(arch, 129, &s.rope);
    if (status == MQ_OK) status = mq_mixture_room_create(arch, dtype, N_TOKENS, &s.mixture);
    if (status == MQ_OK) {
        status = mq_alloc(N_TOKENS * arch->hidden, mq_dtype_size(dtype), "residual stream", &s.x);
    }
    if (CHECK_ALL(status == MQ_OK)) {
        read_tokens(&s);
        run_model(&s, 1);
        run_model(&s, N_LENGTHS);
        run_image(&s);
    }
    if (comm->rank == 0) {
        printf("     %-22s %-4s  entry / row %.1e  Frobenius %.1e  KL %.1e\n", name,
               mq_dtype_name(dtype), s.worst_entry, s.worst_frobenius, s.worst_kl);
    }
    mq_free(&s.x);
    mq_rope_tables_free(&s.rope);
    mq_mixture_room_free(&s.mixture);
    mq_block_weights_destroy(&s.weights);
    mq_outer_weights_destroy(&s.outer);
}

/* ---- all models ------------------------------------------------------------------------------ */

/* `path` holds config.json and model.safetensors. */
static void run_folder(const char *name, const char *path, const expected *e)
{
    mq_arch *arch = NULL;
    mq_folder *folder = NULL;
    mq_status status = mq_arch_load(comm, path, &arch);
    if (status == MQ_OK) status = mq_folder_open(comm, path, &folder);
    if (status == MQ_OK) status = mq_model_check(folder, arch);
    if (status != MQ_OK) CHECK_MSG(false, "%s: %s", name, mq_message());
    if (CHECK_ALL(status == MQ_OK)) {
        run_dtype(name, arch, folder, MQ_F32, e);
        run_dtype(name, arch, folder, MQ_BF16, e);
    }
    mq_folder_close(&folder);
    mq_arch_destroy(&arch);
}

/* A folder with the model's weights and its config as transformers 4 writes it. */
static void make_old_style(const char *path, char *old)
{
    char from[600], to[600], *text = NULL;
    size_t length = 0;
    if (comm->rank == 0) {
        CHECK(mkdtemp(old) != NULL);
        snprintf(from, sizeof from, "%s/config.v4.json", path);
        snprintf(to, sizeof to, "%s/config.json", old);
        CHECK(mq_read_text(from, 1 << 20, &text, &length) == MQ_OK);
        CHECK(text && mq_write_file(to, text, length) == MQ_OK);
        mq_free(&text);
        snprintf(from, sizeof from, "%s/model.safetensors", path);
        snprintf(to, sizeof to, "%s/model.safetensors", old);
        CHECK(symlink(from, to) == 0);
    }
    MPI_Bcast(old, (int)strlen(old) + 1, MPI_CHAR, 0, MPI_COMM_WORLD);
}

static void remove_old_style(const char *old)
{
    char path[600];
    if (comm->rank != 0) return;
    snprintf(path, sizeof path, "%s/config.json", old);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", old);
    unlink(path);
    rmdir(old);
}

static void run_case(const char *name)
{
    char path[512], label[64], old[] = "/tmp/mpiquant-parity-XXXXXX";
    expected e;
    snprintf(path, sizeof path, "%s/tiny/%s", MQ_TEST_DATA, name);
    snprintf(e.path, sizeof e.path, "%s/tiny/%s/expected.safetensors", MQ_TEST_DATA, name);
    if (!CHECK_ALL(mq_header_read(e.path, &e.header) == MQ_OK)) return;
    run_folder(name, path, &e);
    make_old_style(path, old);
    snprintf(label, sizeof label, "%s (4)", name);
    run_folder(label, old, &e);
    remove_old_style(old);
    mq_header_clear(&e.header);
}

/* Every folder of tests/data/tiny. */
static const char *const cases[] = {
    "llama2",
    "llama3",
    "mistral",
    "qwen2",
    "qwen3",
    "command_r",
    "command_r_plus",
    "granite",
    "smollm3",
    "cohere2",
    "ministral",
    "hunyuan",
    "olmo2",
    "olmo3",
    "gemma",
    "gemma2",
    "gemma3",
    "ernie4_5",
    "seed_oss",
    "phi3",
    "glm4",
    "starcoder2",
    "glm",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "olmoe",
    "glm4_moe",
    "minimax_m2",
    "ernie4_5_moe",
    "hunyuan_moe",
    "granite_swa",
    "llama4_text",
    "qwen3_5",
    "qwen1",
    "internlm3",
    "deepseek_v2",
    "deepseek_v2_lite",
    "deepseek_v3",
    "qwen3_5_delta",
    "qwen3_next",
    "qwen3_5_moe",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5_vl",
    "qwen3_5_moe_vl",
    "glm4v",
    "hunyuan_vl",
    "got_ocr2",
    "glmasr",
    "minicpmv",
    "glm4v_moe",
    "kimi_k25",
    "granitemoe",
    "gpt_oss",
    "llama4_moe",
    "qwen3_vl_moe",
    "ernie4_5_vl_moe",
};
enum { N_CASES = sizeof cases / sizeof *cases };

static void test_cases(void)
{
    for (int i = 0; i < N_CASES; i++) run_case(cases[i]);
}

/* A fixture that is not in the list would go unnoticed. */
static void test_all_are_run(void)
{
    char path[512];
    int n = 0;
    snprintf(path, sizeof path, "%s/tiny", MQ_TEST_DATA);
    DIR *folder = opendir(path);
    if (!CHECK(folder != NULL)) return;
    for (struct dirent *d = readdir(folder); d; d = readdir(folder)) {
        char config[1024];
        snprintf(config, sizeof config, "%s/%s/config.json", path, d->d_name);
        n += access(config, R_OK) == 0;
    }
    closedir(folder);
    CHECK_MSG(n == N_CASES, "%d fixtures, %d cases", n, (int)N_CASES);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    if (mq_comm_create(MPI_COMM_WORLD, &comm) != MQ_OK || mq_ops_start(1, "") != MQ_OK) {
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    RUN(test_cases);
    RUN(test_all_are_run);
    mq_ops_stop();
    mq_comm_destroy(&comm);
    return harness_finish();
}
