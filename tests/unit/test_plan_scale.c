/* Models of hundreds of billions of parameters on paper: what they hold and what a run needs, by
 * the program's own planner, against numbers made independently (data/scale_golden.py);
 * docs/scale.md has the same tables. With --print they are printed, to be put there. */
#include "base/checked.h"
#include "base/file.h"
#include "base/memory.h"
#include "calib/calib.h"
#include "data/scale_golden.h"
#include "hessian/hessian.h"
#include "model/arch_parse.h"
#include "model/arch_texts.h"
#include "model/tensors.h"
#include "pipeline/memory_settings.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Models of which the family is not known to this version have no rows. */
static const struct {
    const char *name, *title;
} models[] = {
    {"llama3_405b", "Llama-3-405B"},
    {"command_r_plus", "Command-R-Plus"},
    {"qwen_72b", "Qwen-72B"},
    {"deepseek_r1", "DeepSeek-R1"},
    {"kimi_k2_thinking", "Kimi-K2-Thinking"},
    {"glm_4_6", "GLM-4.6"},
    {"minimax_m2", "MiniMax-M2"},
};
enum { N_MODELS = sizeof models / sizeof *models, N_PLACES = 3, N_SIX = 6 };

static const int places[N_PLACES] = {2, 16, 128};
enum { RANKS_OF_NODE = 8, SAMPLES = 1024, SAMPLE_TOKENS = 2048 };

typedef struct row {
    int64_t parameters, block_bytes, largest;
    int64_t hessian[N_SIX]; /* of golden */
    mq_memory_plan plan[N_PLACES];
} row;

/* ---- reading ---------------------------------------------------------------------------- */

typedef struct texts {
    const char *model_type;
    char *config, *descriptor;
} texts;

static char *read_file(const char *folder, const char *name)
{
    char path[4096], *text = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(mq_read_text(path, 1 << 20, &text, NULL), MQ_OK);
    return text;
}

/* An mq_descriptor_visit. */
static mq_status keep_if_listed(void *context, const char *text, const cJSON *descriptor)
{
    texts *t = context;
    size_t bytes = strlen(text) + 1;
    if (!mq_descriptor_lists(descriptor, t->model_type)) return MQ_OK;
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "descriptor", &t->descriptor));
    memcpy(t->descriptor, text, bytes);
    return MQ_OK;
}

/* NULL where no descriptor lists the model's type. */
static mq_arch *read_arch(const char *name)
{
    texts t = {.model_type = NULL};
    char folder[4096], *common = NULL;
    mq_arch *arch = NULL;
    cJSON *config = NULL;
    snprintf(folder, sizeof folder, "%s/configs/%s", MQ_TEST_DATA, name);
    t.config = read_file(folder, "config.json");
    assert_int_equal(mq_json_parse(t.config, name, &config), MQ_OK);
    assert_int_equal(mq_json_string(config, "model_type", name, &t.model_type), MQ_OK);
    assert_int_equal(mq_arch_each_descriptor(keep_if_listed, &t), MQ_OK);
    assert_int_equal(mq_arch_read_common(&common), MQ_OK);
    if (t.descriptor) {
        assert_int_equal(mq_alloc(1, sizeof *arch, "arch", &arch), MQ_OK);
        if (mq_arch_parse(t.config, name, t.descriptor, common, arch) != MQ_OK) {
            fail_msg("%s", mq_message());
        }
    }
    cJSON_Delete(config);
    mq_free(&t.config);
    mq_free(&t.descriptor);
    mq_free(&common);
    return arch;
}

/* ---- what the model holds --------------------------------------------------------------- */

static int64_t linear_weights(const mq_arch *arch, int64_t block, int64_t *largest)
{
    int64_t sum = 0;
    for (int l = 0; l < mq_arch_n_linears(arch); l++) {
        int64_t n_out = 0, n_in = 0, n = 0;
        if (!mq_arch_has(arch, block, (mq_linear_id)l)) continue;
        mq_arch_linear_shape(arch, block, (mq_linear_id)l, &n_out, &n_in);
        assert_int_equal(mq_mul_i64(n_out, n_in, &n), MQ_OK);
        *largest = mq_max_i64(*largest, n);
        sum += n;
    }
    return sum;
}

static int64_t small_weights(const mq_arch *arch, int64_t block)
{
    mq_vector list[MQ_N_VECTORS];
    int64_t sum = 0;
    int n = mq_arch_vectors(arch, block, list);
    for (int i = 0; i < n; i++) sum += list[i].count;
    return sum;
}

/* The column of a tap, -1 for one that the tables leave out. */
static int place_in_table(mq_tap_id tap)
{
    static const char *const names[N_SIX] = {"attn_in", "attn_out",  "mlp_in",
                                             "mlp_mid", "expert_in", "expert_mid"};
    for (int i = 0; i < N_SIX; i++) {
        if (strcmp(mq_tap_name(tap), names[i]) == 0) return i;
    }
    return -1;
}

/* Widths are taken also where no layer reads a tap, as in blocks with nothing but routed experts.
 */
static void take_hessians(const mq_arch *arch, int64_t block, row *r)
{
    mq_tap_id taps[MQ_N_TAPS + 2];
    int n = mq_arch_taps(arch, block, taps);
    if (arch->block[block].routed) {
        taps[n++] = mq_expert_tap(0, false);
        taps[n++] = mq_expert_tap(0, true);
    }
    for (int t = 0; t < n; t++) {
        size_t bytes = 0;
        int at = place_in_table(taps[t]);
        if (at < 0) continue;
        assert_int_equal(mq_hessian_bytes(mq_arch_tap_width(arch, block, taps[t]), &bytes), MQ_OK);
        r->hessian[at] = mq_max_i64(r->hessian[at], (int64_t)bytes);
    }
}

static void take_sizes(const mq_arch *arch, row *r)
{
    int64_t table = 0;
    assert_int_equal(mq_mul_i64(arch->vocab, arch->hidden, &table), MQ_OK);
    r->largest = table;
    r->parameters = (arch->tied ? 1 : 2) * table + arch->hidden;
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        int64_t linears = linear_weights(arch, b, &r->largest);
        r->parameters += linears + small_weights(arch, b);
        r->block_bytes = mq_max_i64(r->block_bytes, 2 * linears);
        take_hessians(arch, b, r);
    }
}

/* ---- what a run needs ------------------------------------------------------------------- */

/* Tokens of the busiest rank and of the largest unit, as units are formed and dealt. */
static mq_memory_place place_of(int ranks, int64_t unit_tokens)
{
    int64_t offsets[SAMPLES + 1], *first = NULL, n = 0, tokens[SAMPLES], held[128] = {0};
    int owner[SAMPLES];
    mq_memory_place place = {.ranks = ranks, .ranks_of_node = ranks < 8 ? ranks : RANKS_OF_NODE};
    for (int64_t s = 0; s <= SAMPLES; s++) offsets[s] = s * SAMPLE_TOKENS;
    assert_int_equal(mq_units_form(offsets, SAMPLES, unit_tokens, &first, &n), MQ_OK);
    for (int64_t u = 0; u < n; u++) tokens[u] = offsets[first[u + 1]] - offsets[first[u]];
    assert_int_equal(mq_units_deal(tokens, n, ranks, owner), MQ_OK);
    for (int64_t u = 0; u < n; u++) {
        held[owner[u]] += tokens[u];
        place.rank_tokens = mq_max_i64(place.rank_tokens, held[owner[u]]);
        place.unit_tokens = mq_max_i64(place.unit_tokens, tokens[u]);
    }
    mq_free(&first);
    return place;
}

static void take_memory(const mq_arch *arch, row *r)
{
    mq_quantize_options options;
    mq_solver_settings solver;
    mq_memory_settings settings;
    mq_scheme *scheme = NULL;
    mq_quantize_defaults(&options);
    assert_int_equal(mq_settings_solver(&options, &solver), MQ_OK);
    if (mq_scheme_create(arch, &options, &scheme) != MQ_OK) fail_msg("%s", mq_message());
    assert_int_equal(mq_memory_settings_make(scheme, &options, &solver, &settings), MQ_OK);
    for (int p = 0; p < N_PLACES; p++) {
        const mq_memory_place place = place_of(places[p], options.unit_tokens);
        assert_int_equal(mq_memory_plan_for(&place, scheme, &settings, &r->plan[p]), MQ_OK);
    }
    mq_scheme_destroy(&scheme);
}

static bool make_row(const char *name, row *r)
{
    mq_arch *arch = read_arch(name);
    *r = (row){.parameters = 0};
    if (!arch) return false;
    take_sizes(arch, r);
    take_memory(arch, r);
    mq_arch_destroy(&arch);
    return true;
}

/* ---- the tables ------------------------------------------------------------------------- */

static const double giga = 1e9;

static const char size_head[] =
    "| model | parameters, 10^9 | a block | largest tensor, elements | attn_in | attn_out | mlp_in "
    "| mlp_mid | expert_in | expert_mid |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
static const char memory_head[] =
    "| model | a rank, P = 2 | P = 16 | P = 128 | shared by a node |\n|---|--:|--:|--:|--:|\n";

/* "0.604", "-" where there is none. */
static void put_size(double bytes, char *line, size_t room)
{
    size_t used = strlen(line);
    snprintf(line + used, room - used, bytes > 0 ? " %.3f |" : " - |", bytes / giga);
}

static void size_line(const char *title, const row *r, char line[512])
{
    bool beyond = r->largest > INT32_MAX;
    snprintf(line, 512, "| %s | %.1f |", title, (double)r->parameters / giga);
    put_size((double)r->block_bytes, line, 512);
    size_t used = strlen(line);
    snprintf(line + used, 512 - used, " %" PRId64 "%s |", r->largest, beyond ? ", above 2^31" : "");
    for (int t = 0; t < N_SIX; t++) put_size((double)r->hessian[t], line, 512);
    strcat(line, "\n");
}

static void memory_line(const char *title, const row *r, char line[512])
{
    snprintf(line, 512, "| %s |", title);
    for (int p = 0; p < N_PLACES; p++) {
        size_t used = strlen(line);
        snprintf(line + used, 512 - used, " %.1f |", (double)r->plan[p].rank / giga);
    }
    put_size((double)(r->plan[0].weights + r->plan[0].codes), line, 512);
    strcat(line, "\n");
}

static void print_tables(void)
{
    char line[512];
    row r;
    printf("%s", size_head);
    for (int i = 0; i < N_MODELS; i++) {
        if (!make_row(models[i].name, &r)) continue;
        size_line(models[i].title, &r, line);
        printf("%s", line);
    }
    printf("\n%s", memory_head);
    for (int i = 0; i < N_MODELS; i++) {
        if (!make_row(models[i].name, &r)) continue;
        memory_line(models[i].title, &r, line);
        printf("%s", line);
    }
}

/* ---- tests ------------------------------------------------------------------------------ */

static int golden_of(const char *name)
{
    for (size_t g = 0; g < sizeof golden / sizeof *golden; g++) {
        if (strcmp(golden[g].name, name) == 0) return (int)g;
    }
    fail_msg("%s is not in scale_golden.h", name);
    return -1;
}

static void test_golden(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++) {
        row r;
        int g = golden_of(models[i].name);
        if (!make_row(models[i].name, &r)) continue;
        print_message("%s\n", models[i].title);
        assert_int_equal(r.parameters, golden[g].parameters);
        assert_int_equal(r.block_bytes, golden[g].block_bytes);
        assert_int_equal(r.largest, golden[g].largest);
        for (int t = 0; t < N_SIX; t++) assert_int_equal(r.hessian[t], golden[g].hessian[t]);
        for (int p = 0; p < N_PLACES && golden[g].rank_memory[p] > 0; p++) {
            assert_int_equal(r.plan[p].rank, golden[g].rank_memory[p]);
            assert_int_equal(r.plan[p].weights, golden[g].block_bytes);
        }
    }
}

/* Sizes that a 32-bit count of elements or bytes would get wrong. */
static void test_beyond_32_bits(void **state)
{
    (void)state;
    row r;
    assert_true(make_row("command_r_plus", &r));
    assert_true(r.largest > INT32_MAX && r.block_bytes > INT32_MAX);
    assert_true(make_row("llama3_405b", &r));
    assert_true(r.hessian[place_in_table(MQ_TAP_MLP_MID)] / 8 > 1400000000 &&
                r.block_bytes > UINT32_MAX);
}

static void test_docs(void **state)
{
    (void)state;
    char *text = read_file(MQ_SOURCE_DIR, "docs/scale.md");
    assert_non_null(strstr(text, size_head));
    assert_non_null(strstr(text, memory_head));
    for (int i = 0; i < N_MODELS; i++) {
        char line[512];
        row r;
        if (!make_row(models[i].name, &r)) continue;
        for (int memory = 0; memory < 2; memory++) {
            memory ? memory_line(models[i].title, &r, line) : size_line(models[i].title, &r, line);
            if (!strstr(text, line)) {
                fail_msg("docs/scale.md lacks\n%stest_plan_scale --print prints its tables", line);
            }
        }
    }
    mq_free(&text);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_beyond_32_bits),
        cmocka_unit_test(test_docs),
    };
    if (argc > 1 && strcmp(argv[1], "--print") == 0) {
        print_tables();
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
