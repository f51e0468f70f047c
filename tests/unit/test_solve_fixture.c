/* The solver against GPTQ as published, computed by tests/data/solver/make.py. */
#include "test_solve.h"

#include "base/dtype.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "ops/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* What the file holds before its cases. */
typedef struct fixture {
    char *bytes;
    size_t length, at;
    int32_t n_rows, n, n_tok, n_cases;
    double *h; /* (n, n) */
    double *diagonal;
    float *w; /* (n_rows, n) */
} fixture;

typedef struct fixture_case {
    int32_t bits, group, act_order, n_groups;
    double damping, loss;
    const uint16_t *scale; /* (n_rows, n_groups) */
    const uint8_t *codes;  /* (n_rows, n) */
} fixture_case;

static const void *take(fixture *f, size_t bytes)
{
    assert_true(bytes <= f->length - f->at);
    const void *p = f->bytes + f->at;
    f->at += bytes;
    return p;
}

static fixture load(void)
{
    fixture f = {0};
    assert_int_equal(mq_read_text(MQ_TEST_DATA "/solver/gptq.bin", 1 << 20, &f.bytes, &f.length),
                     MQ_OK);
    memcpy(&f.n_rows, take(&f, 4 * sizeof(int32_t)), 4 * sizeof(int32_t));
    const int8_t *x = take(&f, (size_t)(f.n_tok * f.n));
    f.h = zeroed((int64_t)f.n * f.n, sizeof *f.h);
    f.diagonal = zeroed(f.n, sizeof *f.diagonal);
    f.w = zeroed((int64_t)f.n_rows * f.n, sizeof *f.w);
    for (int t = 0; t < f.n_tok; t++) {
        for (int i = 0; i < f.n; i++) {
            for (int j = 0; j < f.n; j++) f.h[i * f.n + j] += x[t * f.n + i] * x[t * f.n + j];
        }
    }
    for (int j = 0; j < f.n; j++) f.diagonal[j] = f.h[j * f.n + j];
    size_t bytes = (size_t)(f.n_rows * f.n) * sizeof *f.w;
    memcpy(f.w, take(&f, bytes), bytes);
    return f;
}

static fixture_case next_case(fixture *f)
{
    fixture_case c;
    memcpy(&c.bits, take(f, 4 * sizeof(int32_t)), 4 * sizeof(int32_t));
    memcpy(&c.damping, take(f, 2 * sizeof(double)), 2 * sizeof(double));
    c.scale = take(f, (size_t)(f->n_rows * c.n_groups) * sizeof *c.scale);
    c.codes = take(f, (size_t)(f->n_rows * f->n));
    return c;
}

static void unload(fixture *f)
{
    assert_int_equal(f->at, f->length);
    mq_free(&f->bytes);
    free(f->h);
    free(f->diagonal);
    free(f->w);
}

static void check_codes(const fixture *f, const fixture_case *c)
{
    int64_t n = f->n;
    double *damped = zeroed(n * n, sizeof *damped), *r = zeroed(n * n, sizeof *r);
    double *diagonal = zeroed(n, sizeof *diagonal), lambda = 0, loss = 0;
    float *m = zeroed(n * n, sizeof *m);
    int64_t *order = zeroed(n, sizeof *order);
    for (int64_t j = 0; j < n; j++) order[j] = j;
    if (c->act_order) mq_order_columns(f->diagonal, n, order);
    for (int64_t j = 0; j < n; j++) lambda += c->damping * f->diagonal[j] / (double)n;
    for (int64_t i = 0; i < n * n; i++) {
        damped[i] = f->h[order[i / n] * n + order[i % n]] + (i / n == i % n ? lambda : 0);
    }
    naive_factor(damped, n, r, m, diagonal);
    layer l =
        layer_create(1, n, (mq_quant){.bits = c->bits, .group = c->group, .grid = MQ_SCALE_F16});
    for (int64_t i = 0; i < f->n_rows * n; i++) l.w[i] = f->w[i / n * n + order[i % n]];
    for (int i = 0; i < f->n_rows * c->n_groups; i++) {
        uint16_t bits = 0;
        memcpy(&bits, (const char *)c->scale + 2 * i, sizeof bits);
        l.scales[i] = mq_f16_to_f32(bits);
    }
    whole_m source = {.m = m, .n = n, .panel = zeroed(n * MQ_SOLVE_PANEL, sizeof(float))};
    assert_int_equal(mq_ldlq(l.block, 1, n, order, diagonal, panel_of_m, &source), MQ_OK);
    assert_memory_equal(l.codes, c->codes, (size_t)(f->n_rows * n));
    for (int i = 0; i < f->n_rows; i++) loss += l.block->loss[i];
    assert_true(fabs(loss / c->loss - 1) < 1e-5);
    layer_free(&l);
    free(source.panel);
    free(order);
    free(m);
    free(diagonal);
    free(r);
    free(damped);
}

static void codes_of_published_gptq(void **state)
{
    (void)state;
    fixture f = load();
    assert_true(f.n_cases >= 12);
    for (int i = 0; i < f.n_cases; i++) {
        fixture_case c = next_case(&f);
        check_codes(&f, &c);
    }
    unload(&f);
}

/* The scales of the fixture come from a search in f64; f32 may choose another of two equals. */
static void scales_of_the_search(void **state)
{
    (void)state;
    fixture f = load();
    int64_t n_scales = 0, differ = 0;
    for (int i = 0; i < f.n_cases; i++) {
        fixture_case c = next_case(&f);
        const mq_quant quant = {.bits = c.bits, .group = c.group, .grid = MQ_SCALE_F16};
        int64_t count = (int64_t)f.n_rows * c.n_groups;
        float *scales = zeroed(count, sizeof *scales);
        assert_int_equal(mq_search_scales(f.w, f.n_rows, f.n, f.diagonal, &quant, scales, NULL),
                         MQ_OK);
        for (int64_t s = 0; s < count; s++) {
            uint16_t bits = 0;
            memcpy(&bits, (const char *)c.scale + 2 * s, sizeof bits);
            differ += scales[s] != mq_f16_to_f32(bits);
        }
        n_scales += count;
        free(scales);
    }
    assert_true(n_scales > 500 && differ <= n_scales / 200);
    unload(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_of_published_gptq),
        cmocka_unit_test(scales_of_the_search),
    };
    if (mq_ops_start(1, "") != MQ_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mq_ops_stop();
    mq_scratch_free();
    return failed;
}
