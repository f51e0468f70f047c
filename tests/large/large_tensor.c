#include "mpi/harness.h"

#include "base/hash.h"
#include "base/memory.h"
#include "par/collectives.h"
#include "store/folder.h"
#include "store/writer.h"

#include <inttypes.h>
#include <string.h>

/* A tensor with more elements than an int can count, whole on the disk: 256000 x 12288, and a small
 * one behind it, which begins past 4 GiB. Written by all ranks through the writer, then read back
 * through the folder reader, every element compared. Needs 6.3 GB in BF16, 12.6 GB in F32.
 *
 *     mpirun -n RANKS large_tensor BF16|F32 FOLDER
 *
 * Every element is a hash of its number in the file, so that one in the wrong place shows, as after
 * an offset that lost its upper half. large_tensor.py knows the same formula. Prints the checksum
 * of the file. */

enum { ROWS = 256000, COLUMNS = 12288 };
enum { WRITE_ROWS = 250, READ_ROWS = 384 }; /* at a time: not the same, for the blocks' ends */

typedef struct shape {
    const char *name;
    int64_t rows, columns, first; /* number of its first element in the file */
} shape;

static const shape shapes[] = {
    {"embed.weight", ROWS, COLUMNS, 0},
    {"norm.weight", COLUMNS, 1, (int64_t)ROWS *COLUMNS},
};
enum { N = sizeof shapes / sizeof *shapes };

static mq_comm *comm;
static const char *folder;
static mq_dtype dtype;

/* Elements [first, first + n). The bit that is cleared is one of the exponent: no NaN, no inf. */
static void fill(int64_t first, int64_t n, void *out)
{
    const uint64_t factor = 0x9E3779B97F4A7C15;
    uint16_t *half = out;
    uint32_t *word = out;
    for (int64_t i = 0; i < n; i++) {
        uint64_t hash = (uint64_t)(first + i) * factor;
        if (dtype == MQ_BF16) {
            half[i] = (uint16_t)(hash >> 48 & 0xBFFF);
        } else {
            word[i] = (uint32_t)(hash >> 32 & 0xBFFFFFFF);
        }
    }
}

static mq_status put_tensor(mq_writer *w, const shape *s, char *block)
{
    size_t row_bytes = (size_t)s->columns * mq_dtype_size(dtype);
    for (int64_t r = 0; r < s->rows; r += WRITE_ROWS) {
        int64_t n = s->rows - r < WRITE_ROWS ? s->rows - r : WRITE_ROWS;
        if (r / WRITE_ROWS % comm->size != comm->rank) continue;
        fill(s->first + r * s->columns, n * s->columns, block);
        MQ_TRY(mq_writer_put(w, s->name, (uint64_t)r * row_bytes, block, (size_t)n * row_bytes));
    }
    return MQ_OK;
}

static mq_status put_all(mq_writer *w)
{
    char *block = NULL;
    mq_status status = mq_alloc((int64_t)WRITE_ROWS * COLUMNS, sizeof(float), "block", &block);
    for (int t = 0; t < N && status == MQ_OK; t++) status = put_tensor(w, &shapes[t], block);
    mq_free(&block);
    return status;
}

static void test_write(void)
{
    const mq_out_tensor tensors[N] = {{shapes[0].name, dtype, 2, {ROWS, COLUMNS}},
                                      {shapes[1].name, dtype, 1, {COLUMNS}}};
    mq_writer *w = NULL;
    bool made = mq_writer_create(comm, folder, tensors, N, UINT64_MAX, &w) == MQ_OK;
    if (!CHECK_MSG(made, "%s", mq_message())) return;
    CHECK_MSG(mq_agree(comm, put_all(w)) == MQ_OK, "%s", mq_message());
    CHECK_MSG(mq_writer_commit(w) == MQ_OK, "%s", mq_message());
    CHECK(mq_writer_shards(w) == 1);
    mq_writer_destroy(&w);
}

/* A rank reads what, for the most part, others wrote. */
static void check_tensor(mq_folder *f, const shape *s, char *found, char *expected)
{
    const mq_tensor *t = mq_folder_find(f, s->name);
    if (!CHECK_MSG(t != NULL, "%s is missing", s->name)) return;
    CHECK(t->dtype == dtype && t->dim[0] == s->rows);
    CHECK(t->begin == (uint64_t)s->first * mq_dtype_size(dtype));
    for (int64_t r = 0; r < s->rows; r += READ_ROWS) {
        int64_t n = s->rows - r < READ_ROWS ? s->rows - r : READ_ROWS;
        if ((r / READ_ROWS + 1) % comm->size != comm->rank) continue;
        mq_status status = mq_folder_read_rows(f, t, r, r + n, dtype, found);
        if (!CHECK_MSG(status == MQ_OK, "%s", mq_message())) return;
        fill(s->first + r * s->columns, n * s->columns, expected);
        size_t bytes = (size_t)(n * s->columns) * mq_dtype_size(dtype);
        CHECK_MSG(memcmp(found, expected, bytes) == 0, "%s: rows from %" PRId64, s->name, r);
    }
}

static void test_read(void)
{
    const int64_t most = (int64_t)READ_ROWS * COLUMNS;
    char *found = NULL, *expected = NULL;
    mq_folder *f = NULL;
    if (!CHECK_ALL(mq_folder_open(comm, folder, &f) == MQ_OK)) return;
    CHECK(f->n_tensors == N);
    if (CHECK(mq_alloc(most, sizeof(float), "rows", &found) == MQ_OK &&
              mq_alloc(most, sizeof(float), "rows", &expected) == MQ_OK)) {
        for (int t = 0; t < N; t++) check_tensor(f, &shapes[t], found, expected);
    }
    mq_free(&found);
    mq_free(&expected);
    mq_folder_close(&f);
}

static void test_checksum(void)
{
    char path[4096], text[22];
    uint64_t hash = 0;
    if (harness.rank != 0) return;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    if (!CHECK_MSG(mq_hash_file(path, &hash) == MQ_OK, "%s", mq_message())) return;
    mq_hash_text(hash, text);
    printf("%s\n", text);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    if (argc != 3 || !mq_dtype_parse(argv[1], strlen(argv[1]), &dtype) ||
        (dtype != MQ_BF16 && dtype != MQ_F32) || mq_comm_create(MPI_COMM_WORLD, &comm) != MQ_OK) {
        fprintf(stderr, "usage: large_tensor BF16|F32 FOLDER\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
        return 2;
    }
    folder = argv[2];
    RUN(test_write);
    RUN(test_read);
    RUN(test_checksum);
    mq_comm_destroy(&comm);
    return harness_finish();
}
