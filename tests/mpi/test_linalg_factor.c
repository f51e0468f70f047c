/* The factorisation at every rank count: against plain loops, and bit for bit against one rank. */
#include "base/memory.h"
#include "harness.h"
#include "linalg/layout.h"
#include "par/comm.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const int64_t sizes[] = {1, 2, 127, 128, 129, 300, 515};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

/* A dense positive definite matrix of channels of very different size: a few directions that all
 * columns share, plus noise. */
static double *make_matrix(int64_t n)
{
    enum { SHARED = 6 };
    double *h = calloc((size_t)(n * n), sizeof *h);
    for (int64_t i = 0; h && i < n; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = i == j ? 0.05 + 0.01 * (double)(i % 7) : 0;
            for (int q = 1; q <= SHARED; q++) {
                sum += sin(1.3 * q * (double)i + q) * sin(1.3 * q * (double)j + q);
            }
            h[i * n + j] = sum * exp(2 * sin((double)(3 * i))) * exp(2 * sin((double)(3 * j)));
        }
    }
    return h;
}

typedef struct matrix {
    int64_t n;
    const double *h;
    long bad_calls; /* not for rows from their first column on */
} matrix;

static mq_status entries(void *context, int64_t i0, int64_t i1, int64_t j0, int64_t j1, double *out)
{
    matrix *p = context;
    p->bad_calls += j0 != i0 || j1 != p->n || i0 < 0 || i1 <= i0 || i1 > p->n;
    for (int64_t i = i0; i < i1; i++) {
        for (int64_t j = j0; j < j1; j++) *out++ = p->h[i * p->n + j];
    }
    return MQ_OK;
}

/* All of M (n, n) f32, by panels. */
static float *whole_m(mq_factor *f, int64_t n)
{
    float *m = calloc((size_t)(n * n), sizeof *m);
    float *panel = malloc((size_t)(n * MQ_FACTOR_PANEL) * sizeof *panel);
    for (int64_t k0 = 0; k0 < n; k0 += MQ_FACTOR_PANEL) {
        int64_t k1 = k0 + MQ_FACTOR_PANEL < n ? k0 + MQ_FACTOR_PANEL : n;
        memset(panel, 0xff, (size_t)(n * MQ_FACTOR_PANEL) * sizeof *panel);
        CHECK(mq_factor_panel(f, k0, k1, panel) == MQ_OK);
        for (int64_t i = 0; i < k1; i++) {
            memcpy(m + i * n + k0, panel + i * (k1 - k0), (size_t)(k1 - k0) * sizeof *m);
        }
    }
    free(panel);
    return m;
}

/* M and diag(R), and a checksum of both. */
typedef struct result {
    float *m;
    double *diagonal;
    XXH64_hash_t hash;
} result;

static result factor_of(const mq_comm *comm, int64_t n, const double *h, bool distributed, int root)
{
    result r = {0};
    matrix source = {.n = n, .h = h};
    mq_factor *f = NULL;
    int64_t order = -1;
    mq_status status = mq_factor_create(comm, n, distributed, root, entries, &source, &f, &order);
    CHECK_MSG(status == MQ_OK && order == 0, "n = %ld: %s", (long)n, mq_message());
    if (status != MQ_OK) return r; /* the same on every rank */
    CHECK(source.bad_calls == 0);
    r.m = whole_m(f, n);
    r.diagonal = malloc((size_t)n * sizeof *r.diagonal);
    memcpy(r.diagonal, mq_factor_diagonal(f), (size_t)n * sizeof *r.diagonal);
    r.hash = XXH3_64bits(r.m, (size_t)(n * n) * sizeof *r.m);
    r.hash ^= XXH3_64bits_withSeed(r.diagonal, (size_t)n * sizeof *r.diagonal, 1);
    mq_factor_destroy(&f);
    CHECK(f == NULL);
    return r;
}

static void result_free(result *r)
{
    free(r->m);
    free(r->diagonal);
}

/* R R^T = H from the definition, in f64: R upper triangular, last column first. */
static double *naive_r(const double *h, int64_t n)
{
    double *r = calloc((size_t)(n * n), sizeof *r);
    for (int64_t j = n - 1; j >= 0; j--) {
        for (int64_t i = j; i >= 0; i--) {
            double sum = h[i * n + j];
            for (int64_t k = j + 1; k < n; k++) sum -= r[i * n + k] * r[j * n + k];
            r[i * n + j] = i == j ? sqrt(sum) : sum / r[j * n + j];
        }
    }
    return r;
}

static void check_against_naive(const result *got, const double *h, int64_t n)
{
    double *r = naive_r(h, n);
    for (int64_t j = 0; j < n; j++) {
        double pivot = r[j * n + j];
        CHECK_MSG(fabs(got->diagonal[j] / pivot - 1) < 1e-10, "diagonal %ld", (long)j);
        for (int64_t i = 0; i < n; i++) {
            /* Columns of R are no longer than sqrt(h_ii); f32 holds 24 bits. */
            double expected = r[i * n + j] / pivot, bound = sqrt(h[i * n + i]) / pivot;
            double error = fabs((double)got->m[i * n + j] - expected);
            CHECK_MSG(error <= 6e-8 * fabs(expected) + 1e-10 * bound, "M[%ld][%ld] of %ld", (long)i,
                      (long)j, (long)n);
            if (i == j) CHECK(got->m[i * n + j] == 1);
            if (i > j) CHECK(got->m[i * n + j] == 0);
        }
    }
    free(r);
}

/* L L^T = J H J in f64, where one rank holds all of L. */
static void check_residual(const mq_comm *self, const double *h, int64_t n)
{
    matrix source = {.n = n, .h = h};
    mq_factor *f = NULL;
    int64_t order = 0;
    if (!CHECK(mq_factor_create(self, n, false, 0, entries, &source, &f, &order) == MQ_OK)) return;
    for (int64_t a = 0; a < n; a++) {
        for (int64_t b = 0; b <= a; b++) {
            int64_t i = n - 1 - a, j = n - 1 - b;
            double sum = 0;
            for (int64_t k = 0; k <= b; k++) {
                sum += f->local[k * f->local_rows + a] * f->local[k * f->local_rows + b];
            }
            double scale = sqrt(h[i * n + i] * h[j * n + j]);
            CHECK_MSG(fabs(sum - h[i * n + j]) <= 1e-12 * scale, "entry (%ld, %ld) of %ld", (long)i,
                      (long)j, (long)n);
        }
    }
    mq_factor_destroy(&f);
}

static void test_factor_is_right(void)
{
    mq_comm *self = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_SELF, &self) == MQ_OK)) return;
    for (int s = harness.rank; s < N_SIZES; s += harness.size) { /* every rank its own sizes */
        double *h = make_matrix(sizes[s]);
        result small = factor_of(self, sizes[s], h, false, 0);
        check_against_naive(&small, h, sizes[s]);
        check_residual(self, h, sizes[s]);
        result_free(&small);
        free(h);
    }
    mq_comm_destroy(&self);
}

/* Distributed over all ranks, on any one rank, alone: the same bits. As the run alone does not
 * depend on the number of ranks, bits are the same for all of them. */
static void test_ranks_change_no_bit(void)
{
    mq_comm *world = NULL, *self = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &world) == MQ_OK)) return;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_SELF, &self) == MQ_OK)) return;
    for (int s = 0; s < N_SIZES; s++) {
        double *h = make_matrix(sizes[s]);
        result alone = factor_of(self, sizes[s], h, false, 0);
        result grid = factor_of(self, sizes[s], h, true, 0);
        result spread = factor_of(world, sizes[s], h, true, 0);
        result root = factor_of(world, sizes[s], h, false, s % world->size);
        CHECK_MSG(grid.hash == alone.hash, "n = %ld, P x 1 grid of one", (long)sizes[s]);
        CHECK_MSG(spread.hash == alone.hash, "n = %ld, distributed", (long)sizes[s]);
        CHECK_MSG(root.hash == alone.hash, "n = %ld, on one of the ranks", (long)sizes[s]);
        if (world->rank == 0) {
            printf("     n = %ld: XXH3 %016llx\n", (long)sizes[s], (unsigned long long)alone.hash);
        }
        result_free(&alone);
        result_free(&grid);
        result_free(&spread);
        result_free(&root);
        free(h);
    }
    mq_comm_destroy(&self);
    mq_comm_destroy(&world);
}

static void test_threads_and_chunks_change_no_bit(void)
{
    mq_comm *world = NULL, *chunked = NULL;
    enum { N = 300 };
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &world) == MQ_OK)) return;
    setenv("MQ_CHUNK_BYTES", "1000", 1);
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &chunked) == MQ_OK)) return;
    unsetenv("MQ_CHUNK_BYTES");
    double *h = make_matrix(N);
    openblas_set_num_threads(1);
    result one = factor_of(world, N, h, true, 0);
    openblas_set_num_threads(2);
    int threads = openblas_get_num_threads();
    result two = factor_of(world, N, h, true, 0);
    CHECK(openblas_get_num_threads() == threads);
    openblas_set_num_threads(1);
    result pieces = factor_of(chunked, N, h, true, 0), root = factor_of(chunked, N, h, false, 0);
    CHECK(two.hash == one.hash);
    CHECK(pieces.hash == one.hash);
    CHECK(root.hash == one.hash);
    result_free(&one);
    result_free(&two);
    result_free(&pieces);
    result_free(&root);
    free(h);
    mq_comm_destroy(&chunked);
    mq_comm_destroy(&world);
}

/* Why nothing is scaled to a unit diagonal before it is factored: scaling by powers of two scales
 * the factor and changes no digit of it, however far the channels are apart, and what is left of
 * Jacobi scaling is less than a factor of two. M is that of the scaled matrix, entry by entry. */
static void test_scaling_changes_no_digit(void)
{
    enum { N = 300 };
    mq_comm *self = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_SELF, &self) == MQ_OK)) return;
    double *h = make_matrix(N), *scaled = make_matrix(N);
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            scaled[i * N + j] = ldexp(h[i * N + j], (i * 7 % 100) - 50 + (j * 7 % 100) - 50);
        }
    }
    result one = factor_of(self, N, h, false, 0), two = factor_of(self, N, scaled, false, 0);
    for (int i = 0; i < N; i++) {
        CHECK(two.diagonal[i] == ldexp(one.diagonal[i], (i * 7 % 100) - 50));
        for (int j = i; j < N; j++) {
            double expected = ldexp((double)one.m[i * N + j], (i * 7 % 100) - (j * 7 % 100));
            CHECK_MSG((double)two.m[i * N + j] == expected, "entry (%d, %d)", i, j);
        }
    }
    result_free(&one);
    result_free(&two);
    free(h);
    free(scaled);
    mq_comm_destroy(&self);
}

/* h must fail with this status, and order when it is not positive definite, on every rank. */
static void expect_failure(const mq_comm *comm, const double *h, int64_t n, mq_status expected,
                           int64_t minor)
{
    for (int distributed = 0; distributed < 2; distributed++) {
        matrix source = {.n = n, .h = h};
        mq_factor *f = NULL;
        int64_t order = -1;
        mq_status status =
            mq_factor_create(comm, n, distributed, comm->size - 1, entries, &source, &f, &order);
        CHECK_MSG(status == expected, "n = %ld: status %d", (long)n, (int)status);
        CHECK_MSG(order == minor, "n = %ld: order %ld, expected %ld", (long)n, (long)order,
                  (long)minor);
        CHECK(f == NULL);
        CHECK(strlen(mq_message()) > 0);
        mq_factor_destroy(&f);
    }
}

static void test_not_positive_definite(void)
{
    mq_comm *world = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &world) == MQ_OK)) return;
    for (int s = 0; s < N_SIZES; s++) {
        int64_t n = sizes[s];
        for (int64_t bad = 0; bad < n; bad += n / 4 + 1) {
            double *h = make_matrix(n);
            h[bad * n + bad] = -1; /* the minors before it are those of a good matrix */
            expect_failure(world, h, n, MQ_E_NOT_PD, n - bad);
            memset(h, 0, (size_t)(n * n) * sizeof *h);
            expect_failure(world, h, n, MQ_E_NOT_PD, 1);
            free(h);
        }
    }
    mq_comm_destroy(&world);
}

static void test_not_finite(void)
{
    mq_comm *world = NULL;
    enum { N = 200 };
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &world) == MQ_OK)) return;
    const double values[] = {(double)NAN, (double)INFINITY, -(double)INFINITY};
    for (int v = 0; v < 3; v++) {
        double *h = make_matrix(N);
        h[17 * N + 150] = h[150 * N + 17] = values[v];
        expect_failure(world, h, N, MQ_E_NUMERIC, 0);
        CHECK(strstr(mq_message(), "row 17, column 150"));
        free(h);
        h = make_matrix(N);
        h[3 * N + 3] = values[v];
        expect_failure(world, h, N, MQ_E_NUMERIC, 0);
        free(h);
    }
    mq_comm_destroy(&world);
}

static void test_what_fits(void)
{
    CHECK(mq_factor_fits(1, 1, false) == MQ_OK);
    CHECK(mq_factor_fits(46336, 1, true) == MQ_OK);
    CHECK(mq_factor_fits(46336, 7, false) == MQ_OK);
    CHECK(mq_factor_fits(46337, 7, false) == MQ_E_MEMORY);
    CHECK(strstr(mq_message(), "--distribute-above"));
    CHECK(mq_factor_fits(46337, 1, true) == MQ_E_MEMORY);
    CHECK(strstr(mq_message(), "at least 2 ranks"));
    CHECK(mq_factor_fits(46337, 2, true) == MQ_OK);
    CHECK(mq_factor_fits(200000, 8, true) == MQ_E_MEMORY);
    CHECK(strstr(mq_message(), "at least 19 ranks"));
    CHECK(mq_factor_fits(200000, 19, true) == MQ_OK);
    CHECK(mq_factor_fits(0, 1, true) == MQ_E_MEMORY);
    CHECK(mq_factor_fits(-5, 1, false) == MQ_E_MEMORY);
    CHECK(mq_factor_fits(INT64_MAX, 1, false) == MQ_E_MEMORY);
    CHECK(strstr(mq_linalg_describe(), "ScaLAPACK"));
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    RUN(test_factor_is_right);
    RUN(test_ranks_change_no_bit);
    RUN(test_threads_and_chunks_change_no_bit);
    RUN(test_scaling_changes_no_digit);
    RUN(test_not_positive_definite);
    RUN(test_not_finite);
    RUN(test_what_fits);
    return harness_finish();
}
