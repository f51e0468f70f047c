#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "format/exl2.h"

#include <stdlib.h>
#include <string.h>

/* EXL2 as ExLlamaV2's own converter writes it: channels in any order, groups of several widths, a
 * short last group, padded columns. Layers are packed bit by bit and read against the formula, each
 * step of it rounded to half precision; damaged ones are refused. */

typedef struct span {
    int bits, rows;
} span;

typedef struct fixture {
    mq_exl2_layer layer;
    uint32_t *weight, *scale;
    int32_t *invperm;
    uint16_t *groups, *scale_max;
    float *meant; /* (n_out, n_in) */
} fixture;

static uint32_t pseudo(int64_t i, uint32_t salt)
{
    return (uint32_t)((uint64_t)i * 2654435761u + salt * 40503u) >> 11;
}

static void *zeroed(int64_t count, size_t size)
{
    void *p = calloc(count > 0 ? (size_t)count : 1, size);
    assert_non_null(p);
    return p;
}

static void put(uint32_t *words, int64_t stride, int64_t i, int bits, uint32_t code)
{
    for (int64_t b = 0; b < bits; b++) {
        int64_t at = i * bits + b;
        words[at / 32 * stride] |= (code >> b & 1u) << at % 32;
    }
}

static double half(double x)
{
    return (double)mq_f16_to_f32(mq_f32_to_f16((float)x));
}

/* Group g, its rows from k0 on. */
static void fill_group(fixture *f, int64_t g, span s, int64_t k0, int64_t columns)
{
    mq_exl2_layer *l = &f->layer;
    int64_t word = f->groups[2 * g + 1];
    double largest = half((double)(pseudo(g, 7) % 1000) * (g % 2 ? 2e-6 : 0.02));
    f->scale_max[g] = mq_f32_to_f16((float)largest);
    for (int64_t n = 0; n < l->n_out; n++) {
        uint32_t root = 1 + pseudo(g * 1000 + n, 5) % 16;
        double scale = half(root * root * half(largest / 256));
        put(f->scale + g * columns / 8, 1, n, 4, root - 1);
        for (int64_t r = 0; r < s.rows; r++) {
            uint32_t code = pseudo((k0 + r) * 1000 + n, 9) & ((1u << s.bits) - 1);
            put(f->weight + word * columns + n, columns, r, s.bits, code);
            f->meant[n * l->n_in + k0 + r] = (float)(scale * ((int)code - (1 << (s.bits - 1))));
        }
    }
}

/* Rows of the turned matrix, as `meant` has them so far, to channels; n_in is no multiple of 7
 * or 11. */
static void permute(fixture *f)
{
    int64_t n = f->layer.n_in;
    float *row = zeroed(n, sizeof *row);
    for (int64_t c = 0; c < n; c++) f->invperm[c] = (int32_t)((c * 77 + 5) % n);
    for (int64_t r = 0; r < f->layer.n_out; r++) {
        memcpy(row, f->meant + r * n, (size_t)n * sizeof *row);
        for (int64_t c = 0; c < n; c++) f->meant[r * n + c] = row[f->invperm[c]];
    }
    free(row);
}

static fixture make(int64_t n_out, const span *spans, int64_t n_groups)
{
    fixture f = {.groups = zeroed(2 * n_groups, 2), .scale_max = zeroed(n_groups, 2)};
    int64_t columns = mq_exl2_columns(n_out), words = 0, n_in = 0;
    for (int64_t g = 0; g < n_groups; g++) {
        f.groups[2 * g] = (uint16_t)spans[g].bits;
        f.groups[2 * g + 1] = (uint16_t)words;
        words += (spans[g].rows * spans[g].bits + 31) / 32;
        n_in += spans[g].rows;
    }
    f.weight = zeroed(words * columns, 4);
    f.scale = zeroed(n_groups * columns / 8, 4);
    f.invperm = zeroed(n_in, 4);
    f.meant = zeroed(n_out * n_in, 4);
    f.layer = (mq_exl2_layer){.weight = f.weight,
                              .scale = f.scale,
                              .invperm = f.invperm,
                              .groups = f.groups,
                              .scale_max = f.scale_max,
                              .n_out = n_out,
                              .n_in = n_in,
                              .n_groups = n_groups,
                              .n_words = words};
    for (int64_t g = 0, k = 0; g < n_groups; k += spans[g++].rows) {
        fill_group(&f, g, spans[g], k, columns);
    }
    permute(&f);
    return f;
}

static void fixture_free(fixture *f)
{
    free(f->weight);
    free(f->scale);
    free(f->invperm);
    free(f->groups);
    free(f->scale_max);
    free(f->meant);
}

static mq_status read_all(const fixture *f, float *w)
{
    int64_t n_out = f->layer.n_out, cut = n_out / 3;
    mq_status status = mq_exl2_dequantise(&f->layer, "x", 0, cut, w);
    if (status != MQ_OK) return status;
    return mq_exl2_dequantise(&f->layer, "x", cut, n_out, w + cut * f->layer.n_in);
}

/* Without the codes. */
static mq_status check_tables(const fixture *f)
{
    mq_exl2_layer tables = f->layer;
    tables.weight = NULL;
    return mq_exl2_check(&tables, "x");
}

static void check(int64_t n_out, const span *spans, int64_t n_groups)
{
    fixture f = make(n_out, spans, n_groups);
    int64_t n = n_out * f.layer.n_in;
    float *w = zeroed(n, sizeof *w);
    assert_int_equal(read_all(&f, w), MQ_OK);
    assert_int_equal(check_tables(&f), MQ_OK);
    for (int64_t i = 0; i < n; i++) {
        if (w[i] == f.meant[i]) continue;
        fail_msg("[%ld, %ld], weight %ld is %g, meant %g", (long)n_out, (long)f.layer.n_in, (long)i,
                 (double)w[i], (double)f.meant[i]);
    }
    free(w);
    fixture_free(&f);
}

static void layers_of_every_kind(void **state)
{
    (void)state;
    static const span one[] = {{4, 32}}, narrow[] = {{2, 16}, {2, 16}, {2, 48}, {2, 5}},
                      three[] = {{3, 96}, {3, 64}, {3, 33}},
                      mixed[] = {{8, 32}, {6, 64}, {6, 32}, {5, 32}, {4, 128}, {3, 32}, {2, 64}},
                      odd[] = {{5, 31}}, lone[] = {{8, 1}}, six[] = {{6, 32}, {6, 18}};
    static const int64_t outs[] = {1, 31, 32, 33, 96, 130};
    for (int i = 0; i < 6; i++) {
        check(outs[i], one, 1);
        check(outs[i], narrow, 4);
        check(outs[i], three, 3);
        check(outs[i], mixed, 7);
        check(outs[i], odd, 1);
        check(outs[i], lone, 1);
        check(outs[i], six, 2);
    }
}

/* One number of the tables changed. */
typedef struct damage {
    char where; /* g: q_groups, p: q_invperm, s: q_scale_max */
    int at, value;
} damage;

static void damaged_layers_are_refused(void **state)
{
    (void)state;
    static const span spans[] = {{6, 32}, {4, 64}, {4, 32}, {2, 39}};
    static const damage cases[] = {
        {'g', 0, 7},       {'g', 0, 0},  {'g', 0, 1},      {'g', 0, 9},      {'g', 0, 65535},
        {'g', 0, 3},       {'g', 1, 1},  {'g', 3, 0},      {'g', 3, 5},      {'g', 3, 7},
        {'g', 3, 65535},   {'g', 2, 8},  {'g', 4, 6},      {'g', 5, 4},      {'g', 6, 4},
        {'g', 6, 3},       {'g', 7, 17}, {'g', 7, 60},     {'p', 0, -1},     {'p', 9, 167},
        {'p', 9, 1 << 30}, {'p', 9, 5},  {'s', 0, 0x7C00}, {'s', 3, 0x7E00}, {'s', 1, 0x8001},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f = make(33, spans, 4);
        float *w = zeroed(33 * f.layer.n_in, sizeof *w);
        assert_int_equal(read_all(&f, w), MQ_OK);
        if (cases[i].where == 'g') f.groups[cases[i].at] = (uint16_t)cases[i].value;
        if (cases[i].where == 'p') f.invperm[cases[i].at] = cases[i].value;
        if (cases[i].where == 's') f.scale_max[cases[i].at] = (uint16_t)cases[i].value;
        mq_status status = read_all(&f, w);
        if (status != MQ_E_INPUT) fail_msg("case %zu gives %d", i, (int)status);
        assert_int_equal(check_tables(&f), MQ_E_INPUT);
        free(w);
        fixture_free(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_of_every_kind),
        cmocka_unit_test(damaged_layers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
