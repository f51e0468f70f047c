#include "bench.h"

#include "store/folder.h"

#include <inttypes.h>
#include <time.h>
#include <unistd.h>

/* Opening a model of a trillion parameters: 100,000 tensors of experts in 64 shards, some 12 MB of
 * headers and an index of 9 MB. The shards are sparse files, and in memory after the first run; so
 * what counts is processor time.
 *
 *     bench_index FOLDER [RUNS]        FOLDER: exists; the files are removed again */

enum { SHARDS = 64, TENSORS = 100000, ROWS = 2048, COLUMNS = 7168 };

static const char *folder;

static const char *in_folder(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static const char *shard_name(int shard)
{
    static char name[64];
    snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", shard + 1, SHARDS);
    return name;
}

static const char *tensor_name(int i)
{
    static const char *const linear[] = {"gate_proj", "up_proj", "down_proj"};
    static char name[96];
    snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.%s.weight", i / 1152, i / 3 % 384,
             linear[i % 3]);
    return name;
}

/* Shard s holds the tensors [s n / SHARDS, (s + 1) n / SHARDS). */
static int first_of(int shard)
{
    return (int)((int64_t)shard * TENSORS / SHARDS);
}

static bool write_shard(int shard)
{
    const uint64_t bytes = UINT64_C(2) * ROWS * COLUMNS;
    FILE *f = fopen(in_folder(shard_name(shard)), "wb");
    if (!f) return false;
    uint64_t length = 0, end = 0;
    fwrite(&length, sizeof length, 1, f);
    for (int i = first_of(shard); i < first_of(shard + 1); i++, end += bytes) {
        fprintf(f,
                "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%d,%d],\"data_offsets\":[%" PRIu64
                ",%" PRIu64 "]}",
                i == first_of(shard) ? "{" : ",", tensor_name(i), ROWS, COLUMNS, end, end + bytes);
    }
    fputc('}', f);
    length = (uint64_t)ftell(f) - sizeof length;
    bool good = fseek(f, 0, SEEK_SET) == 0 && fwrite(&length, sizeof length, 1, f) == 1 &&
                fflush(f) == 0 && ftruncate(fileno(f), (off_t)(8 + length + end)) == 0;
    return fclose(f) == 0 && good;
}

static bool write_index(void)
{
    FILE *f = fopen(in_folder("model.safetensors.index.json"), "wb");
    if (!f) return false;
    fprintf(f, "{\n  \"metadata\": {},\n  \"weight_map\": {\n");
    for (int s = 0; s < SHARDS; s++) {
        for (int i = first_of(s); i < first_of(s + 1); i++) {
            fprintf(f, "    \"%s\": \"%s\"%s\n", tensor_name(i), shard_name(s),
                    i + 1 < TENSORS ? "," : "");
        }
    }
    fprintf(f, "  }\n}\n");
    return fclose(f) == 0;
}

static mq_status make_folder(void)
{
    bool good = write_index();
    for (int s = 0; s < SHARDS; s++) good = write_shard(s) && good;
    return good ? MQ_OK : mq_fail(MQ_E_IO, "%s: cannot write the shards", folder);
}

static void remove_folder(void)
{
    unlink(in_folder("model.safetensors.index.json"));
    for (int s = 0; s < SHARDS; s++) unlink(in_folder(shard_name(s)));
}

static mq_status open_folder(const mq_comm *comm, int runs)
{
    series s = {0};
    for (int i = 0; i < runs; i++) {
        mq_folder *f = NULL;
        clock_t start = clock();
        MQ_TRY(mq_folder_open(comm, folder, &f));
        series_add(&s, (double)(clock() - start) / CLOCKS_PER_SEC);
        if (f->n_tensors != TENSORS) return mq_fail(MQ_E_INTERNAL, "not all tensors were found");
        mq_folder_close(&f);
    }
    series_print("open, 100000 tensors in 64 shards, warm", &s, 1e-6 * TENSORS, "M tensors/s");
    series_target("processor seconds to open", &s, 0.3);
    return MQ_OK;
}

int main(int argc, char **argv)
{
    mq_comm *comm = NULL;
    int runs = argc > 2 ? atoi(argv[2]) : 9;
    folder = argc > 1 ? argv[1] : ".";
    MPI_Init(&argc, &argv);
    mq_status status = mq_comm_create(MPI_COMM_WORLD, &comm);
    if (status == MQ_OK && comm->rank == 0) status = make_folder();
    if (status == MQ_OK) status = open_folder(comm, runs);
    if (status != MQ_OK) fprintf(stderr, "bench_index: %s\n", mq_message());
    remove_folder();
    mq_comm_destroy(&comm);
    MPI_Finalize();
    return mq_exit_code(status);
}
