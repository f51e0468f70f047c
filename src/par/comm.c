#include "par/comm.h"

#include "base/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_BYTES = 2048, SMALLEST_CHUNK = 8 };

/* Large enough for full bandwidth, small beside the work buffer that MPI takes for a reduction. */
static const int64_t default_chunk = (int64_t)64 << 20;

mq_status mq_mpi_check(int code, const char *what)
{
    if (code == MPI_SUCCESS) return MQ_OK;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length = 0, class = MPI_ERR_OTHER;
    MPI_Error_class(code, &class);
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) {
        snprintf(text, sizeof text, "error code %d", code);
    }
    mq_status status = MQ_E_INTERNAL;
    if (class == MPI_ERR_NO_MEM) status = MQ_E_MEMORY;
    if (class == MPI_ERR_IO || class == MPI_ERR_NO_SPACE || class == MPI_ERR_QUOTA ||
        class == MPI_ERR_FILE || class == MPI_ERR_NO_SUCH_FILE || class == MPI_ERR_ACCESS ||
        class == MPI_ERR_READ_ONLY || class == MPI_ERR_FILE_EXISTS) {
        status = MQ_E_IO;
    }
    return mq_fail(status, "%s: %s", what, text);
}

/* FNV-1a of a message, 62 bits so that its negative fits too. */
static int64_t hash_text(const char *text)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001B3u;
    return (int64_t)(hash >> 2);
}

/* The maximum over the ranks of all that mq_agree has to know, in one small reduction. */
typedef struct verdict {
    int64_t worst; /* status, and below it INT_MAX - rank: the lowest rank wins */
    int64_t minus_best;
    int64_t hash, minus_hash; /* of the message; equal but for the sign when all texts are equal */
} verdict;

static mq_status agree_on(MPI_Comm world, int rank, int size, mq_status local)
{
    int64_t hash = local == MQ_OK ? 0 : hash_text(mq_message());
    verdict mine = {((int64_t)local << 32) | (INT_MAX - rank), -(int64_t)local, hash, -hash}, all;
    MQ_TRY(mq_mpi_check(MPI_Allreduce(&mine, &all, 4, MPI_INT64_T, MPI_MAX, world), "mq_agree"));
    mq_status worst = (mq_status)(all.worst >> 32);
    if (worst == MQ_OK) return MQ_OK;
    int speaker = INT_MAX - (int)(all.worst & INT_MAX);
    bool alike = all.minus_best == -(int64_t)worst && all.hash == -all.minus_hash;
    char text[MESSAGE_BYTES] = "";
    if (rank == speaker && size > 1 && !alike) {
        snprintf(text, sizeof text, "rank %d: %s", rank, mq_message());
    } else if (rank == speaker) {
        snprintf(text, sizeof text, "%s", mq_message());
    }
    MQ_TRY(mq_mpi_check(MPI_Bcast(text, MESSAGE_BYTES, MPI_CHAR, speaker, world), "mq_agree"));
    mq_set_message(text);
    return worst;
}

mq_status mq_agree(const mq_comm *comm, mq_status local)
{
    return agree_on(comm->world, comm->rank, comm->size, local);
}

/* An integer of the environment; *value is left alone where the variable is not set. */
static mq_status read_setting(const char *name, int64_t lowest, int64_t *value)
{
    const char *text = getenv(name);
    if (!text) return MQ_OK;
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (end == text || *end || errno != 0 || number < lowest || number > INT_MAX) {
        return mq_fail(MQ_E_USAGE,
                       "%s=%s in the environment: must be a number from %" PRId64 " to %d", name,
                       text, lowest, INT_MAX);
    }
    *value = number;
    return MQ_OK;
}

/* Rank 0's environment counts: ranks on other nodes need not have inherited it. */
static mq_status read_settings(mq_comm *comm, int64_t *ranks_per_node)
{
    int64_t setting[2] = {default_chunk, INT_MAX};
    mq_status status = MQ_OK;
    if (comm->rank == 0) {
        status = read_setting("MQ_CHUNK_BYTES", SMALLEST_CHUNK, &setting[0]);
        if (status == MQ_OK) status = read_setting("MQ_RANKS_PER_NODE", 1, &setting[1]);
    }
    MQ_TRY(mq_agree(comm, status));
    MQ_TRY(mq_mpi_check(MPI_Bcast(setting, 2, MPI_INT64_T, 0, comm->world), "MPI_Bcast"));
    comm->chunk_bytes = (size_t)setting[0];
    *ranks_per_node = setting[1];
    return MQ_OK;
}

/* comm->node: the ranks that share memory, in pieces of ranks_per_node where tests ask for it. */
static mq_status split_nodes(mq_comm *comm, int64_t ranks_per_node)
{
    MPI_Comm shared = MPI_COMM_NULL;
    MQ_TRY(mq_mpi_check(
        MPI_Comm_split_type(comm->world, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &shared),
        "MPI_Comm_split_type"));
    int place = 0;
    MPI_Comm_rank(shared, &place);
    int code = MPI_Comm_split(shared, place / (int)ranks_per_node, comm->rank, &comm->node);
    MPI_Comm_free(&shared);
    MQ_TRY(mq_mpi_check(code, "MPI_Comm_split"));
    MPI_Comm_set_errhandler(comm->node, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm->node, &comm->node_rank);
    MPI_Comm_size(comm->node, &comm->node_size);
    return MQ_OK;
}

/* Numbers the nodes in the order of their lowest ranks and joins those ranks. */
static mq_status number_nodes(mq_comm *comm)
{
    int lowest = comm->rank, *node_of = comm->node_of;
    MQ_TRY(mq_mpi_check(MPI_Bcast(&lowest, 1, MPI_INT, 0, comm->node), "MPI_Bcast"));
    MQ_TRY(mq_mpi_check(MPI_Allgather(&lowest, 1, MPI_INT, node_of, 1, MPI_INT, comm->world),
                        "MPI_Allgather"));
    /* node_of[r] holds the lowest rank of r's node, which is r or was numbered already. */
    for (int r = 0; r < comm->size; r++) {
        node_of[r] = node_of[r] == r ? comm->n_nodes++ : node_of[node_of[r]];
    }
    comm->node_id = node_of[comm->rank];
    MQ_TRY(mq_mpi_check(MPI_Comm_split(comm->world, comm->node_rank == 0 ? 0 : MPI_UNDEFINED,
                                       comm->rank, &comm->leaders),
                        "MPI_Comm_split"));
    if (comm->leaders != MPI_COMM_NULL) {
        MPI_Comm_set_errhandler(comm->leaders, MPI_ERRORS_RETURN);
    }
    return MQ_OK;
}

static mq_status find_nodes(mq_comm *comm)
{
    int64_t ranks_per_node = 0;
    MQ_TRY(read_settings(comm, &ranks_per_node));
    MQ_TRY(mq_agree(comm, split_nodes(comm, ranks_per_node)));
    return mq_agree(comm, number_nodes(comm));
}

mq_status mq_comm_create(MPI_Comm parent, mq_comm **out)
{
    MPI_Comm world = MPI_COMM_NULL;
    mq_comm *comm = NULL;
    int rank = 0, size = 0, *node_of = NULL;
    *out = NULL;
    MQ_TRY(mq_mpi_check(MPI_Comm_dup(parent, &world), "MPI_Comm_dup"));
    MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN);
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &size);
    mq_status status = mq_alloc(1, sizeof *comm, "communicator", &comm);
    if (status == MQ_OK) status = mq_alloc(size, sizeof *node_of, "nodes of the ranks", &node_of);
    status = agree_on(world, rank, size, status);
    if (status != MQ_OK) {
        mq_free(&node_of);
        mq_free(&comm);
        MPI_Comm_free(&world);
        return status;
    }
    *comm = (mq_comm){.world = world,
                      .node = MPI_COMM_NULL,
                      .leaders = MPI_COMM_NULL,
                      .rank = rank,
                      .size = size,
                      .node_of = node_of};
    status = find_nodes(comm);
    if (status != MQ_OK) mq_comm_destroy(&comm);
    *out = comm;
    return status;
}

static void free_one(MPI_Comm *comm)
{
    if (*comm != MPI_COMM_NULL) MPI_Comm_free(comm);
}

void mq_comm_destroy(mq_comm **comm)
{
    if (!*comm) return;
    free_one(&(*comm)->leaders);
    free_one(&(*comm)->node);
    free_one(&(*comm)->world);
    mq_free(&(*comm)->node_of);
    mq_free(comm);
}
