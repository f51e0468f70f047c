#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "data/gptq_golden.h"
#include "format/bits.h"
#include "format/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Packed bytes against checksums that NumPy made from the text of the format (tests/data), and
 * against a naive bit writer below; dequantising against NumPy and against the codes themselves. */

static uint64_t fnv(const void *data, size_t bytes)
{
    const unsigned char *x = data;
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < bytes; i++) h = (h ^ x[i]) * 0x100000001B3u;
    return h;
}

static unsigned pseudo(int64_t i, int bits, unsigned salt)
{
    return ((uint32_t)((uint64_t)i + salt) * 2654435761u >> 13) & ((1u << bits) - 1);
}

/* A buffer of exactly that size, filled with a pattern, so that sanitizers see each step too far
 * and a word that nobody wrote is wrong. */
static void *filled(int64_t bytes)
{
    void *p = malloc(bytes > 0 ? (size_t)bytes : 1);
    assert_non_null(p);
    memset(p, 0xA5, (size_t)bytes);
    return p;
}

static uint8_t *make_codes(int64_t n_out, int64_t n_in, int bits)
{
    uint8_t *codes = filled(n_out * n_in);
    for (int64_t i = 0; i < n_out * n_in; i++) codes[i] = (uint8_t)pseudo(i, bits, 1);
    return codes;
}

/* One bit after the other: code i of a stream whose words lie `stride` apart. */
static void naive_put(uint32_t *words, int64_t stride, int64_t i, int bits, unsigned code)
{
    for (int64_t b = 0; b < bits; b++) {
        int64_t at = i * bits + b;
        uint32_t mask = 1u << (at % 32), *word = &words[at / 32 * stride];
        *word = code >> b & 1 ? *word | mask : *word & ~mask;
    }
}

static uint32_t *naive_qweight(const uint8_t *codes, int64_t n_out, int64_t n_in, int bits)
{
    int64_t words = (n_in * bits + 31) / 32;
    uint32_t *out = filled(words * n_out * 4);
    memset(out, 0, (size_t)(words * n_out) * 4);
    for (int64_t n = 0; n < n_out; n++) {
        for (int64_t k = 0; k < n_in; k++) naive_put(out + n, n_out, k, bits, codes[n * n_in + k]);
    }
    return out;
}

/* Scales, zero points and g_idx of the golden rows, and a v1 or v2 layer of them. */
typedef struct fixture {
    uint8_t *codes;
    uint32_t *qweight, *qzeros;
    uint16_t *scales;
    int32_t *g_idx;
    float *w;
    mq_gptq_layer layer;
} fixture;

static fixture make_fixture(int bits, int64_t n_in, int64_t n_out, int64_t group, int zero_offset)
{
    int64_t groups = (n_in + group - 1) / group, zero_words = mq_bits_words(n_out, bits);
    fixture f = {.codes = make_codes(n_out, n_in, bits),
                 .qweight = filled(mq_bits_words(n_in, bits) * n_out * 4),
                 .qzeros = filled(groups * zero_words * 4),
                 .scales = filled(groups * n_out * 2),
                 .g_idx = filled(n_in * 4),
                 .w = filled(n_out * n_in * 4)};
    mq_gptq_pack_qweight(f.codes, n_out, n_in, bits, 0, mq_bits_words(n_in, bits), f.qweight);
    memset(f.qzeros, 0, (size_t)(groups * zero_words) * 4);
    for (int64_t i = 0; i < groups * n_out; i++) {
        f.scales[i] = mq_f32_to_f16(((float)pseudo(i, 8, 3) - 100.0f) / 64.0f);
        unsigned zero = (pseudo(i, bits, 5) - (unsigned)zero_offset) & ((1u << bits) - 1);
        naive_put(f.qzeros + i / n_out * zero_words, 1, i % n_out, bits, zero);
    }
    for (int64_t k = 0; k < n_in; k++) f.g_idx[k] = (int32_t)((k * 7 + 3) % groups);
    f.layer = (mq_gptq_layer){f.qweight, f.qzeros, f.scales, f.g_idx,    n_out,
                              n_in,      groups,   bits,     zero_offset};
    return f;
}

static void free_fixture(fixture *f)
{
    free(f->codes);
    free(f->qweight);
    free(f->qzeros);
    free(f->scales);
    free(f->g_idx);
    free(f->w);
}

enum { N_GOLDEN = sizeof golden / sizeof *golden };

static void packs_like_numpy(void **state)
{
    (void)state;
    for (int i = 0; i < N_GOLDEN; i++) {
        const struct golden *g = &golden[i];
        int64_t groups = (g->n_in + g->group - 1) / g->group;
        size_t zero_bytes = (size_t)(groups * mq_bits_words(g->n_out, g->bits)) * 4;
        fixture f = make_fixture(g->bits, g->n_in, g->n_out, g->group, 0);
        uint32_t *zeros = filled((int64_t)zero_bytes);
        mq_gptq_pack_zeros(groups, g->n_out, g->bits, (1 << (g->bits - 1)) - 1, zeros);
        size_t bytes = (size_t)(mq_bits_words(g->n_in, g->bits) * g->n_out) * 4;
        if (fnv(f.qweight, bytes) != g->qweight) fail_msg("qweight of row %d", i);
        if (fnv(zeros, zero_bytes) != g->qzeros) fail_msg("qzeros of row %d", i);
        free(zeros);
        free_fixture(&f);
    }
}

static void dequantises_like_numpy(void **state)
{
    (void)state;
    for (int i = 0; i < N_GOLDEN; i++) {
        const struct golden *g = &golden[i];
        fixture f = make_fixture(g->bits, g->n_in, g->n_out, g->group, 0);
        int64_t n = (int64_t)g->n_out * g->n_in;
        assert_int_equal(mq_gptq_dequantise(&f.layer, "x", 0, g->n_out, f.w), MQ_OK);
        for (int64_t j = 0; j < n; j++) f.w[j] += 0.0f; /* no -0 */
        if (fnv(f.w, (size_t)n * 4) != g->w) fail_msg("w of row %d", i);
        free_fixture(&f);
    }
}

/* All small shapes, whole and in row ranges, against the bit writer. */
static void check_shape(int bits, int64_t n_in, int64_t n_out)
{
    uint8_t *codes = make_codes(n_out, n_in, bits);
    int64_t words = mq_bits_words(n_in, bits), unit = bits == 3 ? 3 : 1;
    uint32_t *expected = naive_qweight(codes, n_out, n_in, bits);
    uint32_t *whole = filled(words * n_out * 4), *parts = filled(words * n_out * 4);
    mq_gptq_pack_qweight(codes, n_out, n_in, bits, 0, words, whole);
    for (int64_t r = 0; r < words; r += unit) {
        int64_t end = r + unit < words ? r + unit : words;
        mq_gptq_pack_qweight(codes, n_out, n_in, bits, r, end, parts + r * n_out);
    }
    assert_int_equal(words, (n_in * bits + 31) / 32);
    assert_memory_equal(whole, expected, (size_t)(words * n_out) * 4);
    assert_memory_equal(parts, expected, (size_t)(words * n_out) * 4);
    free(codes);
    free(expected);
    free(whole);
    free(parts);
}

static void packs_all_small_shapes(void **state)
{
    (void)state;
    static const int all_bits[] = {2, 3, 4, 8};
    static const int64_t columns[] = {1, 2, 15, 16, 17, 33, 70};
    for (int b = 0; b < 4; b++) {
        for (int64_t n_in = 1; n_in <= 70; n_in++) {
            for (int c = 0; c < 7; c++) check_shape(all_bits[b], n_in, columns[c]);
        }
        check_shape(all_bits[b], 1024, 17);
        check_shape(all_bits[b], 2081, 3);
    }
}

static void check_round_trip(int bits, int64_t n_in, int64_t n_out, int64_t group, int offset)
{
    fixture f = make_fixture(bits, n_in, n_out, group, offset);
    int64_t n0 = n_out / 3, n1 = n_out - n_out / 4;
    assert_int_equal(mq_gptq_dequantise(&f.layer, "x", n0, n1, f.w), MQ_OK);
    for (int64_t n = n0; n < n1; n++) {
        for (int64_t k = 0; k < n_in; k++) {
            int64_t i = f.g_idx[k] * n_out + n;
            /* A v1 zero point of 0 wraps when stored and reads as 2^bits. */
            float zero = (float)pseudo(i, bits, 5);
            if (offset == 1 && zero == 0) zero = (float)(1 << bits);
            float expected = mq_f16_to_f32(f.scales[i]) * ((float)f.codes[n * n_in + k] - zero);
            if (f.w[(n - n0) * n_in + k] != expected) {
                fail_msg("%d bits, K %d, N %d: row %d, column %d", bits, (int)n_in, (int)n_out,
                         (int)n, (int)k);
            }
        }
    }
    free_fixture(&f);
}

static void dequantises_all_small_shapes(void **state)
{
    (void)state;
    static const int all_bits[] = {2, 3, 4, 8};
    static const int64_t columns[] = {1, 2, 15, 17, 33, 70};
    for (int b = 0; b < 4; b++) {
        for (int64_t n_in = 1; n_in <= 70; n_in++) {
            for (int c = 0; c < 6; c++) {
                check_round_trip(all_bits[b], n_in, columns[c], n_in, 1); /* one group */
                check_round_trip(all_bits[b], n_in, columns[c], 9, c % 2);
            }
        }
        check_round_trip(all_bits[b], 1000, 5, 32, 1);
    }
}

static void writes_the_known_zero_words(void **state)
{
    (void)state;
    uint32_t words[2 * 2];
    mq_gptq_pack_zeros(2, 16, 4, 7, words);
    for (int i = 0; i < 4; i++) assert_int_equal(words[i], 0x77777777u);
    mq_gptq_pack_zeros(2, 8, 8, 127, words);
    for (int i = 0; i < 4; i++) assert_int_equal(words[i], 0x7F7F7F7Fu);
    mq_gptq_pack_zeros(1, 17, 2, 1, words);
    assert_int_equal(words[0], 0x55555555u);
    assert_int_equal(words[1], 1u); /* the padding is 0 */
}

/* Zero points of every group and column, 0 and 2^b - 1 among them, against the bit writer. */
static void check_zero_points(int bits, int64_t n_groups, int64_t n_out)
{
    int64_t n_words = mq_bits_words(n_out, bits), n = n_groups * n_out;
    uint8_t *zeros = filled(n);
    uint32_t *words = filled(n_groups * n_words * 4), *expected = filled(n_groups * n_words * 4);
    memset(expected, 0, (size_t)(n_groups * n_words) * 4);
    for (int64_t i = 0; i < n; i++) {
        zeros[i] = (uint8_t)pseudo(i, bits, 9);
        int64_t column = i / n_groups, group = i % n_groups;
        naive_put(expected + group * n_words, 1, column, bits, zeros[i]);
    }
    mq_gptq_pack_zero_points(zeros, n_out, n_groups, bits, words);
    assert_memory_equal(words, expected, (size_t)(n_groups * n_words) * 4);
    free(zeros);
    free(words);
    free(expected);
}

static void packs_zero_points(void **state)
{
    (void)state;
    static const int all_bits[] = {2, 3, 4, 8};
    for (int b = 0; b < 4; b++) {
        for (int64_t n_out = 1; n_out <= 70; n_out++) check_zero_points(all_bits[b], 3, n_out);
        check_zero_points(all_bits[b], 1, 1024);
        check_zero_points(all_bits[b], 40, 17);
    }
}

static void knows_symmetric_layers(void **state)
{
    (void)state;
    static const int all_bits[] = {2, 3, 4, 8};
    for (int b = 0; b < 4; b++) {
        int bits = all_bits[b];
        fixture f = make_fixture(bits, 64, 37, 16, 0);
        assert_false(mq_gptq_is_symmetric(&f.layer));
        mq_gptq_pack_zeros(4, 37, bits, (1 << (bits - 1)) - 1, f.qzeros);
        assert_false(mq_gptq_is_symmetric(&f.layer)); /* v1 read as v2 */
        f.layer.zero_offset = 1;
        assert_true(mq_gptq_is_symmetric(&f.layer));
        naive_put(f.qzeros + 3 * mq_bits_words(37, bits), 1, 36, bits, 0);
        assert_false(mq_gptq_is_symmetric(&f.layer));
        free_fixture(&f);
    }
}

static void turns_scales_and_numbers_groups(void **state)
{
    (void)state;
    enum { N = 37, G = 5 };
    float scales[N * G];
    uint16_t half[G * N];
    int32_t g_idx[130];
    for (int i = 0; i < N * G; i++) scales[i] = (float)(i - 90) / 64.0f;
    scales[0] = 0x1p-24f;  /* smallest subnormal */
    scales[1] = 65504.0f;  /* largest */
    scales[2] = -0x1p-14f; /* smallest normal, negative */
    mq_gptq_pack_scales(scales, N, G, half);
    for (int n = 0; n < N; n++) {
        for (int g = 0; g < G; g++) {
            assert_true(mq_f16_to_f32(half[g * N + n]) == scales[n * G + g]);
        }
    }
    mq_gptq_g_idx(130, 128, g_idx);
    assert_true(g_idx[0] == 0 && g_idx[127] == 0 && g_idx[128] == 1 && g_idx[129] == 1);
    mq_gptq_g_idx(130, 130, g_idx);
    assert_int_equal(g_idx[129], 0);
}

static void finds_the_bits_of_a_shape(void **state)
{
    (void)state;
    static const int all_bits[] = {2, 3, 4, 8};
    int bits = 0;
    for (int b = 0; b < 4; b++) {
        for (int64_t n_in = 32; n_in < 600; n_in += 7) {
            int64_t rows = mq_bits_words(n_in, all_bits[b]);
            assert_int_equal(mq_gptq_bits(rows, n_in, "x", &bits), MQ_OK);
            assert_int_equal(bits, all_bits[b]);
        }
    }
    assert_int_equal(mq_gptq_bits(80, 512, "model.x", &bits), MQ_E_INPUT); /* 5 bits */
    assert_non_null(strstr(mq_message(), "model.x"));
    assert_int_equal(mq_gptq_bits(0, 512, "x", &bits), MQ_E_INPUT);
    assert_int_equal(mq_gptq_bits(1, 8, "x", &bits), MQ_E_INPUT); /* 2, 3 or 4 */
}

static void counts_words_past_32_bits(void **state)
{
    (void)state;
    assert_true(mq_bits_words(INT64_C(3145728000), 3) == INT64_C(294912000));
    assert_true(mq_bits_words(INT64_C(3145728001), 4) == INT64_C(393216001));
    assert_true(mq_bits_words((INT64_C(1) << 62) + 1, 8) == (INT64_C(1) << 60) + 1);
    assert_int_equal(mq_bits_words(0, 3), 0);
}

/* By what dequantises, and by what only looks at scales and group indices, in the same words. */
static void check_refused(const fixture *f, const char *words)
{
    mq_gptq_layer without_codes = f->layer;
    without_codes.qweight = NULL;
    assert_int_equal(mq_gptq_dequantise(&f->layer, "model.q", 0, 20, f->w), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), words));
    assert_int_equal(mq_gptq_check(&without_codes, "model.q"), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), words));
}

static void refuses_damaged_layers(void **state)
{
    (void)state;
    fixture f = make_fixture(4, 64, 20, 16, 1);
    assert_int_equal(mq_gptq_check(&f.layer, "model.q"), MQ_OK);
    f.g_idx[63] = 4;
    check_refused(&f, "model.q: g_idx[63] = 4");
    f.g_idx[63] = -1;
    check_refused(&f, "model.q: g_idx[63] = -1");
    f.g_idx[63] = 3;
    f.scales[2 * 20 + 19] = 0x7C00; /* inf */
    check_refused(&f, "model.q: the scale of group 2, output channel 19");
    assert_int_equal(mq_gptq_dequantise(&f.layer, "model.q", 0, 19, f.w), MQ_OK);
    f.scales[2 * 20 + 19] = 0x7E00; /* NaN */
    assert_int_equal(mq_gptq_dequantise(&f.layer, "model.q", 19, 20, f.w), MQ_E_INPUT);
    free_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packs_like_numpy),
        cmocka_unit_test(dequantises_like_numpy),
        cmocka_unit_test(packs_all_small_shapes),
        cmocka_unit_test(dequantises_all_small_shapes),
        cmocka_unit_test(writes_the_known_zero_words),
        cmocka_unit_test(packs_zero_points),
        cmocka_unit_test(knows_symmetric_layers),
        cmocka_unit_test(turns_scales_and_numbers_groups),
        cmocka_unit_test(finds_the_bits_of_a_shape),
        cmocka_unit_test(counts_words_past_32_bits),
        cmocka_unit_test(refuses_damaged_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
