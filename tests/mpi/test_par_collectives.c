#include "mpi/harness.h"

#include "base/memory.h"
#include "par/collectives.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Every collective against a naive computation: all ranks can make up every rank's input from its
 * number, so that each checks its own result alone. Lengths around the chunk, and chunks of 8, 64
 * and 12 bytes (no multiple of an element) and of the default size. */

static const int64_t lengths[] = {0, 1, 2, 7, 8, 9, 63, 64, 65, 1000};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths, LONGEST = 1000 };

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static int64_t value_of(int rank, int64_t i)
{
    return (int64_t)(mix((uint64_t)i * 31 + (uint64_t)rank + 1) >> 20) - ((int64_t)1 << 43);
}

static unsigned char byte_of(int rank, size_t i)
{
    return (unsigned char)mix((uint64_t)rank * 1000003u + i + 7);
}

static void check_reduce_i64(const mq_comm *comm, int64_t n)
{
    int64_t sum[LONGEST], high[LONGEST], low[LONGEST];
    for (int64_t i = 0; i < n; i++) sum[i] = high[i] = low[i] = value_of(comm->rank, i);
    CHECK(mq_sum_i64(comm, sum, n) == MQ_OK);
    CHECK(mq_highest_i64(comm, high, n) == MQ_OK);
    CHECK(mq_lowest_i64(comm, low, n) == MQ_OK);
    for (int64_t i = 0; i < n; i++) {
        int64_t s = 0, h = INT64_MIN, l = INT64_MAX;
        for (int r = 0; r < comm->size; r++) {
            int64_t v = value_of(r, i);
            s += v;
            if (v > h) h = v;
            if (v < l) l = v;
        }
        CHECK_MSG(sum[i] == s && high[i] == h && low[i] == l, "entry %d of %d", (int)i, (int)n);
    }
}

static void check_reduce_f64(const mq_comm *comm, int64_t n)
{
    double sum[LONGEST], high[LONGEST];
    for (int64_t i = 0; i < n; i++) sum[i] = high[i] = ldexp((double)value_of(comm->rank, i), -9);
    CHECK(mq_sum_f64(comm, sum, n) == MQ_OK);
    CHECK(mq_max_f64(comm, high, n) == MQ_OK);
    for (int64_t i = 0; i < n; i++) {
        double s = 0, h = -INFINITY;
        for (int r = 0; r < comm->size; r++) {
            double v = ldexp((double)value_of(r, i), -9);
            s += v; /* exact: 45 bits on a common grid */
            h = v > h ? v : h;
        }
        CHECK_MSG(sum[i] == s && high[i] == h, "entry %d of %d", (int)i, (int)n);
    }
}

/* Whoever holds the NaN, and in whatever order zeros of both signs come, the bits are the same. */
static void check_max_special(const mq_comm *comm)
{
    bool mine = comm->rank == comm->size - 1;
    double x[] = {mine ? (double)NAN : 5, mine ? -(double)NAN : INFINITY,
                  mine ? 0.0 : -0.0,      mine ? -0.0 : -1.0,
                  mine ? 5e-324 : 0.0,    mine ? -INFINITY : -5e-324};
    CHECK(mq_max_f64(comm, x, 6) == MQ_OK);
    uint64_t nan_bits = 0;
    memcpy(&nan_bits, &x[1], sizeof nan_bits);
    CHECK(isnan(x[0]) && isnan(x[1]) && nan_bits == 0x7FF8000000000000u);
    CHECK(x[2] == 0 && !signbit(x[2]));
    CHECK(x[3] == 0 && signbit(x[3]));
    CHECK(x[4] == 5e-324);
    CHECK(x[5] == (comm->size > 1 ? -5e-324 : -INFINITY));
}

static void check_bcast(const mq_comm *comm, size_t bytes)
{
    unsigned char data[LONGEST + 1];
    for (int root = 0; root < comm->size; root++) {
        for (size_t i = 0; i <= bytes; i++) data[i] = byte_of(comm->rank, i);
        CHECK(mq_bcast(comm, bytes ? data : NULL, bytes, root) == MQ_OK);
        for (size_t i = 0; i < bytes; i++) CHECK_MSG(data[i] == byte_of(root, i), "byte %zu", i);
        CHECK(data[bytes] == byte_of(comm->rank, bytes)); /* nothing behind the end */
    }
}

static void check_text(const mq_comm *comm)
{
    static const char long_text[] = "a text that is longer than eight bytes, \xC3\xA4 in UTF-8";
    const char *texts[] = {"", "x", long_text, NULL};
    for (int root = 0; root < comm->size; root++) {
        for (int k = 0; k < 4; k++) {
            char *text = NULL, old[] = "overwritten";
            if (comm->rank != root) {
                text = old;
            } else if (texts[k]) {
                CHECK(mq_alloc((int64_t)strlen(texts[k]) + 1, 1, "test", &text) == MQ_OK);
                strcpy(text, texts[k]);
            }
            CHECK(mq_bcast_text(comm, &text, root) == MQ_OK);
            CHECK((text == NULL) == (texts[k] == NULL));
            CHECK_MSG(!text || strcmp(text, texts[k]) == 0, "text %d from rank %d", k, root);
            mq_free(&text);
        }
    }
}

/* Bytes of rank r in the k-th way of cutting: all equal, none, one rank alone, ragged. */
static size_t slice_of(int k, int rank, int size)
{
    switch (k) {
    case 0:
        return 13;
    case 1:
        return 0;
    case 2:
        return rank == size - 1 ? 777 : 0;
    case 3:
        return rank == 0 ? 200 : 1;
    default:
        return (size_t)(mix((uint64_t)(k * 100 + rank)) % 300) * (rank % 3 != 1);
    }
}

enum { N_CUTS = 8, MOST = 4 * 800 };

static void check_gather(const mq_comm *comm, int k, bool in_place)
{
    int rank = comm->rank, size = comm->size;
    size_t bytes = slice_of(k, rank, size), at = 0, offset[64];
    unsigned char all[MOST + 1], mine[1000];
    CHECK(mq_gather_sizes(comm, bytes, offset) == MQ_OK);
    for (int r = 0; r < size; r++) {
        CHECK(offset[r] == at);
        at += slice_of(k, r, size);
    }
    CHECK(offset[size] == at);
    for (size_t i = 0; i < bytes; i++) mine[i] = byte_of(rank, i);
    for (int root = -1; root < size; root++) { /* -1: to all */
        bool gets = root < 0 || root == rank;
        memset(all, 0xEE, sizeof all);
        if (in_place && gets) memcpy(all + offset[rank], mine, bytes);
        const void *send = in_place && gets ? all + offset[rank] : bytes ? mine : NULL;
        mq_status status =
            root < 0 ? mq_allgather(comm, send, bytes, at ? all : NULL, offset)
                     : mq_gather(comm, send, bytes, gets && at ? all : NULL, offset, root);
        CHECK(status == MQ_OK);
        for (int r = 0; gets && r < size; r++) {
            for (size_t i = 0; i < slice_of(k, r, size); i++) {
                CHECK_MSG(all[offset[r] + i] == byte_of(r, i), "cut %d, root %d, rank %d, byte %zu",
                          k, root, r, i);
            }
        }
        CHECK(all[gets ? at : 0] == 0xEE);
    }
}

static void check_scatter(const mq_comm *comm, int k, bool in_place)
{
    int rank = comm->rank, size = comm->size;
    size_t bytes = slice_of(k, rank, size), offset[64] = {16}; /* slices need not begin at 0 */
    unsigned char all[MOST + 16], mine[1001];
    for (int r = 0; r < size; r++) offset[r + 1] = offset[r] + slice_of(k, r, size);
    for (int r = 0; r < size; r++) {
        for (size_t i = 0; i < slice_of(k, r, size); i++) all[offset[r] + i] = byte_of(r, i);
    }
    for (int root = 0; root < size; root++) {
        bool gives = root == rank;
        memset(mine, 0xEE, sizeof mine);
        unsigned char *recv = in_place && gives ? all + offset[rank] : mine;
        CHECK(mq_scatter(comm, gives ? all : NULL, gives ? offset : NULL, bytes ? recv : NULL,
                         bytes, root) == MQ_OK);
        for (size_t i = 0; i < bytes; i++) {
            CHECK_MSG(recv[i] == byte_of(rank, i), "cut %d, root %d, byte %zu", k, root, i);
        }
        CHECK(mine[recv == mine ? bytes : 0] == 0xEE);
    }
}

/* A rank that expects another number of bytes than it gets is found before anything moves. */
static void check_mismatch(const mq_comm *comm)
{
    size_t offset[64] = {0};
    unsigned char all[4 * 16], mine[16] = {0};
    for (int r = 0; r < comm->size; r++) offset[r + 1] = offset[r] + 8;
    size_t bytes = comm->rank == comm->size - 1 ? 9 : 8;
    memset(all, 0xEE, sizeof all);
    CHECK(mq_scatter(comm, all, offset, mine, bytes, 0) == MQ_E_INTERNAL);
    CHECK_MSG(strstr(mq_message(), "has 9 bytes, its slice 8"), "%s", mq_message());
    CHECK(mq_gather(comm, mine, bytes, all, offset, 0) == MQ_E_INTERNAL);
    CHECK(mq_allgather(comm, mine, bytes, all, offset) == MQ_E_INTERNAL);
    CHECK(all[0] == 0xEE && mine[0] == 0);
    CHECK(mq_barrier(comm) == MQ_OK);
}

/* Sizes are running sums in 64 bits; past those they are refused, on every rank. */
static void check_huge_sizes(const mq_comm *comm)
{
    size_t offset[64], huge = (size_t)1 << 61;
    CHECK(mq_gather_sizes(comm, huge, offset) == MQ_OK);
    CHECK(offset[comm->size] == (size_t)comm->size << 61);
    mq_status expected = comm->size > 1 ? MQ_E_INPUT : MQ_OK;
    CHECK(mq_gather_sizes(comm, SIZE_MAX - 3, offset) == expected);
}

static void check_everything(const char *chunk)
{
    mq_comm *comm = NULL;
    if (chunk) setenv("MQ_CHUNK_BYTES", chunk, 1);
    bool made = CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &comm) == MQ_OK);
    unsetenv("MQ_CHUNK_BYTES");
    if (!made) return;
    for (int i = 0; i < N_LENGTHS; i++) {
        check_reduce_i64(comm, lengths[i]);
        check_reduce_f64(comm, lengths[i]);
        check_bcast(comm, (size_t)lengths[i]);
    }
    check_max_special(comm);
    check_text(comm);
    for (int k = 0; k < N_CUTS; k++) {
        check_gather(comm, k, false);
        check_gather(comm, k, true);
        check_scatter(comm, k, false);
        check_scatter(comm, k, true);
    }
    check_mismatch(comm);
    check_huge_sizes(comm);
    mq_comm_destroy(&comm);
}

static void test_chunk_8(void)
{
    check_everything("8");
}

static void test_chunk_12(void)
{
    check_everything("12");
}

static void test_chunk_64(void)
{
    check_everything("64");
}

static void test_chunk_default(void)
{
    check_everything(NULL);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    RUN(test_chunk_8);
    RUN(test_chunk_12);
    RUN(test_chunk_64);
    RUN(test_chunk_default);
    return harness_finish();
}
