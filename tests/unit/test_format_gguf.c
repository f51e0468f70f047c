#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "format/format.h"
#include "format/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Blocks are decoded here as the specification says, weight by weight, and must be what the solver
 * meant, exactly; rows of q and k lie where llama.cpp's rope wants them. */

enum { N_OUT = 24 };

static unsigned pseudo(int64_t i, unsigned salt)
{
    return (uint32_t)((uint64_t)i * 2654435761u + salt * 40503u) >> 11;
}

static float half_at(const char *at)
{
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    return mq_f16_to_f32(bits);
}

/* Weight i of a block. */
static float decode(mq_dtype type, const char *block, int i)
{
    float d = half_at(block);
    if (type == MQ_Q8_0) return d * (float)((const int8_t *)block)[2 + i];
    const uint8_t *codes = (const uint8_t *)block + (type == MQ_Q4_1 ? 4 : 2);
    int code = i < 16 ? codes[i] & 15 : codes[i - 16] >> 4;
    return type == MQ_Q4_1 ? d * (float)code + half_at(block + 2) : d * (float)(code - 8);
}

typedef struct fixture {
    mq_layer_codes layer;
    uint8_t *codes, *zeros;
    float *scales;
    mq_part part;
} fixture;

/* Scales with 7 significant bits, as small and as large as such a half can be, of both signs
 * without zero points; every code, and zero points at both ends. */
static fixture make(mq_layer_shape shape)
{
    fixture f = {.codes = NULL};
    int64_t n = shape.n_out * shape.n_in, groups = n / shape.group;
    unsigned mask = (1u << shape.bits) - 1;
    f.codes = malloc((size_t)n);
    f.zeros = malloc((size_t)groups);
    f.scales = malloc((size_t)groups * sizeof *f.scales);
    assert_true(f.codes && f.zeros && f.scales);
    for (int64_t i = 0; i < n; i++) f.codes[i] = (uint8_t)(pseudo(i, 1) & mask);
    for (int64_t g = 0; g < groups; g++) {
        f.zeros[g] = (uint8_t)(g < 2 ? mask * (unsigned)g : pseudo(g, 2) & mask);
        f.scales[g] = ldexpf((float)(1 + pseudo(g, 3) % 127), (int)(g % 30) - 24);
        if (!shape.zero_points && g % 3 == 0) f.scales[g] *= -1;
    }
    f.layer = (mq_layer_codes){.shape = shape,
                               .codes = f.codes,
                               .scales = f.scales,
                               .zeros = shape.zero_points ? f.zeros : NULL};
    assert_int_equal(mq_format_gguf.parts(&shape, &f.part), 1);
    return f;
}

static void fixture_free(fixture *f)
{
    free(f->codes);
    free(f->zeros);
    free(f->scales);
}

static float meant(const fixture *f, int64_t row, int64_t k)
{
    const mq_layer_shape *s = &f->layer.shape;
    int64_t g = row * (s->n_in / s->group) + k / s->group;
    int zero = f->layer.zeros ? f->zeros[g] : 1 << (s->bits - 1);
    return f->scales[g] * (float)(f->codes[row * s->n_in + k] - zero);
}

/* reshape(heads, 2, head_rows / 2).swapaxes(1, 2) */
static int64_t source_row(int64_t row, int64_t head_rows)
{
    if (head_rows == 0) return row;
    int64_t head = row / head_rows, pair = row % head_rows / 2, half = row % 2;
    return head * head_rows + half * (head_rows / 2) + pair;
}

static void check(mq_layer_shape shape, mq_dtype type)
{
    fixture f = make(shape);
    size_t row_bytes = (size_t)(shape.n_in / 32) * mq_dtype_size(type);
    char *data = malloc((size_t)shape.n_out * row_bytes);
    assert_non_null(data);
    assert_true(f.part.dtype == type && f.part.dim[0] == shape.n_out);
    assert_int_equal(f.part.dim[1], shape.n_in / 32);
    for (int64_t r = 0; r < shape.n_out; r += 5) {
        int64_t end = r + 5 < shape.n_out ? r + 5 : shape.n_out;
        assert_int_equal(mq_format_gguf.pack(&f.layer, 0, r, end, data + (size_t)r * row_bytes),
                         MQ_OK);
    }
    for (int64_t i = 0; i < shape.n_out * shape.n_in; i++) {
        int64_t row = i / shape.n_in, k = i % shape.n_in;
        const char *block = data + (size_t)row * row_bytes + (size_t)(k / 32) * mq_dtype_size(type);
        float w = decode(type, block, (int)(k % 32));
        float expected = meant(&f, source_row(row, shape.head_rows), k);
        if (w != expected) fail_msg("%g, expected %g", (double)w, (double)expected);
    }
    assert_int_equal(mq_gguf_check_blocks(type, data, shape.n_out * shape.n_in / 32, "w", 0),
                     MQ_OK);
    free(data);
    fixture_free(&f);
}

static void test_blocks(void **state)
{
    (void)state;
    static const int64_t groups[] = {32, 64, 96, 192};
    for (int g = 0; g < 4; g++) {
        mq_layer_shape s = {.n_out = N_OUT, .n_in = 192, .group = groups[g], .bits = 4};
        for (int64_t head_rows = 0; head_rows <= 24; head_rows += 8) {
            s.head_rows = head_rows == 16 ? 4 : head_rows;
            s.bits = 8;
            s.zero_points = false;
            check(s, MQ_Q8_0);
            s.bits = 4;
            check(s, MQ_Q4_0);
            s.zero_points = true;
            check(s, MQ_Q4_1);
        }
    }
}

static void test_what_has_no_form(void **state)
{
    (void)state;
    static const struct {
        mq_layer_shape shape;
        const char *why;
    } list[] = {
        {{.n_in = 64, .group = 32, .bits = 3}, "4 or 8 bits"},
        {{.n_in = 64, .group = 32, .bits = 2}, "4 or 8 bits"},
        {{.n_in = 64, .group = 32, .bits = 8, .zero_points = true}, "no zero points"},
        {{.n_in = 48, .group = 48, .bits = 4}, "48 input columns"},
        {{.n_in = 64, .group = 16, .bits = 4}, "groups of 16"},
        {{.n_in = 64, .group = 64, .bits = 4, .zero_points = true}, NULL},
        {{.n_in = 96, .group = 32, .bits = 8}, NULL},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char why[128] = "";
        bool refused = mq_format_gguf.refuses(&list[i].shape, why, sizeof why);
        assert_int_equal(refused, list[i].why != NULL);
        if (list[i].why && !strstr(why, list[i].why)) fail_msg("%s", why);
    }
}

static void test_blocks_that_are_not_finite(void **state)
{
    (void)state;
    static const mq_dtype types[] = {MQ_Q4_0, MQ_Q4_1, MQ_Q8_0};
    static const uint16_t bad[] = {0x7C00, 0xFC00, 0x7E00};
    for (int t = 0; t < 3; t++) {
        char blocks[3 * 34] = {0};
        memset(blocks, 0xFF, sizeof blocks); /* codes are never taken for numbers */
        size_t size = mq_dtype_size(types[t]);
        for (int b = 0; b < 3; b++) memset(blocks + (size_t)b * size, 0, 4);
        assert_int_equal(mq_gguf_check_blocks(types[t], blocks, 3, "w", 0), MQ_OK);
        memcpy(blocks + 2 * size, &bad[t], 2);
        assert_int_equal(mq_gguf_check_blocks(types[t], blocks, 3, "w", 40), MQ_E_INPUT);
        assert_non_null(strstr(mq_message(), "w: the scale of block 42"));
        memset(blocks + 2 * size, 0, 2);
        memcpy(blocks + 2 * size + 2, &bad[t], 2);
        assert_int_equal(mq_gguf_check_blocks(types[t], blocks, 3, "w", 0),
                         types[t] == MQ_Q4_1 ? MQ_E_INPUT : MQ_OK);
    }
}

static void test_types(void **state)
{
    (void)state;
    static const uint32_t numbers[] = {0, 1, 2, 3, 8, 30};
    int found = 0;
    for (uint32_t n = 0; n < 64; n++) {
        mq_dtype type;
        uint32_t back = 0;
        if (!mq_gguf_type_find(n, &type)) continue;
        assert_int_equal(n, numbers[found++]);
        assert_true(mq_gguf_type_number(type, &back) && back == n);
    }
    assert_int_equal(found, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_what_has_no_form),
        cmocka_unit_test(test_blocks_that_are_not_finite),
        cmocka_unit_test(test_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
