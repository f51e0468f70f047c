#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/squares.h"
#include "format/format.h"

#include "data/format_golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The tensors of every format, their names, types, shapes and bytes, against what NumPy made of the
 * same layers from the texts of the formats (tests/data/format_golden.py). */

enum { N_GOLDEN = sizeof golden_layers / sizeof *golden_layers };

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

static void *room(int64_t count, size_t size)
{
    void *p = malloc((size_t)count * size);
    assert_non_null(p);
    return p;
}

typedef struct fixture {
    mq_layer_codes layer;
    uint8_t *codes, *zeros;
    float *scales, *largest;
} fixture;

static void make_squares(fixture *f, int64_t groups)
{
    for (int64_t g = 0; g < groups; g++) f->largest[g] = (float)(1 + pseudo(g, 4, 7)) / 64;
    for (int64_t i = 0; i < f->layer.shape.n_out * groups; i++) {
        f->scales[i] = mq_square_scale(f->largest[i % groups], 1 + (int)pseudo(i, 4, 3));
    }
    f->layer.largest = f->largest;
}

static fixture make(const mq_layer_shape *shape, const mq_format *format)
{
    int64_t n = shape->n_out * shape->n_in, groups = shape->n_in / shape->group;
    int64_t n_scales = shape->n_out * groups;
    fixture f = {.codes = room(n, 1),
                 .zeros = room(n_scales, 1),
                 .scales = room(n_scales, sizeof(float)),
                 .largest = room(groups, sizeof(float))};
    f.layer = (mq_layer_codes){.shape = *shape, .codes = f.codes, .scales = f.scales};
    for (int64_t i = 0; i < n; i++) f.codes[i] = (uint8_t)pseudo(i, shape->bits, 1);
    for (int64_t i = 0; i < n_scales; i++) {
        f.zeros[i] = (uint8_t)pseudo(i, shape->bits, 5);
        f.scales[i] = (float)(1 + pseudo(i, 7, 3)) / 64;
        if (!shape->zero_points && i % 3 == 0) f.scales[i] *= -1;
    }
    if (shape->zero_points) f.layer.zeros = f.zeros;
    if (format->scales == MQ_SCALES_SQUARES) make_squares(&f, groups);
    return f;
}

static void fixture_free(fixture *f)
{
    free(f->codes);
    free(f->zeros);
    free(f->scales);
    free(f->largest);
}

static void check_part(const fixture *f, const mq_format *format, int p, const mq_part *part,
                       const struct golden_layer *golden)
{
    char what[80];
    int64_t rows = part->dim[0], columns = part->n_dims == 2 ? part->dim[1] : 1;
    int used = snprintf(what, sizeof what, "%s %s %d", part->suffix, mq_dtype_name(part->dtype),
                        (int)rows);
    if (part->n_dims == 2) {
        snprintf(what + used, sizeof what - (size_t)used, " %d", (int)columns);
    }
    assert_string_equal(what, golden->part[p].what);
    size_t bytes = (size_t)(rows * columns) * mq_dtype_size(part->dtype);
    void *data = room((int64_t)bytes, 1);
    memset(data, 0xA5, bytes); /* what nobody writes is wrong */
    assert_int_equal(format->pack(&f->layer, p, 0, rows, data), MQ_OK);
    if (fnv(data, bytes) != golden->part[p].fnv) {
        fail_msg("%s, %d bits, %d x %d: other bytes in %s", format->name, f->layer.shape.bits,
                 (int)f->layer.shape.n_out, (int)f->layer.shape.n_in, what);
    }
    free(data);
}

static void packs_like_numpy(void **state)
{
    (void)state;
    for (int i = 0; i < N_GOLDEN; i++) {
        const struct golden_layer *golden = &golden_layers[i];
        const mq_format *format = mq_format_find(golden->format, golden->shape.zero_points);
        mq_part parts[MQ_MAX_PARTS];
        char why[200] = "";
        assert_non_null(format);
        if (format->refuses && format->refuses(&golden->shape, why, sizeof why))
            fail_msg("%s", why);
        fixture f = make(&golden->shape, format);
        int n = format->parts(&golden->shape, parts);
        for (int p = 0; p < n; p++) check_part(&f, format, p, &parts[p], golden);
        assert_true(n == MQ_MAX_PARTS || !golden->part[n].what);
        fixture_free(&f);
    }
}

/* No format can be added without its golden bytes; dense layers are not packed. */
static void covers_every_format(void **state)
{
    (void)state;
    for (int k = 0; mq_formats[k]; k++) {
        int n = 0;
        if (mq_formats[k]->form == MQ_PACKED_NONE && !mq_formats[k]->gguf) continue;
        for (int i = 0; i < N_GOLDEN; i++) {
            n += strcmp(golden_layers[i].format, mq_formats[k]->name) == 0;
        }
        if (n == 0) fail_msg("no golden bytes for %s", mq_formats[k]->name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packs_like_numpy),
        cmocka_unit_test(covers_every_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
