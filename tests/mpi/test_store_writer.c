#include "mpi/test_store_files.h"

#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "par/collectives.h"
#include "store/folder.h"
#include "store/writer.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

/* The parallel writer: the same bytes as one rank writing alone, whoever writes which piece; files
 * that read back through the folder reader; and every failure the same on all ranks, with nothing
 * under a final name. */

static mq_comm *comm, *self; /* self: each rank alone */

static const mq_out_tensor tensors[] = {
    {"model.embed.weight", MQ_BF16, 2, {37, 24}},
    {"layer.0.qweight", MQ_I32, 2, {16, 40}},
    {"layer.0.scales", MQ_F16, 2, {3, 41}},
    {"layer.0.empty", MQ_F32, 2, {0, 5}},
    {"layer.0.g_idx", MQ_I32, 1, {77}},
    {"odd", MQ_U8, 1, {13}},
    {"scalar", MQ_F64, 0, {0}},
    {"quo\"te\\back\nline\xC3\xA9", MQ_U8, 1, {5}},
    {"layer.1.qweight", MQ_I32, 2, {30, 40}},
    {"layer.1.scales", MQ_F16, 2, {3, 41}},
    {"norm", MQ_F32, 1, {24}},
    {"half bytes", MQ_F4, 1, {6}},
};
enum { N = sizeof tensors / sizeof *tensors };

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static size_t bytes_of(int t)
{
    size_t bits = (size_t)mq_dtype_bits(tensors[t].dtype);
    for (int d = 0; d < tensors[t].n_dims; d++) bits *= (size_t)tensors[t].dim[d];
    return bits / 8;
}

/* The data of a tensor, made up from its number; `out` holds 8192 bytes. */
static const char *data_of(int t, char *out)
{
    for (size_t i = 0; i < bytes_of(t); i++) out[i] = (char)mix((uint64_t)t * 100000 + i + 1);
    return out;
}

/* Cuts every tensor into pieces of pseudo-random lengths and gives them to pseudo-random ranks;
 * every rank writes its own from the last tensor to the first. `skip`: a tensor whose piece number
 * 1 nobody writes; -1: none. */
static mq_status put_all(const mq_comm *c, mq_writer *w, uint64_t seed, int skip)
{
    char data[8192];
    mq_status status = MQ_OK;
    for (int t = N - 1; t >= 0; t--) {
        size_t at = 0, size = bytes_of(t);
        data_of(t, data);
        for (uint64_t piece = 0; at < size; piece++) {
            uint64_t r = mix(seed * 1000003 + (uint64_t)t * 977 + piece);
            size_t n = size > 200 ? 1 + r % 700 : size;
            if (n > size - at) n = size - at;
            bool mine = (int)((r >> 32) % (uint64_t)c->size) == c->rank;
            if (mine && !(t == skip && piece == 1)) {
                mq_status put = mq_writer_put(w, tensors[t].name, at, data + at, n);
                if (status == MQ_OK) status = put;
            }
            at += n;
        }
    }
    return status;
}

/* Writes everything with that communicator; true when all went well on it. */
static bool write_all(const mq_comm *c, const char *folder, uint64_t limit, uint64_t seed)
{
    mq_writer *w = NULL;
    bool good =
        CHECK_MSG(mq_writer_create(c, folder, tensors, N, limit, &w) == MQ_OK, "%s", mq_message());
    if (!good) return false;
    good = CHECK(mq_agree(c, put_all(c, w, seed, -1)) == MQ_OK);
    good = CHECK_MSG(mq_writer_commit(w) == MQ_OK, "%s", mq_message()) && good;
    char data[8192];
    for (int t = 0; t < N; t++) {
        bool found = false;
        for (int64_t i = 0; i < mq_writer_count(w); i++) {
            if (strcmp(mq_writer_name(w, i), tensors[t].name) != 0) continue;
            found = mq_writer_checksum(w, i) == mq_hash(data_of(t, data), bytes_of(t));
        }
        CHECK_MSG(found, "checksum of %s", tensors[t].name);
    }
    mq_writer_destroy(&w);
    CHECK(w == NULL);
    return good;
}

/* ---- good output ------------------------------------------------------------------------- */

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

/* ---- failures ---------------------------------------------------------------------------- */

static void check_creates_not(const mq_out_tensor *list, int64_t n, const char *folder,
                              mq_status expected, const char *part)
{
    mq_writer *w = NULL;
    check_failure(mq_writer_create(comm, folder, list, n, 1 << 20, &w), expected, part);
    CHECK(w == NULL);
    mq_writer_destroy(&w);
    CHECK(folder_count() == 0);
}

static void test_bad_lists(void)
{
    const mq_out_tensor twice[] = {
        {"a", MQ_U8, 1, {1}}, {"b", MQ_U8, 1, {1}}, {"a", MQ_F32, 0, {0}}};
    const mq_out_tensor metadata = {"__metadata__", MQ_U8, 1, {1}};
    const mq_out_tensor not_utf8 = {"a\xFF", MQ_U8, 1, {1}};
    const mq_out_tensor half = {"nibbles", MQ_F4, 1, {3}};
    const mq_out_tensor large = {"huge", MQ_F64, 2, {(int64_t)1 << 31, (int64_t)1 << 31}};
    const int64_t most = INT64_MAX / 8; /* bytes of one tensor: bits are counted */
    const mq_out_tensor sum[] = {
        {"1", MQ_U8, 1, {most}}, {"2", MQ_U8, 1, {most}}, {"3", MQ_U8, 1, {most}},
        {"4", MQ_U8, 1, {most}}, {"5", MQ_U8, 1, {most}}, {"6", MQ_U8, 1, {most}},
        {"7", MQ_U8, 1, {most}}, {"8", MQ_U8, 1, {most}}, {"9", MQ_U8, 1, {most}}};
    const mq_out_tensor negative = {"minus", MQ_U8, 1, {-1}};
    check_creates_not(twice, 3, test_folder, MQ_E_INPUT, "two tensors named \"a\"");
    check_creates_not(&metadata, 1, test_folder, MQ_E_INPUT, "__metadata__");
    check_creates_not(&not_utf8, 1, test_folder, MQ_E_INPUT, "not UTF-8");
    check_creates_not(&half, 1, test_folder, MQ_E_INPUT, "\"nibbles\"");
    check_creates_not(&large, 1, test_folder, MQ_E_INPUT, "\"huge\"");
    check_creates_not(sum, 9, test_folder, MQ_E_INPUT, "2^63");
    check_creates_not(&negative, 1, test_folder, MQ_E_INPUT, "\"minus\"");
}

static void test_folders_that_cannot_hold_it(void)
{
    const mq_out_tensor petabyte = {"huge", MQ_U8, 1, {(int64_t)1 << 50}};
    check_creates_not(tensors, N, "/nowhere/at/all", MQ_E_IO,
                      "/nowhere/at/all/model.safetensors.part: cannot create");
    check_creates_not(tensors, N, "/dev/null/folder", MQ_E_IO, "/dev/null/folder");
    check_creates_not(&petabyte, 1, test_folder, MQ_E_IO, "the output needs 11258999068");
    CHECK(strstr(mq_message(), " were free") != NULL);
}

/* A limit on the size of files makes fallocate fail. */
static void test_reservation_that_fails(void)
{
    struct rlimit old, tiny;
    getrlimit(RLIMIT_FSIZE, &old);
    tiny = old;
    tiny.rlim_cur = 2000; /* the second shard is larger, the first is not */
    const mq_out_tensor list[] = {{"small", MQ_U8, 1, {500}}, {"large", MQ_U8, 1, {4000}}};
    mq_writer *w = NULL;
    if (harness.rank == 0) setrlimit(RLIMIT_FSIZE, &tiny);
    mq_status status = mq_writer_create(comm, test_folder, list, 2, 1000, &w);
    if (harness.rank == 0) setrlimit(RLIMIT_FSIZE, &old);
    check_failure(status, MQ_E_IO, "model-00002-of-00002.safetensors.part: cannot reserve");
    CHECK(w == NULL);
    CHECK(folder_count() == 0);
}

/* The same limit, set later, makes a write fail: MPI-IO reports success and a short count. */
static void test_write_that_fails(void)
{
    struct rlimit old, tiny;
    mq_writer *w = NULL;
    char data[8192];
    if (!CHECK_ALL(mq_writer_create(comm, test_folder, tensors, N, 1 << 20, &w) == MQ_OK)) return;
    mq_status status = MQ_OK;
    if (harness.rank == 0) {
        getrlimit(RLIMIT_FSIZE, &old);
        tiny = old;
        tiny.rlim_cur = 1000;
        setrlimit(RLIMIT_FSIZE, &tiny);
        status = mq_writer_put(w, "layer.1.qweight", 0, data_of(8, data), bytes_of(8));
        setrlimit(RLIMIT_FSIZE, &old);
        CHECK(strstr(mq_message(), "model.safetensors.part") != NULL);
    }
    check_failure(mq_agree(comm, status), MQ_E_IO, "tensor \"layer.1.qweight\"");
    mq_writer_destroy(&w);
    CHECK(folder_count() == 0);
}

/* A file system of its own inside the test folder; false, with a word, where mounting is not
 * allowed. Collective. */
static bool mount_folder(const char *type, const char *options)
{
    int mounted = 0;
    if (harness.rank == 0) {
        mounted = mkdir(in_folder("mnt"), 0777) == 0 &&
                  mount("none", in_folder("mnt"), type, 0, options) == 0;
        if (!mounted) printf("skip %s: cannot mount\n", type);
    }
    MPI_Bcast(&mounted, 1, MPI_INT, 0, MPI_COMM_WORLD);
    return mounted != 0;
}

static void unmount_folder(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
    if (harness.rank == 0) CHECK(umount(in_folder("mnt")) == 0);
    folder_empty();
}

/* Disks that are too small, and full: nothing is left but what was there. */
static void test_disk_without_room(void)
{
    mq_writer *w = NULL;
    char junk[4096] = "";
    if (mount_folder("tmpfs", "size=8k")) {
        mq_status status = mq_writer_create(comm, in_folder("mnt"), tensors, N, 1 << 20, &w);
        check_failure(status, MQ_E_IO, "too little is free");
        CHECK(strstr(mq_message(), "8192 were free") != NULL);
        if (harness.rank == 0) {
            int fd = open(in_folder("mnt/other"), O_WRONLY | O_CREAT, 0600);
            while (write(fd, junk, sizeof junk) > 0) {
            }
            close(fd);
        }
        status = mq_writer_create(comm, in_folder("mnt"), tensors, N, 1 << 20, &w);
        check_failure(status, MQ_E_IO, "No space left on device");
        CHECK(!has_file("mnt/model.safetensors.part") && w == NULL);
        unmount_folder();
    }
    CHECK(test_folder[0] != '\0');
    folder_empty();
}

/* ramfs knows no fallocate: a warning, and the same bytes. */
static void test_disk_that_cannot_reserve(void)
{
    int before = mq_warning_count();
    if (mount_folder("ramfs", NULL)) {
        char *path = strdup(in_folder("mnt"));
        write_all(comm, path, 3000, 41);
        write_all(comm, test_folder, 3000, 42);
        size_t n = 0, m = 0;
        char *x = get_file("mnt/model-00002-of-00005.safetensors", &n);
        char *y = get_file("model-00002-of-00005.safetensors", &m);
        CHECK(x && y && n == m && memcmp(x, y, n) == 0);
        if (harness.rank == 0) {
            CHECK(mq_warning_count() == before + 1);
            CHECK(strstr(mq_warning(before), "cannot reserve space") != NULL);
        }
        free(x);
        free(y);
        free(path);
        unmount_folder();
    }
    CHECK(mq_warning_count() <= before + 1);
    folder_empty();
}

static void test_ranges_that_are_not_there(void)
{
    mq_writer *w = NULL;
    char data[64] = "";
    if (!CHECK_ALL(mq_writer_create(comm, test_folder, tensors, N, 1 << 20, &w) == MQ_OK)) return;
    CHECK(mq_writer_put(w, "nothing", 0, data, 1) == MQ_E_INTERNAL);
    CHECK(strstr(mq_message(), "\"nothing\"") != NULL);
    CHECK(mq_writer_put(w, "odd", 0, data, 14) == MQ_E_INTERNAL);
    CHECK(mq_writer_put(w, "odd", 13, data, 1) == MQ_E_INTERNAL);
    CHECK(mq_writer_put(w, "odd", UINT64_MAX, data, 2) == MQ_E_INTERNAL);
    CHECK(mq_writer_put(w, "odd", 13, data, 0) == MQ_OK);
    mq_writer_destroy(&w);
    CHECK(folder_count() == 0);
}

/* After a commit that failed: the temporary files, and after destroy nothing. `left` files are the
 * test's own. */
static void check_commits_not(mq_writer *w, mq_status expected, const char *part, int left)
{
    check_failure(mq_writer_commit(w), expected, part);
    CHECK(!has_file("model.safetensors") && !has_file("model-00001-of-00005.safetensors"));
    mq_writer_destroy(&w);
    CHECK(folder_count() == left);
    folder_empty();
}

static mq_writer *start(uint64_t limit, uint64_t seed, int skip)
{
    mq_writer *w = NULL;
    CHECK_ALL(mq_writer_create(comm, test_folder, tensors, N, limit, &w) == MQ_OK);
    CHECK_ALL(put_all(comm, w, seed, skip) == MQ_OK);
    return w;
}

static void test_missing_and_double_pieces(void)
{
    char data[8192];
    mq_writer *w = start(1 << 20, 1, 8);
    check_commits_not(w, MQ_E_INTERNAL, "\"layer.1.qweight\": no rank wrote its bytes from", 0);

    w = start(3000, 2, 8);
    check_commits_not(w, MQ_E_INTERNAL, "\"layer.1.qweight\": no rank wrote its bytes from", 0);

    w = start(1 << 20, 3, -1);
    if (harness.rank == comm->size - 1) {
        CHECK(mq_writer_put(w, "norm", 8, data_of(10, data), 4) == MQ_OK);
    }
    check_commits_not(w, MQ_E_INTERNAL, "tensor \"norm\": rank", 0);

    if (!CHECK_ALL(mq_writer_create(comm, test_folder, tensors, N, 1 << 20, &w) == MQ_OK)) return;
    check_commits_not(w, MQ_E_INTERNAL, "no rank wrote its bytes from 0 of", 0);
}

/* A bit that turns between writing and reading back, in the first and in the last piece. */
static void test_storage_that_changes_bytes(void)
{
    for (int i = 0; i < 2; i++) {
        mq_writer *w = start(1 << 20, 7 + (uint64_t)i, -1);
        MPI_Barrier(MPI_COMM_WORLD);
        if (harness.rank == 0) {
            struct stat s;
            char byte = 0;
            int fd = open(in_folder("model.safetensors.part"), O_RDWR);
            CHECK(fd >= 0 && fstat(fd, &s) == 0);
            off_t at = s.st_size - (i == 0 ? 1 : 4000);
            CHECK(pread(fd, &byte, 1, at) == 1);
            byte ^= 4;
            CHECK(pwrite(fd, &byte, 1, at) == 1);
            close(fd);
        }
        MPI_Barrier(MPI_COMM_WORLD);
        check_commits_not(w, MQ_E_IO, "the storage lost or changed them", 0);
    }
}

static void test_storage_that_loses_the_end(void)
{
    mq_writer *w = start(1 << 20, 11, -1);
    MPI_Barrier(MPI_COMM_WORLD);
    if (harness.rank == 0) {
        struct stat s;
        CHECK(stat(in_folder("model.safetensors.part"), &s) == 0);
        CHECK(truncate(in_folder("model.safetensors.part"), s.st_size - 3) == 0);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    check_commits_not(w, MQ_E_IO, "model.safetensors.part", 0);
}

/* A folder in the place of a shard, and of the index: names given before are taken back. */
static void test_names_that_are_taken(void)
{
    static const char *const taken[] = {"model-00003-of-00005.safetensors",
                                        "model.safetensors.index.json"};
    for (int i = 0; i < 2; i++) {
        mq_writer *w = start(3000, 20 + (uint64_t)i, -1);
        MPI_Barrier(MPI_COMM_WORLD);
        if (harness.rank == 0) CHECK(mkdir(in_folder(taken[i]), 0777) == 0);
        MPI_Barrier(MPI_COMM_WORLD);
        check_commits_not(w, MQ_E_IO, taken[i], 1);
    }
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
    signal(SIGXFSZ, SIG_IGN);
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
    RUN(test_bad_lists);
    RUN(test_folders_that_cannot_hold_it);
    RUN(test_reservation_that_fails);
    RUN(test_write_that_fails);
    RUN(test_disk_without_room);
    RUN(test_disk_that_cannot_reserve);
    RUN(test_ranges_that_are_not_there);
    RUN(test_missing_and_double_pieces);
    RUN(test_storage_that_changes_bytes);
    RUN(test_storage_that_loses_the_end);
    RUN(test_names_that_are_taken);
    RUN(test_leftovers_are_replaced);
    RUN(test_offsets_past_4_gib);
    mq_comm_destroy(&self);
    mq_comm_destroy(&comm);
    folder_end();
    return harness_finish();
}
