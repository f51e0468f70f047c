#include "mpi/harness.h"

#include "par/comm.h"

#include <stdlib.h>
#include <string.h>

/* Nodes of `per_node` consecutive ranks against their closed form (one real node). */
static void check_nodes(int per_node)
{
    char text[16];
    snprintf(text, sizeof text, "%d", per_node);
    setenv("MQ_RANKS_PER_NODE", text, 1);
    mq_comm *comm = NULL;
    bool made = CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &comm) == MQ_OK);
    unsetenv("MQ_RANKS_PER_NODE");
    if (!made) return;
    int rank = harness.rank, size = harness.size, n_nodes = (size + per_node - 1) / per_node;
    int node_size = rank / per_node == n_nodes - 1 ? size - (n_nodes - 1) * per_node : per_node;
    CHECK(comm->rank == rank && comm->size == size);
    CHECK_MSG(comm->n_nodes == n_nodes, "%d nodes, expected %d", comm->n_nodes, n_nodes);
    CHECK(comm->node_id == rank / per_node && comm->node_rank == rank % per_node);
    CHECK(comm->node_size == node_size);
    for (int r = 0; r < size; r++) CHECK_MSG(comm->node_of[r] == r / per_node, "rank %d", r);
    CHECK((comm->leaders != MPI_COMM_NULL) == (rank % per_node == 0));
    if (comm->leaders != MPI_COMM_NULL) {
        int place = -1, count = -1;
        MPI_Comm_rank(comm->leaders, &place);
        MPI_Comm_size(comm->leaders, &count);
        CHECK(place == comm->node_id && count == n_nodes);
    }
    mq_comm_destroy(&comm);
    CHECK(comm == NULL);
    mq_comm_destroy(&comm);
}

static void test_nodes(void)
{
    for (int per_node = 1; per_node <= 5; per_node++) check_nodes(per_node);
}

/* Where the ranks are given in another order, nodes are still numbered by their lowest rank. */
static void test_reversed_parent(void)
{
    MPI_Comm reversed = MPI_COMM_NULL;
    MPI_Comm_split(MPI_COMM_WORLD, 0, harness.size - harness.rank, &reversed);
    setenv("MQ_RANKS_PER_NODE", "2", 1);
    mq_comm *comm = NULL;
    if (CHECK_ALL(mq_comm_create(reversed, &comm) == MQ_OK)) {
        CHECK(comm->rank == harness.size - 1 - harness.rank);
        CHECK(comm->node_id == comm->rank / 2 && comm->node_of[0] == 0);
    }
    unsetenv("MQ_RANKS_PER_NODE");
    mq_comm_destroy(&comm);
    MPI_Comm_free(&reversed);
}

static void test_settings(void)
{
    mq_comm *comm = NULL;
    if (CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &comm) == MQ_OK)) {
        CHECK(comm->chunk_bytes == (size_t)64 << 20);
        CHECK(comm->n_nodes == 1);
    }
    mq_comm_destroy(&comm);
    /* Only rank 0 has the variable: it counts for all. */
    if (harness.rank == 0) setenv("MQ_CHUNK_BYTES", "24", 1);
    if (CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &comm) == MQ_OK)) CHECK(comm->chunk_bytes == 24);
    mq_comm_destroy(&comm);
    static const char *const bad[] = {"7", "", "x", "12x", "2147483648", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (harness.rank == 0) setenv("MQ_CHUNK_BYTES", bad[i], 1);
        CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &comm) == MQ_E_USAGE);
        CHECK(comm == NULL && strstr(mq_message(), "MQ_CHUNK_BYTES"));
    }
    unsetenv("MQ_CHUNK_BYTES");
}

/* One mq_agree against what was asked of it; failing[r] is rank r's status. */
static void check_agree(const mq_comm *comm, const mq_status *failing, mq_status expected,
                        const char *message)
{
    mq_status local = failing[comm->rank];
    mq_fail(MQ_E_IO, "something older");
    if (local != MQ_OK) mq_fail(local, "trouble %d", comm->rank);
    mq_status got = mq_agree(comm, local);
    CHECK_MSG(got == expected, "status %d, expected %d", (int)got, (int)expected);
    if (expected == MQ_OK) return;
    CHECK_MSG(strcmp(mq_message(), message) == 0, "\"%s\", expected \"%s\"", mq_message(), message);
    /* Agreed failures go up through further agreements unchanged. */
    CHECK(mq_agree(comm, got) == expected && strcmp(mq_message(), message) == 0);
}

static void test_agree(void)
{
    mq_comm *comm = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &comm) == MQ_OK)) return;
    int size = comm->size, last = size - 1;
    mq_status *failing = calloc((size_t)size, sizeof *failing);
    char message[64];
    if (CHECK_ALL(failing != NULL)) {
        check_agree(comm, failing, MQ_OK, "");
        for (int r = 0; r < size; r++) { /* each rank alone */
            memset(failing, 0, (size_t)size * sizeof *failing);
            failing[r] = MQ_E_INPUT;
            snprintf(message, sizeof message, size > 1 ? "rank %d: trouble %d" : "trouble %d", r,
                     r);
            check_agree(comm, failing, MQ_E_INPUT, message);
        }
        for (int r = 0; r < size; r++) failing[r] = MQ_E_IO; /* all, with different texts */
        check_agree(comm, failing, MQ_E_IO, size > 1 ? "rank 0: trouble 0" : "trouble 0");
        failing[last] = MQ_E_INTERNAL; /* the worst wins over the lowest rank */
        snprintf(message, sizeof message, size > 1 ? "rank %d: trouble %d" : "trouble 0", last,
                 last);
        check_agree(comm, failing, MQ_E_INTERNAL, message);
        failing[size / 2] = MQ_E_INTERNAL; /* of two worst, the lower rank */
        snprintf(message, sizeof message, size > 1 ? "rank %d: trouble %d" : "trouble 0", size / 2,
                 size / 2);
        check_agree(comm, failing, MQ_E_INTERNAL, message);
    }
    free(failing);
    mq_comm_destroy(&comm);
}

static void test_agree_alike(void)
{
    mq_comm *comm = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &comm) == MQ_OK)) return;
    CHECK(mq_agree(comm, mq_fail(MQ_E_USAGE, "the same everywhere")) == MQ_E_USAGE);
    CHECK(strcmp(mq_message(), "the same everywhere") == 0);
    /* A message longer than the bound is cut, not overrun. */
    char text[6000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    text[0] = (char)('a' + comm->rank);
    CHECK(mq_agree(comm, mq_fail(MQ_E_USAGE, "%s", text)) == MQ_E_USAGE);
    CHECK(strlen(mq_message()) >= 2000 && strlen(mq_message()) < 2048);
    mq_comm_destroy(&comm);
}

static void test_mpi_check(void)
{
    CHECK(mq_mpi_check(MPI_SUCCESS, "nothing") == MQ_OK);
    mq_comm *comm = NULL;
    if (!CHECK_ALL(mq_comm_create(MPI_COMM_WORLD, &comm) == MQ_OK)) return;
    /* The private communicators return errors instead of ending the job. */
    int code = MPI_Send(NULL, -1, MPI_BYTE, 0, 0, comm->world);
    CHECK(mq_mpi_check(code, "a send of -1 bytes") == MQ_E_INTERNAL);
    CHECK_MSG(strstr(mq_message(), "a send of -1 bytes: MPI_ERR_COUNT") != NULL, "%s",
              mq_message());
    CHECK(mq_mpi_check(MPI_ERR_NO_MEM, "memory") == MQ_E_MEMORY);
    CHECK(mq_mpi_check(MPI_ERR_NO_SPACE, "disk") == MQ_E_IO);
    CHECK(mq_mpi_check(MPI_Send(NULL, -1, MPI_BYTE, 0, 0, comm->node), "node") == MQ_E_INTERNAL);
    mq_comm_destroy(&comm);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    RUN(test_nodes);
    RUN(test_reversed_parent);
    RUN(test_settings);
    RUN(test_agree);
    RUN(test_agree_alike);
    RUN(test_mpi_check);
    return harness_finish();
}
