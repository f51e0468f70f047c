#include "base/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* The reference knows nothing of shifts: it decodes the 16 bits by the definition of the format,
 * with ldexp, and rounds by looking for the nearest of all decoded values. Bit patterns of positive
 * numbers are in order, so that the search is a bisection. */

typedef struct format {
    int exponent_bits, mantissa_bits;
    uint16_t infinity; /* bits */
    float (*decode)(uint16_t);
    uint16_t (*encode)(float);
} format;

static float decode_bf16(uint16_t bits)
{
    return mq_bf16_to_f32(bits);
}

static uint16_t encode_bf16(float f)
{
    return mq_f32_to_bf16(f);
}

static const format half = {5, 10, 0x7C00, mq_f16_to_f32, mq_f32_to_f16};
static const format bfloat = {8, 7, 0x7F80, decode_bf16, encode_bf16};

/* The value of bits without sign; what the infinity would be if the exponents went on. */
static double magnitude(const format *f, uint16_t bits)
{
    int bias = (1 << (f->exponent_bits - 1)) - 1, exponent = bits >> f->mantissa_bits;
    int mantissa = bits & ((1 << f->mantissa_bits) - 1);
    if (exponent == 0) return ldexp(mantissa, 1 - bias - f->mantissa_bits);
    return ldexp(mantissa + (1 << f->mantissa_bits), exponent - bias - f->mantissa_bits);
}

/* Nearest value, ties to the even pattern; at and past the middle between the largest number and
 * the would-be infinity, infinity. */
static uint16_t nearest(const format *f, double x)
{
    uint16_t low = 0, high = f->infinity;
    if (x >= magnitude(f, high)) return high;
    while (high - low > 1) {
        uint16_t middle = (uint16_t)((low + high) / 2);
        if (magnitude(f, middle) <= x) {
            low = middle;
        } else {
            high = middle;
        }
    }
    double below = x - magnitude(f, low), above = magnitude(f, high) - x;
    if (below == above) return low % 2 == 0 ? low : high;
    return below < above ? low : high;
}

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void check_decode(const format *f)
{
    for (uint32_t b = 0; b <= 0xFFFF; b++) {
        uint16_t bits = (uint16_t)b, positive = bits & 0x7FFF;
        float got = f->decode(bits);
        if (!!signbit(got) != bits >> 15) fail_msg("sign of %04x", bits);
        if (positive > f->infinity) {
            if (!isnan(got)) fail_msg("%04x is not NaN", bits);
            if (!isnan(f->decode(f->encode(got)))) fail_msg("NaN %04x is lost", bits);
            continue;
        }
        bool good = positive == f->infinity ? isinf(got) != 0
                                            : fabs((double)got) == magnitude(f, bits & 0x7FFF);
        if (!good) fail_msg("%04x decodes to %a", bits, (double)got);
        if (f->encode(got) != bits) fail_msg("%04x comes back as %04x", bits, f->encode(got));
    }
}

static void check_encode(const format *f, float x)
{
    uint16_t sign = signbit(x) ? 0x8000 : 0, expected = sign | nearest(f, fabs((double)x));
    uint16_t got = f->encode(x);
    if (got != expected) fail_msg("%a gives %04x, expected %04x", (double)x, got, expected);
}

/* Both sides of every boundary: each value, each middle between two, and their f32 neighbours. */
static void check_boundaries(const format *f)
{
    for (uint16_t bits = 0; bits < f->infinity; bits++) {
        double here = magnitude(f, bits), next = magnitude(f, (uint16_t)(bits + 1));
        float at[2] = {(float)here, (float)(here + (next - here) / 2)};
        for (int k = 0; k < 2; k++) {
            for (int side = -1; side <= 1; side++) {
                float x = side ? nextafterf(at[k], (float)side * INFINITY) : at[k];
                check_encode(f, x);
                check_encode(f, -x);
            }
        }
    }
}

static void check_random(const format *f)
{
    uint64_t state = 12345;
    for (int i = 0; i < 300000; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        float x = float_of((uint32_t)(state >> 32));
        if (isnan(x)) {
            if (!isnan(f->decode(f->encode(x)))) fail_msg("NaN is lost");
        } else {
            check_encode(f, x);
        }
    }
}

/* NaNs whose payload sits only in bits that are cut off must not become infinities; the largest
 * payload must not carry into the sign. */
static void check_special(const format *f)
{
    static const uint32_t nans[] = {0x7F800001, 0xFF800001, 0x7F807FFF, 0x7FFFFFFF,
                                    0xFFFFFFFF, 0x7FC00000, 0xFFC00000, 0x7F801000};
    for (size_t i = 0; i < sizeof nans / sizeof *nans; i++) {
        uint16_t got = f->encode(float_of(nans[i]));
        if ((got & 0x7FFF) <= f->infinity) fail_msg("NaN %08x gives %04x", nans[i], got);
        assert_int_equal(got >> 15, nans[i] >> 31);
    }
    assert_int_equal(f->encode(INFINITY), f->infinity);
    assert_int_equal(f->encode(-INFINITY), f->infinity | 0x8000);
    assert_int_equal(f->encode(0.0f), 0);
    assert_int_equal(f->encode(-0.0f), 0x8000);
    check_encode(f, 3.40282346638528859812e+38f); /* FLT_MAX */
    check_encode(f, 1.4e-45f);
    check_encode(f, 1.17549435e-38f);
}

static void check_format(const format *f)
{
    check_decode(f);
    check_boundaries(f);
    check_random(f);
    check_special(f);
}

static void test_half(void **state)
{
    (void)state;
    check_format(&half);
    assert_int_equal(mq_f32_to_f16(65519.996f), 0x7BFF);
    assert_int_equal(mq_f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(mq_f32_to_f16(0x1p-25f), 0); /* tie with zero */
    assert_int_equal(mq_f32_to_f16(0x1.000002p-25f), 1);
}

static void test_bfloat(void **state)
{
    (void)state;
    check_format(&bfloat);
    assert_int_equal(mq_f32_to_bf16(1.00390625f), 0x3F80); /* 1 + 2^-8: tie to even */
    assert_int_equal(mq_f32_to_bf16(1.01171875f), 0x3F82); /* 1 + 3 * 2^-8: tie to even */
}

static void test_arrays(void **state)
{
    (void)state;
    enum { N = 37 };
    float in[N], out[N];
    uint16_t packed[N];
    double wide[N];
    for (int i = 0; i < N; i++) {
        in[i] = (float)(i - 18) * 0.37f;
        wide[i] = (i - 18) * 0.37 * 1e-40; /* f32 subnormals */
    }
    assert_int_equal(mq_from_f32(in, N, MQ_BF16, packed), MQ_OK);
    for (int i = 0; i < N; i++) assert_int_equal(packed[i], mq_f32_to_bf16(in[i]));
    assert_int_equal(mq_to_f32(packed, MQ_BF16, N, out), MQ_OK);
    for (int i = 0; i < N; i++) assert_true(out[i] == mq_bf16_to_f32(packed[i]));
    assert_int_equal(mq_from_f32(in, N, MQ_F16, packed), MQ_OK);
    for (int i = 0; i < N; i++) assert_int_equal(packed[i], mq_f32_to_f16(in[i]));
    assert_int_equal(mq_to_f32(packed, MQ_F16, N, out), MQ_OK);
    for (int i = 0; i < N; i++) assert_true(out[i] == mq_f16_to_f32(packed[i]));
    assert_int_equal(mq_to_f32(wide, MQ_F64, N, out), MQ_OK);
    for (int i = 0; i < N; i++) assert_true(out[i] == (float)wide[i]);
    assert_int_equal(mq_from_f32(in, N, MQ_F32, out), MQ_OK);
    assert_memory_equal(in, out, sizeof in);
    memset(out, 0, sizeof out);
    assert_int_equal(mq_to_f32(in, MQ_F32, N, out), MQ_OK);
    assert_memory_equal(in, out, sizeof in);
    for (int t = 0; t < MQ_N_DTYPES; t++) {
        bool can_read = t == MQ_F32 || t == MQ_F16 || t == MQ_BF16 || t == MQ_F64;
        bool can_write = can_read && t != MQ_F64;
        assert_int_equal(mq_to_f32(wide, (mq_dtype)t, 1, out), can_read ? MQ_OK : MQ_E_INPUT);
        assert_int_equal(mq_from_f32(in, 1, (mq_dtype)t, out), can_write ? MQ_OK : MQ_E_INPUT);
    }
}

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int bits;
    } expected[] = {{"BOOL", 8},    {"U8", 8},   {"I8", 8},      {"F8_E4M3", 8}, {"F8_E5M2", 8},
                    {"F8_E8M0", 8}, {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"I16", 16},
                    {"U16", 16},    {"F16", 16}, {"BF16", 16},   {"I32", 32},    {"U32", 32},
                    {"F32", 32},    {"I64", 64}, {"U64", 64},    {"F64", 64},    {"C64", 64}};
    assert_int_equal(sizeof expected / sizeof *expected, MQ_N_SAFETENSORS_DTYPES);
    for (size_t i = 0; i < MQ_N_SAFETENSORS_DTYPES; i++) {
        mq_dtype t = MQ_N_DTYPES;
        size_t length = strlen(expected[i].name);
        assert_true(mq_dtype_parse(expected[i].name, length, &t));
        assert_string_equal(mq_dtype_name(t), expected[i].name);
        assert_int_equal(mq_dtype_bits(t), expected[i].bits);
        if (expected[i].bits >= 8) assert_int_equal(mq_dtype_size(t) * 8, expected[i].bits);
        assert_false(mq_dtype_parse(expected[i].name, length - 1, &t));
    }
    mq_dtype t = MQ_N_DTYPES;
    assert_true(mq_dtype_parse("F16\"", 3, &t) && t == MQ_F16); /* the length counts */
    assert_false(mq_dtype_parse("f16", 3, &t) || mq_dtype_parse("", 0, &t));
    assert_false(mq_dtype_parse("F16 ", 4, &t));
}

/* Blocks are no safetensors types, whatever a header calls them. */
static void test_blocks(void **state)
{
    (void)state;
    static const int bytes[] = {18, 20, 34};
    for (int i = 0; i < 3; i++) {
        mq_dtype block = (mq_dtype)(MQ_Q4_0 + i), parsed = MQ_U8;
        assert_int_equal(mq_dtype_size(block), bytes[i]);
        assert_int_equal(mq_dtype_weights(block), 32);
        assert_false(mq_dtype_parse(mq_dtype_name(block), strlen(mq_dtype_name(block)), &parsed));
    }
    assert_int_equal(mq_dtype_weights(MQ_C64), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half),  cmocka_unit_test(test_bfloat), cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_names), cmocka_unit_test(test_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
