#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/squares.h"
#include "format/compressed.h"
#include "format/format.h"
#include "format/stored.h"

#include <stdlib.h>
#include <string.h>

/* The table of formats: every part of every shape is written whole whatever the cut into rows, and
 * reads back as what the solver meant, code by code; compressed-tensors also against a naive bit
 * reader. */

static unsigned pseudo(int64_t i, unsigned salt)
{
    return (uint32_t)((uint64_t)i * 2654435761u + salt * 40503u) >> 11;
}

/* A buffer of exactly that size with a pattern in it: sanitizers see each step too far, and what
 * nobody wrote is wrong. */
static void *filled(int64_t bytes)
{
    void *p = malloc(bytes > 0 ? (size_t)bytes : 1);
    assert_non_null(p);
    memset(p, 0xA5, (size_t)bytes);
    return p;
}

typedef struct fixture {
    mq_layer_codes layer;
    int64_t groups;
    uint8_t *codes, *zeros;
    float *scales, *largest;
    const mq_format *format;
    mq_part part[MQ_MAX_PARTS];
    int n_parts;
    char *data[MQ_MAX_PARTS];
} fixture;

/* Square scales of every root, in groups from subnormal units to large ones. */
static void make_squares(fixture *f)
{
    int64_t n_scales = f->layer.shape.n_out * f->groups;
    f->largest = filled(f->groups * (int64_t)sizeof *f->largest);
    for (int64_t g = 0; g < f->groups; g++) {
        f->largest[g] = mq_squares_largest((float)(pseudo(g, 4) % 1000) * (g % 2 ? 1e-5f : 0.03f));
    }
    for (int64_t i = 0; i < n_scales; i++) {
        int root = 1 + (int)(pseudo(i, 3) % MQ_LARGEST_ROOT);
        f->scales[i] = mq_square_scale(f->largest[i % f->groups], root);
    }
    f->layer.largest = f->largest;
}

/* Scales of both signs that F16 and BF16 hold exactly; codes and zero points at both ends too. */
static fixture make(const mq_format *format, mq_layer_shape shape)
{
    fixture f = {.format = format, .groups = shape.n_in / shape.group};
    int64_t n = shape.n_out * shape.n_in, n_scales = shape.n_out * f.groups;
    unsigned mask = (1u << shape.bits) - 1;
    f.codes = filled(n);
    f.zeros = filled(n_scales);
    f.scales = filled(n_scales * (int64_t)sizeof *f.scales);
    for (int64_t i = 0; i < n; i++) f.codes[i] = (uint8_t)(pseudo(i, 1) & mask);
    for (int64_t i = 0; i < n_scales; i++) {
        f.zeros[i] = (uint8_t)(i == 0 ? 0 : i == 1 ? mask : pseudo(i, 2) & mask);
        f.scales[i] = ((float)(pseudo(i, 3) % 200) + 1) * (i % 3 ? 0x1p-9f : -0x1p-9f);
    }
    f.layer = (mq_layer_codes){.shape = shape,
                               .codes = f.codes,
                               .scales = f.scales,
                               .zeros = shape.zero_points ? f.zeros : NULL};
    if (format->scales == MQ_SCALES_SQUARES) make_squares(&f);
    f.n_parts = format->parts(&shape, f.part);
    return f;
}

static int64_t row_bytes(const mq_part *part)
{
    return (part->n_dims > 1 ? part->dim[1] : 1) * (int64_t)mq_dtype_size(part->dtype);
}

static char *pack_whole(const fixture *f, int p)
{
    char *data = filled(f->part[p].dim[0] * row_bytes(&f->part[p]));
    assert_int_equal(f->format->pack(&f->layer, p, 0, f->part[p].dim[0], data), MQ_OK);
    return data;
}

/* As ranks and threads write it. */
static void check_cuts(const fixture *f, int p)
{
    const mq_part *part = &f->part[p];
    int64_t bytes = row_bytes(part);
    for (int64_t r = 0; r < part->dim[0]; r += part->step) {
        int64_t end = r + part->step < part->dim[0] ? r + part->step : part->dim[0];
        char *piece = filled((end - r) * bytes);
        assert_int_equal(f->format->pack(&f->layer, p, r, end, piece), MQ_OK);
        assert_memory_equal(piece, f->data[p] + r * bytes, (size_t)((end - r) * bytes));
        free(piece);
    }
}

static void fixture_free(fixture *f)
{
    for (int p = 0; p < f->n_parts; p++) free(f->data[p]);
    free(f->codes);
    free(f->zeros);
    free(f->scales);
    free(f->largest);
}

static float meant(const fixture *f, int64_t n, int64_t k)
{
    const mq_layer_shape *s = &f->layer.shape;
    int64_t g = n * f->groups + k / s->group;
    int zero = f->layer.zeros ? f->zeros[g] : 1 << (s->bits - 1);
    return f->scales[g] * (float)(f->codes[n * s->n_in + k] - zero);
}

static void check_values(const fixture *f, const float *w)
{
    const mq_layer_shape *s = &f->layer.shape;
    for (int64_t i = 0; i < s->n_out * s->n_in; i++) {
        if (w[i] == meant(f, i / s->n_in, i % s->n_in)) continue;
        fail_msg("%s, %d bits, [%ld, %ld], group %ld: weight %ld is %g", f->format->name, s->bits,
                 (long)s->n_out, (long)s->n_in, (long)s->group, (long)i, (double)w[i]);
    }
}

/* The layer as a checkpoint of this format is read. */
static mq_stored_layer stored(const fixture *f)
{
    const mq_layer_shape *s = &f->layer.shape;
    mq_stored_layer l = {.form = MQ_PACKED_GPTQ};
    if (f->format == &mq_format_compressed) {
        l.form = MQ_PACKED_COMPRESSED;
        l.compressed =
            (mq_compressed_layer){.packed = (const void *)f->data[0],
                                  .scale = f->data[1],
                                  .scale_dtype = f->part[1].dtype,
                                  .zero_point = f->n_parts > 3 ? (const void *)f->data[3] : NULL,
                                  .n_out = s->n_out,
                                  .n_in = s->n_in,
                                  .n_groups = f->groups,
                                  .bits = s->bits};
        return l;
    }
    if (f->format == &mq_format_exl2) {
        l.form = MQ_PACKED_EXL2;
        l.exl2 = (mq_exl2_layer){.weight = (const void *)f->data[0],
                                 .invperm = (const void *)f->data[1],
                                 .groups = (const void *)f->data[2],
                                 .scale_max = (const void *)f->data[3],
                                 .scale = (const void *)f->data[4],
                                 .n_out = s->n_out,
                                 .n_in = s->n_in,
                                 .n_groups = f->groups,
                                 .n_words = f->part[0].dim[0]};
        return l;
    }
    l.gptq = (mq_gptq_layer){.qweight = (const void *)f->data[0],
                             .qzeros = (const void *)f->data[1],
                             .scales = (const void *)f->data[2],
                             .g_idx = (const void *)f->data[3],
                             .n_out = s->n_out,
                             .n_in = s->n_in,
                             .n_groups = f->groups,
                             .bits = s->bits,
                             .zero_offset = f->format == &mq_format_gptq};
    return l;
}

static void check_reading(const fixture *f)
{
    const mq_layer_shape *s = &f->layer.shape;
    float *w = filled(s->n_out * s->n_in * (int64_t)sizeof *w);
    mq_stored_layer l = stored(f);
    int64_t cut = s->n_out / 3;
    if (f->format == &mq_format_dense) {
        assert_int_equal(mq_to_f32(f->data[0], s->dtype, s->n_out * s->n_in, w), MQ_OK);
    } else {
        assert_int_equal(mq_stored_dequantise(&l, "x", 0, cut, w), MQ_OK);
        assert_int_equal(mq_stored_dequantise(&l, "x", cut, s->n_out, w + cut * s->n_in), MQ_OK);
        if (!s->zero_points) assert_true(mq_stored_is_symmetric(&l));
    }
    check_values(f, w);
    free(w);
}

static void check_shape(const mq_format *format, mq_layer_shape shape)
{
    fixture f = make(format, shape);
    for (int p = 0; p < f.n_parts; p++) {
        f.data[p] = pack_whole(&f, p);
        check_cuts(&f, p);
    }
    check_reading(&f);
    fixture_free(&f);
}

static void every_format_holds_what_was_meant(void **state)
{
    (void)state;
    static const int64_t outs[] = {1, 2, 31, 32, 33, 70, 96, 129};
    static const int64_t ins[][2] = {{1, 1},   {7, 7},    {24, 8},    {32, 32},
                                     {96, 32}, {100, 20}, {130, 130}, {192, 96}};
    static const int all_bits[] = {2, 3, 4, 8};
    for (int f = 0; mq_formats[f]; f++) {
        if (mq_formats[f]->gguf) continue; /* not read here: test_format_gguf.c */
        for (int i = 0; i < 8 * 8 * 4 * 2; i++) {
            mq_layer_shape s = {.n_out = outs[i % 8],
                                .n_in = ins[i / 8 % 8][0],
                                .group = ins[i / 8 % 8][1],
                                .bits = all_bits[i / 64 % 4],
                                .zero_points = i / 256 == 1,
                                .dtype = MQ_F32};
            char why[128];
            if (mq_formats[f]->refuses && mq_formats[f]->refuses(&s, why, sizeof why)) continue;
            if (mq_formats[f] == &mq_format_gptq && s.zero_points) continue; /* becomes v2 */
            check_shape(mq_formats[f], s);
        }
    }
}

/* Bit by bit, as the format's text has it. */
static unsigned naive_code(const uint32_t *words, int64_t stride, int64_t i, int bits)
{
    unsigned code = 0;
    for (int64_t b = 0; b < bits; b++) {
        int64_t at = i * bits + b;
        code |= (words[at / 32 * stride] >> at % 32 & 1u) << b;
    }
    return code;
}

static void compressed_is_laid_out_as_written_down(void **state)
{
    (void)state;
    static const int all_bits[] = {2, 4, 8};
    for (int b = 0; b < 3; b++) {
        mq_layer_shape s = {.n_out = 37,
                            .n_in = 72,
                            .group = 24,
                            .bits = all_bits[b],
                            .zero_points = true,
                            .dtype = MQ_BF16};
        fixture f = make(&mq_format_compressed, s);
        for (int p = 0; p < f.n_parts; p++) f.data[p] = pack_whole(&f, p);
        const uint32_t *packed = (const void *)f.data[0], *zero = (const void *)f.data[3];
        const int64_t *shape = (const void *)f.data[2];
        const uint16_t *scale = (const void *)f.data[1];
        assert_true(shape[0] == 37 && shape[1] == 72 && f.part[1].dtype == MQ_BF16);
        for (int64_t n = 0; n < s.n_out; n++) {
            for (int64_t k = 0; k < s.n_in; k++) {
                assert_int_equal(naive_code(packed + n * f.part[0].dim[1], 1, k, s.bits),
                                 f.codes[n * s.n_in + k]);
            }
            for (int64_t g = 0; g < f.groups; g++) {
                assert_int_equal(naive_code(zero + g, f.groups, n, s.bits),
                                 f.zeros[n * f.groups + g]);
                assert_true(mq_bf16_to_f32(scale[n * f.groups + g]) == f.scales[n * f.groups + g]);
            }
        }
        fixture_free(&f);
    }
}

static void exl2_is_laid_out_as_written_down(void **state)
{
    (void)state;
    static const int all_bits[] = {2, 3, 4, 8};
    for (int b = 0; b < 4; b++) {
        mq_layer_shape s = {
            .n_out = 64, .n_in = 288, .group = 96, .bits = all_bits[b], .dtype = MQ_BF16};
        fixture f = make(&mq_format_exl2, s);
        for (int p = 0; p < f.n_parts; p++) f.data[p] = pack_whole(&f, p);
        const uint32_t *weight = (const void *)f.data[0], *roots = (const void *)f.data[4];
        const int32_t *invperm = (const void *)f.data[1];
        const int16_t *groups = (const void *)f.data[2];
        const uint16_t *scale_max = (const void *)f.data[3];
        assert_int_equal(f.part[0].dim[0], 9 * s.bits);
        for (int64_t k = 0; k < s.n_in; k++) assert_int_equal(invperm[k], k);
        for (int64_t i = 0; i < s.n_out * s.n_in; i++) {
            assert_int_equal(naive_code(weight + i / s.n_in, s.n_out, i % s.n_in, s.bits),
                             f.codes[i]);
        }
        for (int64_t g = 0; g < f.groups; g++) {
            assert_true(groups[2 * g] == s.bits && groups[2 * g + 1] == 3 * g * s.bits);
            assert_true(mq_f16_to_f32(scale_max[g]) == f.largest[g]);
            for (int64_t n = 0; n < s.n_out; n++) {
                int root = 1 + (int)naive_code(roots + g * s.n_out / 8, 1, n, 4);
                assert_true(mq_square_scale(f.largest[g], root) == f.scales[n * f.groups + g]);
            }
        }
        fixture_free(&f);
    }
}

/* What its reader cannot take, and what it can. */
static void exl2_refuses(void **state)
{
    (void)state;
    static const mq_layer_shape good[] = {
        {.n_out = 32, .n_in = 32, .group = 32, .bits = 2},
        {.n_out = 256000, .n_in = 65536, .group = 32, .bits = 8},
        {.n_out = 64, .n_in = 32736, .group = 32736, .bits = 3},
    };
    static const mq_layer_shape bad[] = {
        {.n_out = 48, .n_in = 64, .group = 32, .bits = 4},
        {.n_out = 64, .n_in = 64, .group = 16, .bits = 2},
        {.n_out = 64, .n_in = 144, .group = 48, .bits = 4},
        {.n_out = 64, .n_in = 65568, .group = 32, .bits = 4},
        {.n_out = 64, .n_in = 32768, .group = 32768, .bits = 4},
        {.n_out = 64, .n_in = 64, .group = 64, .bits = 4, .zero_points = true},
    };
    char why[128];
    for (int i = 0; i < 3; i++) assert_false(mq_format_exl2.refuses(&good[i], why, sizeof why));
    for (int i = 0; i < 6; i++) {
        why[0] = '\0';
        assert_true(mq_format_exl2.refuses(&bad[i], why, sizeof why) && why[0] != '\0');
    }
}

static void types_follow_the_source(void **state)
{
    (void)state;
    static const mq_dtype from[] = {MQ_F16, MQ_BF16, MQ_F32}, scale[] = {MQ_F16, MQ_BF16, MQ_BF16};
    mq_part part[MQ_MAX_PARTS];
    for (int i = 0; i < 3; i++) {
        mq_layer_shape s = {.n_out = 4, .n_in = 8, .group = 8, .bits = 4, .dtype = from[i]};
        assert_int_equal(mq_format_compressed.parts(&s, part), 3); /* symmetric: no zero points */
        assert_int_equal(part[1].dtype, scale[i]);
        assert_int_equal(mq_format_dense.parts(&s, part), 1);
        assert_int_equal(part[0].dtype, from[i]);
    }
}

/* Sizes of a tensor that an int32 cannot count. */
static void shapes_beyond_2_31(void **state)
{
    (void)state;
    mq_part part[MQ_MAX_PARTS];
    mq_layer_shape s = {.n_out = 256000, .n_in = 12288, .group = 128, .bits = 8, .dtype = MQ_BF16};
    for (int f = 0; mq_formats[f]; f++) {
        mq_formats[f]->parts(&s, part);
        int64_t bytes = part[0].dim[0] * row_bytes(&part[0]);
        int64_t expected = INT64_C(3145728000);
        if (mq_formats[f] == &mq_format_dense) expected *= 2;
        if (mq_formats[f]->gguf) expected = expected / 32 * 34;
        assert_true(bytes == expected);
    }
}

static void formats_are_found_by_name(void **state)
{
    (void)state;
    assert_ptr_equal(mq_format_find("gptq", false), &mq_format_gptq);
    assert_ptr_equal(mq_format_find("gptq", true), &mq_format_gptq_v2);
    assert_ptr_equal(mq_format_find("compressed-tensors", true), &mq_format_compressed);
    assert_ptr_equal(mq_format_find("gguf", true), &mq_format_gguf);
    assert_null(mq_format_find("GPTQ", false));
    assert_null(mq_format_find("", false));
}

static void scales_that_are_not_finite_are_refused(void **state)
{
    (void)state;
    mq_layer_shape s = {.n_out = 5, .n_in = 64, .group = 32, .bits = 4, .dtype = MQ_F16};
    float w[5 * 64];
    fixture f = make(&mq_format_compressed, s);
    for (int p = 0; p < f.n_parts; p++) f.data[p] = pack_whole(&f, p);
    mq_stored_layer l = stored(&f);
    l.compressed.packed = NULL;
    assert_int_equal(mq_stored_check(&l, "model.q"), MQ_OK);
    ((uint16_t *)(void *)f.data[1])[7] = 0x7C00; /* inf, row 3 */
    assert_int_equal(mq_stored_check(&l, "model.q"), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "group 1, output channel 3"));
    l = stored(&f);
    assert_int_equal(mq_stored_dequantise(&l, "model.q", 0, 3, w), MQ_OK);
    assert_int_equal(mq_stored_dequantise(&l, "model.q", 0, 4, w), MQ_E_INPUT);
    l.compressed.scale_dtype = MQ_BF16; /* of the same bits: 2^-120 or so, but 3e38 in one place */
    ((uint16_t *)(void *)f.data[1])[7] = 0x7F62;
    assert_int_equal(mq_stored_dequantise(&l, "model.q", 3, 4, w), MQ_E_INPUT);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_holds_what_was_meant),
        cmocka_unit_test(compressed_is_laid_out_as_written_down),
        cmocka_unit_test(exl2_is_laid_out_as_written_down),
        cmocka_unit_test(exl2_refuses),
        cmocka_unit_test(types_follow_the_source),
        cmocka_unit_test(shapes_beyond_2_31),
        cmocka_unit_test(formats_are_found_by_name),
        cmocka_unit_test(scales_that_are_not_finite_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
