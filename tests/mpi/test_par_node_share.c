#include "mpi/harness.h"

#include "par/collectives.h"
#include "par/node_share.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Shared memory on the real node and on emulated ones of 1 and 2 ranks, where a byte reaches the
 * other nodes by mq_share_publish or not at all. */

enum { MOST_RANGES = 400 };

static unsigned char byte_at(size_t i)
{
    return (unsigned char)((i * 2654435761u >> 7) | 1); /* never 0, which memory begins with */
}

static mq_comm *start(const char *ranks_per_node, const char *chunk)
{
    mq_comm *comm = NULL;
    if (ranks_per_node) setenv("MQ_RANKS_PER_NODE", ranks_per_node, 1);
    if (chunk) setenv("MQ_CHUNK_BYTES", chunk, 1);
    CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &comm) == MQ_OK);
    unsetenv("MQ_RANKS_PER_NODE");
    unsetenv("MQ_CHUNK_BYTES");
    return comm;
}

/* Ragged ranges over [0, bytes), dealt to the ranks by `stride`: cyclic, or in runs that can be
 * merged. Every seventh is empty, and the order is turned round when `backwards`. */
static int64_t make_ranges(const mq_comm *comm, size_t bytes, int stride, bool backwards,
                           mq_range *range)
{
    size_t at = 0;
    int64_t n = 0;
    for (; at < bytes && n < MOST_RANGES; n++) {
        size_t length = n % 7 == 3 ? 0 : (size_t)(n * 37 % 91) + 1;
        if (length > bytes - at || n == MOST_RANGES - 1) length = bytes - at;
        range[n] = (mq_range){at, length, (int)(n / stride) % comm->size};
        at += length;
    }
    for (int64_t i = 0; backwards && i < n / 2; i++) {
        mq_range swap = range[i];
        range[i] = range[n - 1 - i];
        range[n - 1 - i] = swap;
    }
    return n;
}

static void check_publish(const mq_comm *comm, size_t bytes, int stride, bool backwards)
{
    mq_range range[MOST_RANGES];
    mq_share *share = NULL;
    if (!CHECK_ALL(mq_share_create(comm, bytes, "test", &share) == MQ_OK)) return;
    unsigned char *base = share->base;
    CHECK(share->bytes == bytes && (uintptr_t)base % 64 == 0);
    for (size_t i = 0; i < bytes; i++) CHECK_MSG(base[i] == 0, "byte %zu is not zero", i);
    mq_barrier(comm);
    int64_t n = make_ranges(comm, bytes, stride, backwards, range);
    for (int64_t k = 0; k < n; k++) {
        if (range[k].owner != comm->rank) continue;
        for (size_t i = 0; i < range[k].bytes; i++) {
            base[range[k].offset + i] = byte_at(range[k].offset + i);
        }
    }
    CHECK(mq_share_fence(comm, share) == MQ_OK);
    for (int64_t k = 0; k < n; k++) { /* what this node wrote, and nothing else */
        bool here = comm->node_of[range[k].owner] == comm->node_id;
        for (size_t i = range[k].offset; i < range[k].offset + range[k].bytes; i++) {
            CHECK_MSG(base[i] == (here ? byte_at(i) : 0), "byte %zu before publishing", i);
        }
    }
    mq_barrier(comm);
    CHECK(mq_share_publish(comm, share, range, n) == MQ_OK);
    for (size_t i = 0; i < bytes; i++) CHECK_MSG(base[i] == byte_at(i), "byte %zu", i);
    mq_share_destroy(&share);
    CHECK(share == NULL);
    mq_share_destroy(&share);
}

static void check_sizes(const char *ranks_per_node, const char *chunk)
{
    mq_comm *comm = start(ranks_per_node, chunk);
    if (!comm) return;
    static const size_t sizes[] = {0, 1, 63, 64, 1000, 12345};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_publish(comm, sizes[i], 1, false);
        check_publish(comm, sizes[i], 5, false);
        check_publish(comm, sizes[i], 1000, true);
    }
    mq_comm_destroy(&comm);
}

static void test_one_node(void)
{
    check_sizes(NULL, NULL);
    check_sizes(NULL, "8");
}

static void test_a_rank_a_node(void)
{
    check_sizes("1", NULL);
    check_sizes("1", "8");
    check_sizes("1", "64");
}

static void test_two_ranks_a_node(void)
{
    check_sizes("2", NULL);
    check_sizes("2", "8");
    check_sizes("2", "64");
}

/* Memory of one node is one memory: what any of its ranks writes, all read, time and again. */
static void test_turns(void)
{
    mq_comm *comm = start("2", NULL);
    if (!comm) return;
    mq_share *a = NULL, *b = NULL;
    bool good = mq_share_create(comm, 8, "first", &a) == MQ_OK;
    good = mq_share_create(comm, 1 << 20, "second", &b) == MQ_OK && good;
    if (CHECK_ALL(good)) {
        int64_t *counter = a->base, *other = b->base;
        for (int64_t turn = 1; turn <= 50; turn++) {
            if (turn % comm->node_size == comm->node_rank) *counter = other[turn] = turn;
            CHECK(mq_share_fence(comm, a) == MQ_OK && mq_share_fence(comm, b) == MQ_OK);
            CHECK_MSG(*counter == turn && other[turn] == turn, "turn %d", (int)turn);
            CHECK(mq_share_fence(comm, a) == MQ_OK);
        }
    }
    mq_share_destroy(&a);
    mq_share_destroy(&b);
    mq_comm_destroy(&comm);
}

static void test_bad_ranges(void)
{
    mq_comm *comm = start("1", NULL);
    if (!comm) return;
    mq_share *share = NULL;
    if (CHECK_ALL(mq_share_create(comm, 100, "test", &share) == MQ_OK)) {
        const mq_range bad[] = {{0, 101, 0}, {101, 0, 0},
                                {50, 51, 0}, {50, SIZE_MAX - 20, 0},
                                {0, 10, -1}, {0, 10, comm->size}};
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            mq_range ranges[2] = {{0, 100, 0}, bad[i]};
            CHECK(mq_share_publish(comm, share, ranges, 2) == MQ_E_INTERNAL);
            CHECK_MSG(strstr(mq_message(), "range 1: ") != NULL, "%s", mq_message());
        }
        CHECK(mq_share_publish(comm, share, NULL, 0) == MQ_OK);
    }
    mq_share_destroy(&share);
    mq_comm_destroy(&comm);
}

/* More than any /dev/shm has: every rank learns it, nobody is killed by a signal. */
static void test_too_large(void)
{
    mq_comm *comm = start(NULL, NULL);
    if (!comm) return;
    mq_share *share = NULL;
    CHECK(mq_share_create(comm, (size_t)1 << 52, "weights of a block", &share) == MQ_E_MEMORY);
    CHECK_MSG(strstr(mq_message(), "weights of a block") != NULL, "%s", mq_message());
    CHECK_MSG(comm->size == 1 || strstr(mq_message(), "/dev/shm"), "%s", mq_message());
    CHECK(share == NULL);
    CHECK(mq_share_create(comm, SIZE_MAX - 5, "more", &share) == MQ_E_INPUT);
    CHECK(mq_share_create(comm, SIZE_MAX / 2, "more", &share) == MQ_E_INPUT);
    mq_comm_destroy(&comm);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    RUN(test_one_node);
    RUN(test_a_rank_a_node);
    RUN(test_two_ranks_a_node);
    RUN(test_turns);
    RUN(test_bad_ranges);
    RUN(test_too_large);
    return harness_finish();
}
