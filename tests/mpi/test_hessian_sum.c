/* The Hessian at every rank count: against plain f64 loops, and bit for bit against one rank,
 * however the units are dealt. */
#include "base/parallel.h"
#include "harness.h"
#include "hessian/hessian.h"
#include "ops/gemm.h"
#include "ops/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Calibration data of a layer: n_units units of rows[u] tokens each. */
typedef struct data {
    int64_t n, n_units;
    const int64_t *rows;
    float *x;        /* all units one after the other; values are bf16 numbers */
    uint16_t *x16;   /* the same as BF16 */
    int64_t *offset; /* (n_units + 1) first token of each */
} data;

static double next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(*state >> 11) * 0x1p-52 - 1;
}

/* Correlated channels. Column 1 is 1e4 times as large as the others, every 7th is zero. Units
 * differ so much in size that plain f64 sums of their products would depend on the order. */
static data data_create(int64_t n, int64_t n_units, const int64_t *rows)
{
    data d = {.n = n, .n_units = n_units, .rows = rows};
    d.offset = calloc((size_t)n_units + 1, sizeof *d.offset);
    for (int64_t u = 0; u < n_units; u++) d.offset[u + 1] = d.offset[u] + rows[u];
    int64_t n_tok = d.offset[n_units];
    d.x = malloc((size_t)(n_tok * n) * sizeof *d.x);
    d.x16 = malloc((size_t)(n_tok * n) * sizeof *d.x16);
    static const double size_of_unit[] = {1, 1e-4, 30, 1e-3, 5};
    uint64_t seed = 99;
    int64_t u = 0;
    for (int64_t t = 0; t < n_tok; t++) {
        while (t == d.offset[u + 1]) u++;
        double common = next_random(&seed);
        for (int64_t j = 0; j < n; j++) {
            double size = j == 1 ? 1e3 : j % 7 == 5 ? 0 : 0.1 * exp(2 * sin((double)j));
            double x = (common + next_random(&seed)) * size * size_of_unit[u % 5];
            d.x16[t * n + j] = mq_f32_to_bf16((float)x);
            d.x[t * n + j] = mq_bf16_to_f32(d.x16[t * n + j]);
        }
    }
    return d;
}

static void data_free(data *d)
{
    free(d->offset);
    free(d->x);
    free(d->x16);
}

static const void *unit_of(const data *d, mq_dtype dtype, int64_t u)
{
    int64_t at = d->offset[u] * d->n;
    return dtype == MQ_BF16 ? (const void *)(d->x16 + at) : (const void *)(d->x + at);
}

/* The largest sum of squares of each column over any one of this rank's units. */
static void find_largest(const data *d, mq_dtype dtype, const int *owner, int rank, double *largest)
{
    double *sums = calloc((size_t)d->n, sizeof *sums);
    for (int64_t j = 0; j < d->n; j++) largest[j] = 0;
    for (int64_t u = 0; u < d->n_units; u++) {
        if (owner[u] != rank) continue;
        CHECK(mq_column_sumsq(unit_of(d, dtype, u), dtype, d->rows[u], d->n, sums) == MQ_OK);
        for (int64_t j = 0; j < d->n; j++) largest[j] = sums[j] > largest[j] ? sums[j] : largest[j];
    }
    free(sums);
}

/* The whole sum; units go to owner[], and are added in descending order when `backwards`. */
static mq_hessian *sum_of(const mq_comm *comm, const data *d, mq_dtype dtype, const int *owner,
                          bool backwards)
{
    mq_hessian *h = NULL;
    double *largest = calloc((size_t)d->n, sizeof *largest);
    find_largest(d, dtype, owner, comm->rank, largest);
    CHECK(mq_hessian_create(d->n, &h) == MQ_OK);
    CHECK(mq_hessian_set_grid(h, comm, largest, d->n_units) == MQ_OK);
    for (int64_t i = 0; i < d->n_units; i++) {
        int64_t u = backwards ? d->n_units - 1 - i : i;
        if (owner[u] != comm->rank) continue;
        CHECK(mq_hessian_add(h, unit_of(d, dtype, u), dtype, d->rows[u]) == MQ_OK);
    }
    CHECK(mq_hessian_reduce(h, comm) == MQ_OK);
    free(largest);
    return h;
}

static XXH64_hash_t hash_of(const mq_hessian *h)
{
    return XXH3_64bits(h->packed, (size_t)(h->n * (h->n + 1) / 2) * sizeof *h->packed);
}

static double entry(const mq_hessian *h, int64_t i, int64_t j)
{
    double value = NAN;
    CHECK(mq_hessian_entries(h, &i, 1, &j, 1, &value) == MQ_OK);
    return value;
}

/* Rows and columns in scrambled orders, some of them twice, all at once: as one by one. */
static void check_entries(const mq_hessian *h)
{
    int64_t n = h->n, n_rows = n / 2 + 1, n_columns = n + 3;
    int64_t *rows = calloc((size_t)(n_rows + n_columns), sizeof *rows), *columns = rows + n_rows;
    double *all = calloc((size_t)(n_rows * n_columns), sizeof *all);
    for (int64_t i = 0; i < n_rows; i++) rows[i] = (i * 7 + 3) % n;
    for (int64_t j = 0; j < n_columns; j++) columns[j] = (j * 11 + 5) % n;
    CHECK(mq_hessian_entries(h, rows, n_rows, columns, n_columns, all) == MQ_OK);
    for (int64_t i = 0; i < n_rows; i++) {
        for (int64_t j = 0; j < n_columns; j++) {
            CHECK(all[i * n_columns + j] == entry(h, rows[i], columns[j]));
        }
    }
    free(all);
    free(rows);
}

/* Every entry within 1e-6 of sqrt(H_ii H_jj): f32 sums within a unit. */
static void check_against_naive(const mq_hessian *h, const data *d)
{
    int64_t n = d->n, n_tok = d->offset[d->n_units], live = 0;
    double *exact = calloc((size_t)(n * n), sizeof *exact), *diagonal = calloc((size_t)n, 8);
    for (int64_t t = 0; t < n_tok; t++) {
        for (int64_t i = 0; i < n; i++) {
            double x = (double)d->x[t * n + i];
            for (int64_t j = i; x != 0 && j < n; j++)
                exact[i * n + j] += x * (double)d->x[t * n + j];
        }
    }
    mq_hessian_diagonal(h, diagonal);
    for (int64_t i = 0; i < n; i++) {
        live += exact[i * n + i] != 0;
        CHECK(diagonal[i] == entry(h, i, i));
        for (int64_t j = i; j < n; j++) {
            double got = entry(h, i, j), bound = sqrt(exact[i * n + i] * exact[j * n + j]);
            CHECK_MSG(fabs(got - exact[i * n + j]) <= 1e-6 * bound, "entry (%ld, %ld)", (long)i,
                      (long)j);
            CHECK(entry(h, j, i) == got);
        }
    }
    check_entries(h);
    CHECK(h->n_tokens == n_tok);
    CHECK(mq_hessian_rank_bound(h) == (live < n_tok ? live : n_tok));
    free(exact);
    free(diagonal);
}

/* Units to ranks: in turn, all to the last rank, in blocks. */
static void deal(int *owner, int64_t n_units, int size, int way)
{
    for (int64_t u = 0; u < n_units; u++) {
        owner[u] = way == 0 ? (int)(u % size) : way == 1 ? size - 1 : (int)(u * size / n_units);
    }
}

static void check_layer(int64_t n, int64_t n_units, const int64_t *rows, mq_dtype dtype)
{
    mq_comm *world = NULL, *self = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &world) == MQ_OK)) return;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_SELF, &self) == MQ_OK)) return;
    data d = data_create(n, n_units, rows);
    int *owner = calloc((size_t)n_units, sizeof *owner);
    mq_hessian *alone = sum_of(self, &d, dtype, owner, false);
    check_against_naive(alone, &d);
    for (int way = 0; way < 3; way++) {
        deal(owner, n_units, world->size, way);
        mq_hessian *h = sum_of(world, &d, dtype, owner, way == 2);
        CHECK_MSG(hash_of(h) == hash_of(alone), "n = %ld, %ld units, way %d", (long)n,
                  (long)n_units, way);
        CHECK(h->n_tokens == alone->n_tokens);
        mq_hessian_destroy(&h);
        CHECK(h == NULL);
    }
    if (world->rank == 0) {
        printf("     n = %ld: XXH3 %016llx\n", (long)n, (unsigned long long)hash_of(alone));
    }
    mq_hessian_destroy(&alone);
    free(owner);
    data_free(&d);
    mq_comm_destroy(&self);
    mq_comm_destroy(&world);
}

static void test_sums(void)
{
    static const int64_t ragged[] = {40, 1, 129, 64, 3}, one_token[] = {1}, few[] = {100, 77};
    check_layer(130, 5, ragged, MQ_BF16);
    check_layer(130, 5, ragged, MQ_F32);
    check_layer(33, 1, one_token, MQ_BF16);
    check_layer(1, 5, ragged, MQ_BF16);
    check_layer(515, 2, few, MQ_BF16); /* two panels, the second of three columns */
}

/* Parts of units of very different size, added up and taken off again: no rounding. */
static void test_merge(void)
{
    static const int64_t rows[] = {40, 60, 129, 64, 3};
    mq_comm *self = NULL;
    mq_hessian *part[2] = {NULL}, *whole = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_SELF, &self) == MQ_OK)) return;
    data d = data_create(90, 5, rows);
    int owner[5] = {0};
    double *largest = calloc((size_t)d.n, sizeof *largest);
    find_largest(&d, MQ_BF16, owner, 0, largest);
    for (int p = 0; p < 2; p++) {
        CHECK(mq_hessian_create(d.n, &part[p]) == MQ_OK);
        CHECK(mq_hessian_set_grid(part[p], self, largest, d.n_units) == MQ_OK);
        for (int64_t u = 0; u < d.n_units; u++) {
            int64_t cut = d.rows[u] / 2, first = p ? cut : 0, end = p ? d.rows[u] : cut;
            const uint16_t *x = d.x16 + (d.offset[u] + first) * d.n;
            CHECK(mq_hessian_add(part[p], x, MQ_BF16, end - first) == MQ_OK);
        }
    }
    int64_t count = d.n * (d.n + 1) / 2, bad = 0;
    double *second = malloc((size_t)count * sizeof *second);
    memcpy(second, part[1]->packed, (size_t)count * sizeof *second);
    CHECK(mq_hessian_merge(part[1], part[0]) == MQ_OK);
    check_against_naive(part[1], &d);
    for (int64_t i = 0; i < count; i++) {
        bad += part[1]->packed[i] - part[0]->packed[i] != second[i];
    }
    CHECK_MSG(bad == 0, "%ld entries", (long)bad);
    whole = sum_of(self, &d, MQ_BF16, owner, false);
    whole->exponent[7]++;
    CHECK(mq_hessian_merge(whole, part[0]) == MQ_E_INTERNAL);
    mq_hessian_destroy(&whole);
    for (int p = 0; p < 2; p++) mq_hessian_destroy(&part[p]);
    free(second);
    free(largest);
    data_free(&d);
    mq_comm_destroy(&self);
}

static void test_threads_change_no_bit(void)
{
    static const int64_t rows[] = {50, 31};
    mq_comm *self = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_SELF, &self) == MQ_OK)) return;
    data d = data_create(1100, 2, rows);
    int owner[2] = {0, 0};
    mq_hessian *one = sum_of(self, &d, MQ_BF16, owner, false);
    for (int threads = 2; threads <= 3; threads++) {
        mq_ops_stop();
        CHECK(mq_ops_start(threads, "") == MQ_OK);
        mq_hessian *h = sum_of(self, &d, MQ_BF16, owner, false);
        CHECK(hash_of(h) == hash_of(one));
        mq_hessian_destroy(&h);
    }
    mq_ops_stop();
    CHECK(mq_ops_start(1, "") == MQ_OK);
    mq_hessian_destroy(&one);
    data_free(&d);
    mq_comm_destroy(&self);
}

/* A weak channel beside one 1e4 times as large keeps its digits: its grid is its own. */
static void test_weak_channels_keep_their_digits(void)
{
    static const int64_t rows[] = {64, 64};
    mq_comm *world = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &world) == MQ_OK)) return;
    data d = data_create(20, 2, rows);
    for (int64_t t = 0; t < d.offset[2]; t++) {
        d.x16[t * d.n + 2] = mq_f32_to_bf16(1e-12f * d.x[t * d.n + 2]);
        d.x[t * d.n + 2] = mq_bf16_to_f32(d.x16[t * d.n + 2]);
    }
    int owner[2] = {0, world->size - 1};
    mq_hessian *h = sum_of(world, &d, MQ_BF16, owner, false);
    check_against_naive(h, &d);
    CHECK(entry(h, 2, 2) > 0);
    mq_hessian_destroy(&h);
    data_free(&d);
    mq_comm_destroy(&world);
}

/* One rank has a bad column: every rank gets the same status, and the column's name. */
static void test_bad_columns(void)
{
    mq_comm *world = NULL;
    enum { N = 9 };
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &world) == MQ_OK)) return;
    const double values[] = {(double)INFINITY, (double)NAN, 1e39};
    for (int v = 0; v < 3; v++) {
        double largest[N] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
        mq_hessian *h = NULL;
        CHECK(mq_hessian_create(N, &h) == MQ_OK);
        if (world->rank == world->size - 1) largest[6] = values[v];
        CHECK(mq_hessian_set_grid(h, world, largest, 3) == MQ_E_NUMERIC);
        CHECK_MSG(strstr(mq_message(), "column 6"), "%s", mq_message());
        float x[N] = {1};
        CHECK(mq_hessian_add(h, x, MQ_F32, 1) == MQ_E_INTERNAL); /* no grid */
        mq_hessian_destroy(&h);
    }
    mq_comm_destroy(&world);
}

/* An inf in one unit comes out of mq_column_sumsq as such and stops every rank. */
static void test_inf_in_a_unit(void)
{
    static const int64_t rows[] = {8, 8, 8};
    mq_comm *world = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &world) == MQ_OK)) return;
    data d = data_create(40, 3, rows);
    d.x16[20 * 40 + 13] = 0x7F80; /* inf in the last unit */
    int owner[3];
    deal(owner, 3, world->size, 0);
    double largest[40];
    mq_hessian *h = NULL;
    find_largest(&d, MQ_BF16, owner, world->rank, largest);
    CHECK(mq_hessian_create(40, &h) == MQ_OK);
    CHECK(mq_hessian_set_grid(h, world, largest, 3) == MQ_E_NUMERIC);
    CHECK_MSG(strstr(mq_message(), "column 13"), "%s", mq_message());
    mq_hessian_destroy(&h);
    data_free(&d);
    mq_comm_destroy(&world);
}

static void test_sizes(void)
{
    size_t bytes = 0;
    CHECK(mq_hessian_bytes(1, &bytes) == MQ_OK && bytes == 8);
    CHECK(mq_hessian_bytes(53248, &bytes) == MQ_OK && bytes == (size_t)53248 * 53249 * 4);
    CHECK(mq_hessian_bytes(INT64_MAX / 2, &bytes) == MQ_E_INPUT);
    CHECK(mq_hessian_bytes(-1, &bytes) != MQ_OK);
    mq_hessian *none = NULL;
    mq_hessian_destroy(&none);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    if (mq_ops_start(1, "") != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    RUN(test_sums);
    RUN(test_merge);
    RUN(test_threads_change_no_bit);
    RUN(test_weak_channels_keep_their_digits);
    RUN(test_bad_columns);
    RUN(test_inf_in_a_unit);
    RUN(test_sizes);
    mq_ops_stop();
    mq_scratch_free();
    return harness_finish();
}
