/* Scales of columns: what they make even, what they leave alone, and awkward columns. */
#include "test_solve.h"

#include "solve/columns.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { N = 64 };

typedef struct columns {
    int64_t order[N];
    double diagonal[N], r[N], w2[N];
    float scale[N];
} columns;

/* All alike, processed from the last to the first. */
static columns alike(void)
{
    columns c;
    for (int j = 0; j < N; j++) {
        c.order[j] = N - 1 - j;
        c.diagonal[j] = 9;
        c.r[j] = 3;
        c.w2[j] = 2;
        c.scale[j] = NAN;
    }
    return c;
}

static double *r_of(columns *c, int j)
{
    return &c->r[N - 1 - j];
}

static void choose(columns *c, int64_t group)
{
    mq_column_scales(N, group, c->order, c->diagonal, c->r, c->w2, c->scale);
}

static void equal_columns_stay(void **state)
{
    (void)state;
    columns c = alike();
    choose(&c, 16);
    for (int j = 0; j < N; j++) assert_true(c.scale[j] == 1);
}

/* Weights 16 times larger ask for a factor of 4, a pivot 16 times larger for 1/4; relative to the
 * geometric mean of the group, here 1. */
static void sizes_decide(void **state)
{
    (void)state;
    columns c = alike();
    c.w2[5] *= 256;
    c.w2[6] /= 256;
    *r_of(&c, 7) *= 16;
    *r_of(&c, 8) /= 16;
    choose(&c, 16);
    for (int j = 0; j < N; j++) {
        assert_true(c.scale[j] == (j == 5 || j == 8 ? 4 : j == 6 || j == 7 ? 0.25F : 1));
    }
}

/* What a whole group has in common its scales of rows take. */
static void groups_by_themselves(void **state)
{
    (void)state;
    columns c = alike();
    for (int j = 16; j < 32; j++) c.w2[j] *= 1e12;
    choose(&c, 16);
    for (int j = 0; j < N; j++) assert_true(c.scale[j] == 1);
    c = alike();
    for (int j = 0; j < N / 2; j++) c.w2[j] *= 256;
    choose(&c, N); /* one group: the mean lies in between */
    for (int j = 0; j < N; j++) assert_true(c.scale[j] == (j < N / 2 ? 2 : 0.5F));
}

static void group_of_one(void **state)
{
    (void)state;
    columns c = alike();
    for (int j = 0; j < N; j++) c.w2[j] = ldexp(1, j);
    choose(&c, 1);
    for (int j = 0; j < N; j++) assert_true(c.scale[j] == 1);
}

static void limited(void **state)
{
    (void)state;
    columns c = alike();
    c.w2[0] = 1e300;
    c.w2[1] = 0x1p-1074;
    choose(&c, N);
    assert_true(c.scale[0] == 16);
    assert_true(c.scale[1] == 0.0625F);
}

/* Nothing follows from such columns, neither for themselves nor for the others. */
static void columns_without_a_size(void **state)
{
    (void)state;
    columns c = alike();
    c.diagonal[0] = 0;
    c.w2[0] = 1e9;
    c.w2[1] = 0;
    c.w2[2] = INFINITY;
    c.w2[3] = NAN;
    *r_of(&c, 4) = 0;
    *r_of(&c, 5) = INFINITY;
    for (int j = 16; j < 32; j++) c.diagonal[j] = 0;
    choose(&c, 16);
    for (int j = 0; j < N; j++) assert_true(c.scale[j] == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_columns_stay),
        cmocka_unit_test(sizes_decide),
        cmocka_unit_test(groups_by_themselves),
        cmocka_unit_test(group_of_one),
        cmocka_unit_test(limited),
        cmocka_unit_test(columns_without_a_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
