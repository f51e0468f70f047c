#include "mpi/test_store_output.h"

#include "base/json.h"
#include "par/collectives.h"
#include "store/folder.h"

#include <fcntl.h>
#include <sys/statvfs.h>

/* The parallel writer: the same bytes as one rank writing alone, whoever writes which piece, in
 * files that read back through the folder reader. Its failures: test_store_writer_faults.c. */

static mq_comm *self; /* each rank alone */

/* The folder read back by the folder reader. */
static void check_content(int32_t n_shards)
{
    char expected[8192], found[8192];
    mq_folder *f = NULL;
    if (!CHECK_ALL(mq_folder_open(comm, test_folder, &f) == MQ_OK)) return;
    CHECK(f->n_shards == n_shards && f->n_tensors == N);
    for (int t = 0; t < N; t++) {
        const mq_tensor *x = mq_folder_find(f, tensors[t].name);
        if (!CHECK_MSG(x != NULL, "%s is missing", tensors[t].name)) continue;
        CHECK(x->dtype == tensors[t].dtype && x->n_dims == tensors[t].n_dims);
        for (int d = 0; d < x->n_dims; d++) CHECK(x->dim[d] == tensors[t].dim[d]);
        size_t n = bytes_of(t);
        CHECK(mq_folder_read(f, x, 0, n, found) == MQ_OK);
        CHECK_MSG(memcmp(found, data_of(t, expected), n) == 0, "data of %s", tensors[t].name);
    }
    mq_folder_close(&f);
}

/* Names and bytes of all files in the folder, in a number that depends on nothing else. */
static uint64_t sum_of_files;
static void add_file(const char *path)
{
    uint64_t hash = 0;
    const char *name = strrchr(path, '/') + 1;
    CHECK_MSG(mq_hash_file(path, &hash) == MQ_OK, "%s", mq_message());
    sum_of_files += mix(hash ^ mix(mq_hash(name, strlen(name))));
}

static uint64_t hash_of_folder(int *n_files)
{
    MPI_Barrier(MPI_COMM_WORLD);
    sum_of_files = 0;
    *n_files = folder_names(add_file);
    MPI_Barrier(MPI_COMM_WORLD);
    return sum_of_files;
}

/* One rank alone, then all ranks with several deals, sizes of messages and of shards. */
static void check_same_bytes(uint64_t limit, int32_t n_shards)
{
    static const size_t chunks[] = {1 << 20, 64, 13};
    int n_files = 0;
    if (harness.rank == 0) write_all(self, test_folder, limit, 99);
    uint64_t expected = hash_of_folder(&n_files);
    CHECK_MSG(n_files == (n_shards == 1 ? 1 : n_shards + 1), "%d files", n_files);
    size_t chunk = comm->chunk_bytes;
    for (uint64_t seed = 0; seed < 3; seed++) {
        folder_empty();
        comm->chunk_bytes = chunks[seed];
        write_all(comm, test_folder, limit, seed);
        int again = 0;
        CHECK_MSG(hash_of_folder(&again) == expected && again == n_files, "seed %d", (int)seed);
    }
    comm->chunk_bytes = chunk;
    check_content(n_shards);
    folder_empty();
}

static void test_same_bytes_in_one_file(void)
{
    check_same_bytes(1 << 30, 1);
}

static void test_same_bytes_in_shards(void)
{
    check_same_bytes(3000, 5);
}

static void test_same_bytes_with_tiny_shards(void)
{
    /* Every tensor alone, but for those without bytes, which stay in the shard before. */
    check_same_bytes(1, 12);
}

static void test_the_bytes_themselves(void)
{
    static const mq_out_tensor small[] = {{"b", MQ_U8, 1, {3}},
                                          {"z", MQ_F32, 2, {1, 1}},
                                          {"a", MQ_BF16, 1, {2}},
                                          {"c\"\\\x01", MQ_F32, 1, {1}}};
    static const char text[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"c\\\"\\\\\\u0001\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
        "\"z\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[4,8]},"
        "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[8,12]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[12,15]}}";
    mq_writer *w = NULL;
    if (!CHECK_ALL(mq_writer_create(comm, test_folder, small, 4, 1 << 20, &w) == MQ_OK)) return;
    if (harness.rank == comm->size - 1) CHECK(mq_writer_put(w, "b", 0, "BBB", 3) == MQ_OK);
    if (harness.rank == 0) {
        CHECK(mq_writer_put(w, "z", 0, "zzzz", 4) == MQ_OK);
        CHECK(mq_writer_put(w, "a", 0, "aaAA", 4) == MQ_OK);
        CHECK(mq_writer_put(w, "c\"\\\x01", 0, "cccc", 4) == MQ_OK);
    }
    CHECK(mq_writer_commit(w) == MQ_OK);
    CHECK(mq_writer_total_bytes(w) == 15 && mq_writer_shards(w) == 1 && mq_writer_count(w) == 4);
    CHECK(mq_writer_put(w, "b", 0, "B", 1) == MQ_E_INTERNAL); /* too late */
    mq_writer_destroy(&w);
    size_t bytes = 0, length = sizeof text - 1, padded = (length + 7) / 8 * 8;
    char *file = get_file("model.safetensors", &bytes);
    if (CHECK(file != NULL && bytes == 8 + padded + 15)) {
        uint64_t word = 0;
        memcpy(&word, file, 8);
        CHECK(word == padded && memcmp(file + 8, text, length) == 0);
        for (size_t i = length; i < padded; i++) CHECK(file[8 + i] == ' ');
        CHECK(memcmp(file + 8 + padded, "cccczzzzaaAABBB", 15) == 0);
    }
    free(file);
    folder_empty();
}

/* Which tensor goes where: in the order given, a new shard where the next would not fit, an
 * oversize one alone. */
static void test_shards_and_index(void)
{
    static const mq_out_tensor list[] = {{"t0", MQ_U8, 1, {60}}, {"t1", MQ_U8, 1, {40}},
                                         {"t2", MQ_U8, 1, {1}},  {"t3", MQ_U8, 1, {500}},
                                         {"t4", MQ_U8, 1, {99}}, {"t5", MQ_U8, 1, {0}}};
    static const int shard[] = {1, 1, 2, 3, 4, 4};
    static const char zeros[512];
    mq_writer *w = NULL;
    if (!CHECK_ALL(mq_writer_create(comm, test_folder, list, 6, 100, &w) == MQ_OK)) return;
    for (int t = 0; t < 6; t++) {
        if (t % comm->size != comm->rank) continue;
        CHECK(mq_writer_put(w, list[t].name, 0, zeros, (size_t)list[t].dim[0]) == MQ_OK);
    }
    CHECK(mq_writer_commit(w) == MQ_OK);
    CHECK(mq_writer_total_bytes(w) == 700 && mq_writer_shards(w) == 4);
    mq_writer_destroy(&w);
    size_t bytes = 0;
    char *text = get_file("model.safetensors.index.json", &bytes);
    cJSON *index = NULL;
    int64_t total = 0;
    if (CHECK(text && mq_json_parse(text, "index", &index) == MQ_OK)) {
        CHECK(mq_json_int(index, "metadata.total_size", "index", &total) == MQ_OK && total == 700);
        const cJSON *map = mq_json_find(index, "weight_map");
        CHECK(cJSON_GetArraySize(map) == 6);
        for (int t = 0; t < 6; t++) {
            char name[64];
            const char *found = "";
            snprintf(name, sizeof name, "model-%05d-of-00004.safetensors", shard[t]);
            CHECK(mq_json_string(map, list[t].name, "index", &found) == MQ_OK);
            CHECK_MSG(strcmp(found, name) == 0, "%s is in %s", list[t].name, found);
            CHECK(has_file(name));
        }
    }
    cJSON_Delete(index);
    free(text);
    folder_empty();
}

static void test_nothing_to_write(void)
{
    mq_writer *w = NULL;
    mq_folder *f = NULL;
    if (!CHECK_ALL(mq_writer_create(comm, test_folder, NULL, 0, 100, &w) == MQ_OK)) return;
    CHECK(mq_writer_commit(w) == MQ_OK && mq_writer_shards(w) == 1);
    mq_writer_destroy(&w);
    if (CHECK_ALL(mq_folder_open(comm, test_folder, &f) == MQ_OK)) CHECK(f->n_tensors == 0);
    mq_folder_close(&f);
    folder_empty();
}

static void test_modes_honour_the_umask(void)
{
    struct stat s;
    mode_t old = umask(027);
    write_all(comm, test_folder, 3000, 5);
    umask(old);
    CHECK(stat(in_folder("model-00001-of-00005.safetensors"), &s) == 0);
    CHECK((s.st_mode & 0777) == 0640);
    CHECK(stat(in_folder("model.safetensors.index.json"), &s) == 0);
    CHECK((s.st_mode & 0777) == 0640);
    folder_empty();
}

/* What an interrupted run left is replaced, longer or shorter. */
static void test_leftovers_are_replaced(void)
{
    char junk[20000];
    memset(junk, 'x', sizeof junk);
    put_file("model.safetensors.part", junk, sizeof junk);
    MPI_Barrier(MPI_COMM_WORLD);
    write_all(comm, test_folder, 1 << 20, 31);
    check_content(1);
    folder_empty();
}

/* ---- size -------------------------------------------------------------------------------- */

/* Pieces of a tensor that starts past 4 GiB lie where they belong. The space is reserved, not
 * written; needs 7 GB free. */
static void test_offsets_past_4_gib(void)
{
    const mq_out_tensor list[] = {{"e", MQ_BF16, 2, {256000, 12288}}, {"f", MQ_U8, 1, {8}}};
    const uint64_t large = UINT64_C(6291456000);
    struct statvfs v;
    mq_writer *w = NULL;
    CHECK(statvfs(test_folder, &v) == 0);
    int64_t room = (int64_t)(v.f_bavail * v.f_frsize);
    if (!CHECK_ALL(mq_lowest_i64(comm, &room, 1) == MQ_OK)) return;
    if (room < (int64_t)large + (1 << 30)) {
        if (harness.rank == 0) printf("skip past 4 GiB: %lld bytes free\n", (long long)room);
        return;
    }
    if (!CHECK_ALL(mq_writer_create(comm, test_folder, list, 2, UINT64_MAX, &w) == MQ_OK)) return;
    CHECK(mq_writer_total_bytes(w) == large + 8 && mq_writer_shards(w) == 1);
    if (harness.rank == comm->size - 1) {
        CHECK(mq_writer_put(w, "e", large - 4, "last", 4) == MQ_OK);
        CHECK(mq_writer_put(w, "f", 3, "after", 5) == MQ_OK);
        char found[13] = "";
        struct stat s;
        int fd = open(in_folder("model.safetensors.part"), O_RDONLY);
        CHECK(fd >= 0 && fstat(fd, &s) == 0 && s.st_size > (off_t)large);
        CHECK(pread(fd, found, 12, s.st_size - 12) == 12);
        CHECK(memcmp(found, "last\0\0\0after", 12) == 0);
        close(fd);
    }
    check_failure(mq_writer_commit(w), MQ_E_INTERNAL,
                  "\"e\": no rank wrote its bytes from 0 of 62914");
    mq_writer_destroy(&w);
    CHECK(folder_count() == 0);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    folder_start();
    if (mq_comm_create(MPI_COMM_WORLD, &comm) != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    if (mq_comm_create(MPI_COMM_SELF, &self) != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    RUN(test_same_bytes_in_one_file);
    RUN(test_same_bytes_in_shards);
    RUN(test_same_bytes_with_tiny_shards);
    RUN(test_the_bytes_themselves);
    RUN(test_shards_and_index);
    RUN(test_nothing_to_write);
    RUN(test_modes_honour_the_umask);
    RUN(test_leftovers_are_replaced);
    RUN(test_offsets_past_4_gib);
    mq_comm_destroy(&self);
    mq_comm_destroy(&comm);
    folder_end();
    return harness_finish();
}
