#include "mpi/test_store_output.h"

#include "base/log.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

/* Every failure of the parallel writer: the same status and message on all ranks, and nothing left
 * under a final name. */

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

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    signal(SIGXFSZ, SIG_IGN);
    folder_start();
    if (mq_comm_create(MPI_COMM_WORLD, &comm) != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
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
    mq_comm_destroy(&comm);
    folder_end();
    return harness_finish();
}
