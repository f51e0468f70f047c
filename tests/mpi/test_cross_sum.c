/* The cross sum at every rank count: against plain f64 loops, and bit for bit against one rank. */
#include "base/parallel.h"
#include "harness.h"
#include "hessian/cross.h"
#include "hessian/hessian.h"
#include "ops/gemm.h"
#include "ops/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* n_units units of rows[u] tokens: a (tokens, m) and x (tokens, n), f32. */
typedef struct data {
    int64_t m, n, n_units;
    const int64_t *rows;
    float *a, *x;
    int64_t *offset;
} data;

static double next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(*state >> 11) * 0x1p-52 - 1;
}

/* Columns and units of very different size; every 5th column of a and every 7th of x is zero. */
static data data_create(int64_t m, int64_t n, int64_t n_units, const int64_t *rows)
{
    data d = {.m = m, .n = n, .n_units = n_units, .rows = rows};
    uint64_t seed = 7;
    d.offset = calloc((size_t)n_units + 1, sizeof *d.offset);
    for (int64_t u = 0; u < n_units; u++) d.offset[u + 1] = d.offset[u] + rows[u];
    int64_t n_tok = d.offset[n_units];
    d.a = calloc((size_t)(n_tok * m) + 1, sizeof *d.a);
    d.x = calloc((size_t)(n_tok * n) + 1, sizeof *d.x);
    for (int64_t u = 0; u < n_units; u++) {
        double size = u % 3 == 0 ? 1 : u % 3 == 1 ? 1e-4 : 40;
        for (int64_t t = d.offset[u]; t < d.offset[u + 1]; t++) {
            double common = next_random(&seed);
            for (int64_t i = 0; i < m; i++) {
                double scale = i % 5 == 3 ? 0 : size * exp(2 * cos((double)i));
                d.a[t * m + i] = (float)((common + next_random(&seed)) * scale);
            }
            for (int64_t j = 0; j < n; j++) {
                double scale = j == 1 ? 1e3 : j % 7 == 5 ? 0 : size * exp(2 * sin((double)j));
                d.x[t * n + j] = (float)((common + next_random(&seed)) * scale);
            }
        }
    }
    return d;
}

static void data_free(data *d)
{
    free(d->offset);
    free(d->a);
    free(d->x);
}

static void find_largest(const data *d, const float *values, int64_t width, const int *owner,
                         int rank, double *largest)
{
    double *sums = calloc((size_t)width, sizeof *sums);
    for (int64_t u = 0; u < d->n_units; u++) {
        if (owner[u] != rank) continue;
        CHECK(mq_column_sumsq(values + d->offset[u] * width, MQ_F32, d->rows[u], width, sums) ==
              MQ_OK);
        for (int64_t j = 0; j < width; j++) largest[j] = fmax(largest[j], sums[j]);
    }
    free(sums);
}

static mq_cross *sum_of(const mq_comm *comm, const data *d, const int *owner, bool backwards)
{
    mq_cross *cross = NULL;
    mq_hessian *h = NULL;
    double *a_largest = calloc((size_t)d->m, 8), *x_largest = calloc((size_t)d->n, 8);
    find_largest(d, d->a, d->m, owner, comm->rank, a_largest);
    find_largest(d, d->x, d->n, owner, comm->rank, x_largest);
    CHECK(mq_hessian_create(d->n, &h) == MQ_OK);
    CHECK(mq_hessian_set_grid(h, comm, x_largest, d->n_units) == MQ_OK);
    CHECK(mq_cross_create(d->m, d->n, &cross) == MQ_OK);
    CHECK(mq_cross_add(cross, d->a, d->x, MQ_F32, 1) == MQ_E_INTERNAL); /* no grid yet */
    CHECK(mq_cross_set_grid(cross, comm, a_largest, h->exponent, d->n_units) == MQ_OK);
    for (int64_t i = 0; i < d->n_units; i++) {
        int64_t u = backwards ? d->n_units - 1 - i : i;
        if (owner[u] != comm->rank) continue;
        CHECK(mq_cross_add(cross, d->a + d->offset[u] * d->m, d->x + d->offset[u] * d->n, MQ_F32,
                           d->rows[u]) == MQ_OK);
    }
    CHECK(mq_cross_reduce(cross, comm) == MQ_OK);
    mq_hessian_destroy(&h);
    free(a_largest);
    free(x_largest);
    return cross;
}

static void check_against_naive(const mq_cross *cross, const data *d)
{
    for (int64_t i = 0; i < d->m; i++) {
        for (int64_t j = 0; j < d->n; j++) {
            double exact = 0, a2 = 0, x2 = 0;
            for (int64_t t = 0; t < d->offset[d->n_units]; t++) {
                double a = (double)d->a[t * d->m + i], x = (double)d->x[t * d->n + j];
                exact += a * x;
                a2 += a * a;
                x2 += x * x;
            }
            CHECK_MSG(fabs(cross->sum[i * d->n + j] - exact) <= 1e-6 * sqrt(a2 * x2),
                      "entry (%ld, %ld)", (long)i, (long)j);
        }
    }
}

static void check_sum(int64_t m, int64_t n, int64_t n_units, const int64_t *rows)
{
    mq_comm *world = NULL, *self = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &world) == MQ_OK)) return;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_SELF, &self) == MQ_OK)) return;
    data d = data_create(m, n, n_units, rows);
    int *owner = calloc((size_t)n_units, sizeof *owner);
    mq_cross *alone = sum_of(self, &d, owner, false);
    check_against_naive(alone, &d);
    XXH64_hash_t expected = XXH3_64bits(alone->sum, (size_t)(m * n) * 8);
    for (int way = 0; way < 3; way++) {
        for (int64_t u = 0; u < n_units; u++) {
            owner[u] = way == 0 ? (int)(u % world->size) : way == 1 ? world->size - 1 : 0;
        }
        mq_cross *together = sum_of(world, &d, owner, way != 0);
        CHECK(XXH3_64bits(together->sum, (size_t)(m * n) * 8) == expected);
        CHECK(!together->is_zero);
        mq_cross_destroy(&together);
    }
    mq_cross_destroy(&alone);
    free(owner);
    data_free(&d);
    mq_comm_destroy(&self);
    mq_comm_destroy(&world);
}

/* One rank has nothing but zeros, or a NaN: every rank must come to the same end. */
static void test_bounds(void)
{
    mq_comm *world = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &world) == MQ_OK)) return;
    const int exponent[3] = {0, 0, 0};
    double largest[2] = {0, 0};
    mq_cross *cross = NULL;
    CHECK(mq_cross_create(2, 3, &cross) == MQ_OK);
    CHECK(mq_cross_set_grid(cross, world, largest, exponent, 4) == MQ_OK);
    CHECK(cross->is_zero);
    largest[1] = world->rank == world->size - 1 ? 1e-30 : 0;
    CHECK(mq_cross_set_grid(cross, world, largest, exponent, 4) == MQ_OK);
    CHECK(!cross->is_zero);
    largest[1] = world->rank == 0 ? NAN : 1;
    CHECK(mq_cross_set_grid(cross, world, largest, exponent, 4) == MQ_E_NUMERIC);
    mq_cross_destroy(&cross);
    mq_comm_destroy(&world);
    CHECK(mq_cross_create(INT64_C(1) << 40, INT64_C(1) << 40, &cross) == MQ_E_INPUT);
}

static void test_sums(void)
{
    static const int64_t one[] = {1}, several[] = {65, 1, 7, 130, 64};
    check_sum(1, 1, 1, one);
    check_sum(3, 17, 5, several);
    check_sum(130, 50, 5, several);
    check_sum(24, 600, 5, several);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    if (mq_ops_start(1, "") != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    RUN(test_sums);
    RUN(test_bounds);
    mq_ops_stop();
    mq_scratch_free();
    return harness_finish();
}
