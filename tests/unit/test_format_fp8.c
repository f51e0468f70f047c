/* FP8 and MXFP4 weights: every code against the definition of the type, every kind of scale against
 * a plain loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "format/stored.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* From the Open Compute Project's description: sign, 4 bits of exponent (bias 7), 3 of fraction. */
static double number(int code)
{
    double size = 0;
    int exponent = code / 8 % 16, fraction = code % 8;
    if (exponent == 15 && fraction == 7) return (double)NAN;
    if (exponent == 0) {
        size = fraction / 8.0 / 64;
    } else {
        size = 1 + fraction / 8.0;
        for (int i = 7; i < exponent; i++) size *= 2;
        for (int i = exponent; i < 7; i++) size /= 2;
    }
    return code < 128 ? size : -size;
}

static void every_code(void **state)
{
    (void)state;
    for (int code = 0; code < 256; code++) {
        double expected = number(code), got = (double)mq_f8_e4m3_to_f32((uint8_t)code);
        assert_true(isnan(expected) ? isnan(got) : got == expected);
        assert_true(isnan(expected) || !signbit(got) == (code < 128));
    }
    assert_true(mq_f8_e4m3_to_f32(0x7E) == 448 && mq_f8_e4m3_to_f32(0x01) == 0x1p-9f);
}

enum { N_OUT = 7, N_IN = 13, AREA = N_OUT * N_IN };

typedef struct fixture {
    uint8_t codes[AREA];
    float scale[AREA];
    mq_stored_layer layer;
} fixture;

static void fill(fixture *f, int64_t rows, int64_t columns)
{
    for (int i = 0; i < AREA; i++) {
        f->codes[i] = (uint8_t)(i * 37 % 126 + (i % 3 == 0 ? 128 : 0));
        f->scale[i] = 0.25f + (float)(i * 11 % 17);
    }
    f->layer = (mq_stored_layer){.form = MQ_PACKED_FP8,
                                 .fp8 = {.codes = f->codes,
                                         .scale = f->scale,
                                         .scale_dtype = MQ_F32,
                                         .n_out = N_OUT,
                                         .n_in = N_IN,
                                         .rows = rows,
                                         .columns = columns}};
}

/* Blocks that do not divide the layer, one scale a row, one in all. */
static void every_kind_of_scale(void **state)
{
    (void)state;
    static const int64_t blocks[][2] = {{3, 4}, {7, 1}, {128, 5}, {1, N_IN}, {N_OUT, N_IN}};
    for (size_t b = 0; b < sizeof blocks / sizeof *blocks; b++) {
        fixture f;
        float w[AREA];
        int64_t across = (N_IN + blocks[b][1] - 1) / blocks[b][1];
        fill(&f, blocks[b][0], blocks[b][1]);
        assert_int_equal(mq_stored_dequantise(&f.layer, "q", 2, 6, w), MQ_OK);
        for (int64_t n = 2; n < 6; n++) {
            for (int64_t k = 0; k < N_IN; k++) {
                float scale = f.scale[n / blocks[b][0] * across + k / blocks[b][1]];
                float expected = scale * (float)number(f.codes[n * N_IN + k]);
                assert_true(w[(n - 2) * N_IN + k] == expected);
            }
        }
        assert_true(mq_stored_is_symmetric(&f.layer));
    }
}

static void what_is_not_finite_is_refused(void **state)
{
    (void)state;
    fixture f;
    float w[AREA];
    fill(&f, 1, N_IN);
    assert_int_equal(mq_stored_check(&f.layer, "model.q"), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "model.q: packed as FP8"));
    f.codes[4 * N_IN + 9] = 0xFF;
    assert_int_equal(mq_stored_dequantise(&f.layer, "model.q", 0, 4, w), MQ_OK);
    assert_int_equal(mq_stored_dequantise(&f.layer, "model.q", 4, 5, w), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "model.q: row 4, column 9 is NaN"));
    const float bad[] = {INFINITY, -INFINITY, NAN, 1e36f};
    for (int i = 0; i < 4; i++) {
        f.scale[2] = bad[i];
        assert_int_equal(mq_stored_dequantise(&f.layer, "model.q", 2, 3, w), MQ_E_INPUT);
        assert_non_null(strstr(mq_message(), "scale of output channel 2"));
    }
}

/* Every code under some scales, two columns to a byte. */
static void mxfp4(void **state)
{
    (void)state;
    static const double size[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    enum { ROWS = 3, COLUMNS = 64 };
    uint8_t codes[ROWS * COLUMNS / 2], scale[ROWS * 2] = {127, 130, 100, 126, 0, 252};
    float w[ROWS * COLUMNS];
    mq_stored_layer layer = {.form = MQ_PACKED_MXFP4,
                             .mxfp4 = {codes, scale, .n_out = ROWS, .n_in = COLUMNS, .step = 1}};
    for (int i = 0; i < ROWS * COLUMNS / 2; i++) codes[i] = (uint8_t)(i * 59 + 7);
    assert_int_equal(mq_stored_dequantise(&layer, "q", 1, 3, w), MQ_OK);
    for (int i = COLUMNS; i < ROWS * COLUMNS; i++) {
        int code = codes[i / 2] >> 4 * (i % 2) & 15;
        double expected = size[code % 8] * pow(2, scale[i / 32] - 127);
        assert_true((double)w[i - COLUMNS] == (code < 8 ? expected : -expected));
    }
    scale[1] = 255;
    assert_int_equal(mq_stored_dequantise(&layer, "model.q", 0, 1, w), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "model.q: the scale of block 1, output channel 0"));
    assert_int_equal(mq_stored_check(&layer, "model.q"), MQ_E_INPUT);
    scale[1] = 253;
    assert_int_equal(mq_stored_dequantise(&layer, "model.q", 0, 1, w), MQ_E_INPUT);
    /* Rows 1 and 2 by another way, which do not have that scale. */
    layer.mxfp4.n_out = 1;
    for (layer.mxfp4.first = 1; layer.mxfp4.first < ROWS; layer.mxfp4.first++) {
        float other[COLUMNS];
        mq_stored_layer whole = layer;
        whole.mxfp4.first = 0;
        assert_int_equal(mq_stored_check(&layer, "q"), MQ_OK);
        assert_int_equal(mq_stored_dequantise(&layer, "q", 0, 1, w), MQ_OK);
        int64_t row = layer.mxfp4.first;
        assert_int_equal(mq_stored_dequantise(&whole, "q", row, row + 1, other), MQ_OK);
        assert_memory_equal(w, other, sizeof other);
    }
    layer.mxfp4.first = 0;
    layer.mxfp4.step = 2;
    assert_int_equal(mq_stored_dequantise(&layer, "q", 1, 2, w), MQ_OK);
    assert_true(w[1] == (float)(size[codes[COLUMNS] >> 4 & 7] * (codes[COLUMNS] >> 7 ? -1 : 1)) *
                            ldexpf(1, scale[4] - 127));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code),
        cmocka_unit_test(every_kind_of_scale),
        cmocka_unit_test(what_is_not_finite_is_refused),
        cmocka_unit_test(mxfp4),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
