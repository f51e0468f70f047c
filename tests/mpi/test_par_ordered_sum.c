#include "mpi/harness.h"

#include "par/collectives.h"
#include "par/ordered_sum.h"

#include <float.h>
#include <stdint.h>
#include <string.h>

/* Hessian-like sums over units: columns between 2^-60 and 2^60 beside each other, zero columns and
 * subnormal ones, dealt to the ranks in different ways, against one serial sum over units in order:
 * bit for bit. */

enum { N_COLUMNS = 11, N_UNITS = 23, N_TOKENS = 9, N_PAIRS = N_COLUMNS * N_COLUMNS };

static uint64_t state;

static double random_unit(void) /* in [-1, 1) */
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)state * 0x1p-63;
}

static const double scale[N_COLUMNS] = {1,      0x1p60, 0x1p-60,  0,         1e-3,  1e6,
                                        0x1p-2, 5e-30,  0x1p-530, 0x1p-1060, 0x1p-7};

/* Unit u is the same on every rank; its columns vary by unit over another 2^16. */
static void make_unit(int u, double x[N_TOKENS][N_COLUMNS])
{
    state = (uint64_t)u * 977 + 5;
    for (int t = 0; t < N_TOKENS; t++) {
        for (int j = 0; j < N_COLUMNS; j++) {
            x[t][j] = random_unit() * scale[j] * ldexp(1, (u * 7 + j * 3) % 17 - 8);
        }
    }
}

static void unit_product(int u, double product[N_PAIRS])
{
    double x[N_TOKENS][N_COLUMNS];
    make_unit(u, x);
    for (int i = 0; i < N_COLUMNS; i++) {
        for (int j = 0; j < N_COLUMNS; j++) {
            double sum = 0;
            for (int t = 0; t < N_TOKENS; t++) sum += x[t][i] * x[t][j];
            product[i * N_COLUMNS + j] = sum;
        }
    }
}

/* Largest sum of squares of each column over the units for which owner says so (-1: all). */
static void largest_squares(const int *owner, int rank, double c[N_COLUMNS])
{
    double product[N_PAIRS];
    for (int j = 0; j < N_COLUMNS; j++) c[j] = 0;
    for (int u = 0; u < N_UNITS; u++) {
        if (rank >= 0 && owner[u] != rank) continue;
        unit_product(u, product);
        for (int j = 0; j < N_COLUMNS; j++) {
            if (product[j * N_COLUMNS + j] > c[j]) c[j] = product[j * N_COLUMNS + j];
        }
    }
}

static void add_units(const int *owner, int rank, const double c[N_COLUMNS], double sum[N_PAIRS])
{
    double product[N_PAIRS];
    int e[N_COLUMNS];
    for (int j = 0; j < N_COLUMNS; j++) e[j] = mq_grid_exponent(c[j], N_UNITS);
    memset(sum, 0, N_PAIRS * sizeof *sum);
    for (int u = 0; u < N_UNITS; u++) {
        if (rank >= 0 && owner[u] != rank) continue;
        unit_product(u, product);
        for (int k = 0; k < N_PAIRS; k++) {
            double grid = mq_grid_constant(e[k / N_COLUMNS] + e[k % N_COLUMNS]);
            sum[k] += mq_grid_round(product[k], grid);
        }
    }
}

static void check_dealing(const mq_comm *comm, const int *owner)
{
    double c[N_COLUMNS], serial_c[N_COLUMNS], sum[N_PAIRS], serial[N_PAIRS];
    largest_squares(owner, comm->rank, c);
    CHECK(mq_max_f64(comm, c, N_COLUMNS) == MQ_OK);
    largest_squares(owner, -1, serial_c);
    CHECK(memcmp(c, serial_c, sizeof c) == 0);
    add_units(owner, comm->rank, c, sum);
    CHECK(mq_sum_f64(comm, sum, N_PAIRS) == MQ_OK);
    add_units(owner, -1, serial_c, serial);
    for (int k = 0; k < N_PAIRS; k++) {
        CHECK_MSG(memcmp(&sum[k], &serial[k], sizeof *sum) == 0, "entry (%d, %d): %a, serial %a",
                  k / N_COLUMNS, k % N_COLUMNS, sum[k], serial[k]);
    }
}

static void test_any_dealing(void)
{
    mq_comm *comm = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &comm) == MQ_OK)) return;
    int owner[N_UNITS];
    for (int deal = 0; deal < 40; deal++) {
        state = (uint64_t)deal;
        for (int u = 0; u < N_UNITS; u++) {
            int random = (int)((random_unit() + 1) * 1e6);
            owner[u] = deal == 0 ? 0 : deal == 1 ? u % comm->size : random % comm->size;
        }
        check_dealing(comm, owner);
    }
    mq_comm_destroy(&comm);
}

/* The plain sum of the same numbers does depend on the dealing at 3 or more parts; if it did not,
 * the test above would show nothing. */
static void test_plain_sum_depends_on_order(void)
{
    double up[N_PAIRS] = {0}, down[N_PAIRS] = {0}, product[N_PAIRS];
    for (int u = 0; u < N_UNITS; u++) {
        unit_product(u, product);
        for (int k = 0; k < N_PAIRS; k++) up[k] += product[k];
        unit_product(N_UNITS - 1 - u, product);
        for (int k = 0; k < N_PAIRS; k++) down[k] += product[k];
    }
    CHECK(memcmp(up, down, sizeof up) != 0);
}

/* Close to the true sum, column by column: error below U half steps, itself below 2^-43 of
 * sqrt(c_i c_j) for columns that the smallest exponent does not touch. */
static void test_accuracy(void)
{
    double c[N_COLUMNS], sum[N_PAIRS], product[N_PAIRS];
    long double exact[N_PAIRS] = {0};
    largest_squares(NULL, -1, c);
    add_units(NULL, -1, c, sum);
    for (int u = 0; u < N_UNITS; u++) {
        unit_product(u, product);
        for (int k = 0; k < N_PAIRS; k++) exact[k] += product[k];
    }
    for (int k = 0; k < N_PAIRS; k++) {
        int i = k / N_COLUMNS, j = k % N_COLUMNS;
        double error = (double)fabsl(exact[k] - sum[k]);
        int e = mq_grid_exponent(c[i], N_UNITS) + mq_grid_exponent(c[j], N_UNITS);
        CHECK_MSG(error <= N_UNITS * 0.5 * ldexp(1, e), "entry (%d, %d)", i, j);
        if (c[i] < 1e-250 || c[j] < 1e-250) continue;
        CHECK_MSG(error <= 0x1p-43 * sqrt(c[i]) * sqrt(c[j]), "entry (%d, %d)", i, j);
    }
}

/* The promise U * c <= 2^50 * 2^(2e), and that e is the least that keeps it, on both sides of every
 * power of two; long double holds U * c exactly. */
static void test_exponents(void)
{
    static const int64_t units[] = {1, 2, 3, 5, 1000, 4096, 123457, ((int64_t)1 << 40) - 1};
    for (int p = -1074; p < 900; p += 3) {
        for (int side = -1; side <= 1; side++) {
            double c = ldexp(1, p);
            if (side < 0) c = nextafter(c, 0);
            if (side > 0) c = nextafter(c, INFINITY);
            for (size_t k = 0; c > 0 && k < sizeof units / sizeof *units; k++) {
                int e = mq_grid_exponent(c, units[k]);
                long double total = (long double)c * (long double)units[k];
                CHECK_MSG(total <= ldexpl(1, 50 + 2 * e), "c = %a, %d units", c, (int)units[k]);
                CHECK_MSG(e == -480 || total >= ldexpl(1, 50 + 2 * (e - 1)) * (1 - 0x1p-50L),
                          "c = %a: %d is too coarse", c, e);
                CHECK(e >= -480 && isnormal(mq_grid_constant(2 * e)));
            }
        }
    }
    CHECK(mq_grid_exponent(0, 7) == -480 && mq_grid_exponent(-0.0, 7) == -480);
}

static void test_rounding(void)
{
    for (int e = -960; e <= 960; e += 37) {
        double grid = mq_grid_constant(e), step = ldexp(1, e);
        static const double in[] = {0, 0.25, 0.5, 0.75, 1.5, 2.5, 1e9 + 0.5, 0x1p50 + 0.5, 0x1p51};
        static const double out[] = {0, 0, 0, 1, 2, 2, 1e9, 0x1p50, 0x1p51};
        for (int k = 0; k < 9; k++) {
            CHECK_MSG(mq_grid_round(in[k] * step, grid) == out[k] * step, "%g steps", in[k]);
            CHECK_MSG(mq_grid_round(-in[k] * step, grid) == -out[k] * step, "-%g steps", in[k]);
            CHECK(out[k] > 0 || !signbit(mq_grid_round(-in[k] * step, grid))); /* no -0 */
        }
        CHECK(mq_grid_round(DBL_TRUE_MIN, grid) == 0 && mq_grid_round(-DBL_TRUE_MIN, grid) == 0);
        CHECK(isnan(mq_grid_round((double)NAN, grid)));
    }
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    RUN(test_any_dealing);
    RUN(test_plain_sum_depends_on_order);
    RUN(test_accuracy);
    RUN(test_exponents);
    RUN(test_rounding);
    return harness_finish();
}
