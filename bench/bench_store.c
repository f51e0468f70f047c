#include "bench.h"
#include "bench_files.h"

#include "base/log.h"
#include "par/collectives.h"
#include "store/folder.h"
#include "store/writer.h"

#include <string.h>
#include <time.h>

/* The disk through the writer and the folder reader, beside plain system calls with the same block
 * on the same disk; all take turns, and are judged run by run.
 *
 *     mpirun -n 2 bench_store FOLDER [TENSORS [RUNS]]
 *
 * FOLDER exists; TENSORS of 128 MiB, 8 by default. The writer runs on rank 0 alone, then on all
 * ranks. Reading is rank 0's. Cold: pages dropped from this system's cache before. */

enum { COLUMNS = 4096, TENSOR_BLOCKS = 16, MAX_TENSORS = 256 };
enum { BLOCK_ROWS = BENCH_BLOCK / 2 / COLUMNS, TENSOR_ROWS = TENSOR_BLOCKS * BLOCK_ROWS };

typedef struct bench {
    const char *folder;
    mq_comm *world, *self; /* all ranks; this rank alone */
    int n_tensors, runs;
    mq_out_tensor tensor[MAX_TENSORS];
    char name[MAX_TENSORS][16];
    char *block; /* BENCH_BLOCK, BF16 without NaN and inf */
    float *rows; /* a block as F32 */
} bench;

static double gigabytes(const bench *b)
{
    return 1e-9 * b->n_tensors * TENSOR_BLOCKS * BENCH_BLOCK;
}

static mq_status create(bench *b)
{
    uint32_t state = 1;
    MQ_TRY(mq_alloc(BENCH_BLOCK, 1, "block", &b->block));
    MQ_TRY(mq_alloc(BENCH_BLOCK / 2, sizeof *b->rows, "rows", &b->rows));
    uint16_t *value = (uint16_t *)b->block;
    for (int i = 0; i < BENCH_BLOCK / 2; i++) {
        state = state * 1664525u + 1013904223u;
        value[i] = (uint16_t)(state >> 16 & 0xBFFF);
    }
    for (int t = 0; t < b->n_tensors; t++) {
        snprintf(b->name[t], sizeof b->name[t], "tensor.%03d", t);
        b->tensor[t] = (mq_out_tensor){b->name[t], MQ_BF16, 2, {TENSOR_ROWS, COLUMNS}};
    }
    return MQ_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* A barrier that leaves the core to the ranks that work. */
static void wait_asleep(const bench *b)
{
    MPI_Request request;
    int done = 0;
    MPI_Ibarrier(b->world->world, &request);
    for (;;) {
        MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        if (done) return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static mq_status pwrite_blocks(const bench *b, int fd, const char *path)
{
    for (int64_t i = 0; i < (int64_t)b->n_tensors * TENSOR_BLOCKS; i++) {
        if (pwrite(fd, b->block, BENCH_BLOCK, i * BENCH_BLOCK) != BENCH_BLOCK) {
            return mq_fail(MQ_E_IO, "%s: cannot write: %s", path, mq_errno_text(errno));
        }
    }
    return fsync(fd) == 0 ? MQ_OK : mq_fail(MQ_E_IO, "%s: fsync", path);
}

/* Writes a file of the same size as dd would; once more the time until it is also read back. */
static mq_status write_plain(const bench *b, series *synced, series *read_back)
{
    char path[4096];
    int64_t bytes = 0;
    snprintf(path, sizeof path, "%s/plain", b->folder);
    double start = mq_seconds();
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return mq_fail(MQ_E_IO, "%s: %s", path, mq_errno_text(errno));
    mq_status status = pwrite_blocks(b, fd, path);
    close(fd);
    series_add(synced, mq_seconds() - start);
    forget_file(path);
    if (status == MQ_OK) status = read_file(path, b->block, &bytes);
    series_add(read_back, mq_seconds() - start);
    unlink(path);
    return status;
}

/* How tensors are spread over files, and files over ranks. */
typedef struct layout {
    const char *name;
    bool shards; /* a file for every tensor; else one file */
    bool own;    /* every rank has tensors of its own; else a run of blocks of each, as in a run */
} layout;

enum { N_LAYOUTS = 3 };

static const layout layouts[N_LAYOUTS] = {{"one file", false, false},
                                          {"a file a tensor", true, false},
                                          {"files of a rank's own", true, true}};

static mq_status put_blocks(const bench *b, const layout *l, const mq_comm *comm, mq_writer *w)
{
    int first = l->own ? 0 : TENSOR_BLOCKS * comm->rank / comm->size;
    int end = l->own ? TENSOR_BLOCKS : TENSOR_BLOCKS * (comm->rank + 1) / comm->size;
    for (int t = 0; t < b->n_tensors; t++) {
        if (l->own && t % comm->size != comm->rank) continue;
        for (int i = first; i < end; i++) {
            MQ_TRY(mq_writer_put(w, b->name[t], (uint64_t)i * BENCH_BLOCK, b->block, BENCH_BLOCK));
        }
    }
    return MQ_OK;
}

static void remove_ours(const bench *b)
{
    char path[4096];
    if (!b->world || b->world->rank != 0) return;
    snprintf(path, sizeof path, "%s/model.safetensors", b->folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", b->folder);
    unlink(path);
    for (int t = 0; t < b->n_tensors; t++) {
        snprintf(path, sizeof path, "%s/model-%05d-of-%05d.safetensors", b->folder, t + 1,
                 b->n_tensors);
        unlink(path);
    }
}

static mq_status write_ours(const bench *b, const layout *l, const mq_comm *comm, series *s)
{
    mq_writer *w = NULL;
    remove_ours(b); /* renaming over them would take the time to free them */
    double start = mq_seconds();
    MQ_TRY(
        mq_writer_create(comm, b->folder, b->tensor, b->n_tensors, l->shards ? 1 : UINT64_MAX, &w));
    mq_status status = mq_agree(comm, put_blocks(b, l, comm, w));
    if (status == MQ_OK) status = mq_writer_commit(w);
    series_add(s, mq_seconds() - start);
    mq_writer_destroy(&w);
    return status;
}

static void print_writing(const bench *b, const series *synced, const series *read_back,
                          const series *alone, const series *together)
{
    double work = gigabytes(b);
    char text[80];
    series_print("plain: pwrite, fsync", synced, work, "GB/s");
    series_print("plain: pwrite, fsync, read back", read_back, work, "GB/s");
    series_print("writer, 1 rank, one file", alone, work, "GB/s");
    for (int k = 0; k < N_LAYOUTS; k++) {
        snprintf(text, sizeof text, "writer, all ranks, %s", layouts[k].name);
        series_print(text, &together[k], work, "GB/s");
    }
    series_ratio("writer, 1 rank / plain", alone, synced, 0.8);
    series_ratio("writer, 1 rank / plain, read back", alone, read_back, 0.8);
    series_ratio("writer, all ranks / plain", &together[0], synced, 0.8);
    series_ratio("writer, all ranks / 1 rank", &together[0], alone, 1);
    for (int k = 1; k < N_LAYOUTS; k++) {
        snprintf(text, sizeof text, "%s / one file", layouts[k].name);
        series_ratio(text, &together[k], &together[0], 0.8);
    }
}

static mq_status measure_writing(const bench *b)
{
    series synced = {0}, read_back = {0}, alone = {0}, together[N_LAYOUTS] = {{0}};
    for (int i = 0; i < b->runs; i++) {
        mq_status status = MQ_OK;
        if (b->world->rank == 0) {
            status = write_plain(b, &synced, &read_back);
            if (status == MQ_OK) status = write_ours(b, &layouts[0], b->self, &alone);
        }
        wait_asleep(b);
        MQ_TRY(mq_agree(b->world, status));
        for (int k = N_LAYOUTS - 1; k >= 0; k--) { /* what is read afterwards is one file */
            MQ_TRY(write_ours(b, &layouts[k], b->world, &together[k]));
        }
    }
    if (b->world->rank == 0) print_writing(b, &synced, &read_back, &alone, together);
    return MQ_OK;
}

/* ---- reading --------------------------------------------------------------------------------- */

typedef mq_status (*reader)(const bench *b, mq_folder *f, const mq_tensor *t, int block);

enum { N_READERS = 6 };

static mq_status read_bytes(const bench *b, mq_folder *f, const mq_tensor *t, int block)
{
    return mq_folder_read(f, t, (uint64_t)block * BENCH_BLOCK, BENCH_BLOCK, b->block);
}

static mq_status read_bf16(const bench *b, mq_folder *f, const mq_tensor *t, int block)
{
    int64_t r = (int64_t)block * BLOCK_ROWS;
    return mq_folder_read_rows(f, t, r, r + BLOCK_ROWS, MQ_BF16, b->block);
}

static mq_status read_f32(const bench *b, mq_folder *f, const mq_tensor *t, int block)
{
    int64_t r = (int64_t)block * BLOCK_ROWS;
    return mq_folder_read_rows(f, t, r, r + BLOCK_ROWS, MQ_F32, b->rows);
}

/* The numbers of the bench are finite in this type, too. */
static mq_status read_f16(const bench *b, mq_folder *f, const mq_tensor *t, int block)
{
    mq_tensor half = *t;
    half.dtype = MQ_F16;
    return read_f32(b, f, &half, block);
}

static mq_status read_mapped(const bench *b, mq_folder *f, const mq_tensor *t, int block)
{
    MQ_TRY(mq_folder_map(f));
    mq_status status = read_f32(b, f, t, block);
    f->mapped = false;
    return status;
}

static mq_status read_f16_mapped(const bench *b, mq_folder *f, const mq_tensor *t, int block)
{
    MQ_TRY(mq_folder_map(f));
    mq_status status = read_f16(b, f, t, block);
    f->mapped = false;
    return status;
}

static mq_status read_ours(const bench *b, mq_folder *f, reader read, series *s)
{
    double start = mq_seconds();
    for (int64_t t = 0; t < f->n_tensors; t++) {
        for (int i = 0; i < TENSOR_BLOCKS; i++) MQ_TRY(read(b, f, &f->tensor[t], i));
    }
    series_add(s, mq_seconds() - start);
    return MQ_OK;
}

static mq_status read_plain(const bench *b, const char *path, series *s)
{
    int64_t bytes = 0;
    double start = mq_seconds();
    MQ_TRY(read_file(path, b->block, &bytes));
    series_add(s, mq_seconds() - start);
    return MQ_OK;
}

static mq_status measure_reading(const bench *b, mq_folder *f, bool cold)
{
    static const struct {
        const char *name;
        reader read;
    } readers[N_READERS] = {{"bytes", read_bytes},
                            {"BF16 as BF16", read_bf16},
                            {"BF16 as F32", read_f32},
                            {"F16 as F32", read_f16},
                            {"BF16 as F32, mmap", read_mapped},
                            {"F16 as F32, mmap", read_f16_mapped}};
    series plain = {0}, ours[N_READERS] = {{0}};
    char path[4096], text[80];
    snprintf(path, sizeof path, "%s/model.safetensors", b->folder);
    for (int i = 0; i < b->runs; i++) {
        if (cold) forget_file(path);
        MQ_TRY(read_plain(b, path, &plain));
        for (int k = 0; k < N_READERS; k++) {
            if (cold) forget_file(path);
            MQ_TRY(read_ours(b, f, readers[k].read, &ours[k]));
        }
    }
    snprintf(text, sizeof text, "plain: pread, %s", cold ? "cold" : "warm");
    series_print(text, &plain, gigabytes(b), "GB/s");
    for (int k = 0; k < N_READERS; k++) {
        snprintf(text, sizeof text, "%s, %s", readers[k].name, cold ? "cold" : "warm");
        series_print(text, &ours[k], gigabytes(b), "GB/s");
    }
    for (int k = 0; k < N_READERS && cold; k++) { /* warm it is memory against memory */
        snprintf(text, sizeof text, "%s / plain, cold", readers[k].name);
        series_ratio(text, &ours[k], &plain, 0.8);
    }
    return MQ_OK;
}

static mq_status read_folder(const bench *b)
{
    mq_folder *f = NULL;
    if (b->world->rank != 0) return MQ_OK;
    MQ_TRY(mq_folder_open(b->self, b->folder, &f));
    mq_status status = measure_reading(b, f, true);
    if (status == MQ_OK) status = measure_reading(b, f, false);
    mq_folder_close(&f);
    return status;
}

/* ---- the program ----------------------------------------------------------------------------- */

static mq_status measure(bench *b)
{
    MQ_TRY(mq_comm_create(MPI_COMM_WORLD, &b->world));
    MQ_TRY(mq_comm_create(MPI_COMM_SELF, &b->self));
    MQ_TRY(mq_agree(b->world, create(b)));
    if (b->world->rank == 0) {
        printf("%.1f GB in %s, %d ranks, %d runs\n", gigabytes(b), b->folder, b->world->size,
               b->runs);
    }
    MQ_TRY(measure_writing(b));
    mq_status status = read_folder(b);
    wait_asleep(b);
    return mq_agree(b->world, status);
}

int main(int argc, char **argv)
{
    bench b = {.folder = argc > 1 ? argv[1] : ".",
               .n_tensors = argc > 2 ? atoi(argv[2]) : 8,
               .runs = argc > 3 ? atoi(argv[3]) : 5};
    if (b.n_tensors < 1 || b.n_tensors > MAX_TENSORS) b.n_tensors = MAX_TENSORS;
    MPI_Init(&argc, &argv);
    mq_status status = measure(&b);
    if (status != MQ_OK) fprintf(stderr, "bench_store: %s\n", mq_message());
    remove_ours(&b);
    mq_comm_destroy(&b.self);
    mq_comm_destroy(&b.world);
    mq_free(&b.block);
    mq_free(&b.rows);
    MPI_Finalize();
    return mq_exit_code(status);
}
