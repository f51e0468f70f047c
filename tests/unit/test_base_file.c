#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/mq_test_file_XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

/* "folder/name" in one of a few static buffers. */
static const char *in_folder(const char *name)
{
    static char path[4][256];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static void test_paths(void **state)
{
    (void)state;
    char *path = NULL;
    assert_int_equal(mq_path_join("/a/b", "c.json", &path), MQ_OK);
    assert_string_equal(path, "/a/b/c.json");
    mq_free(&path);
    assert_true(mq_file_exists(folder) && mq_is_folder(folder));
    assert_false(mq_file_exists(in_folder("nothing")) || mq_is_folder(in_folder("nothing")));
    assert_int_equal(mq_write_file(in_folder("f"), "x", 1), MQ_OK);
    assert_true(mq_file_exists(in_folder("f")) && !mq_is_folder(in_folder("f")));
    assert_int_equal(mq_sync_folder(folder), MQ_OK);
    assert_int_equal(mq_sync_folder(in_folder("f")), MQ_E_IO);
}

static void test_write_and_read(void **state)
{
    (void)state;
    static const char data[] = "one\0two\n\xFF";
    const char *path = in_folder("data");
    char *text = NULL;
    size_t length = 0;
    assert_int_equal(mq_write_file(path, data, sizeof data - 1), MQ_OK);
    assert_int_equal(mq_read_text(path, 1000, &text, &length), MQ_OK);
    assert_int_equal(length, sizeof data - 1);
    assert_memory_equal(text, data, sizeof data); /* with the NUL behind it */
    mq_free(&text);
    assert_int_equal(mq_write_file(path, "new", 3), MQ_OK); /* replaces */
    assert_int_equal(mq_read_text(path, 3, &text, NULL), MQ_OK);
    assert_string_equal(text, "new");
    mq_free(&text);
    assert_int_equal(mq_write_file(path, NULL, 0), MQ_OK);
    assert_int_equal(mq_read_text(path, 0, &text, &length), MQ_OK);
    assert_true(length == 0 && text[0] == '\0');
    mq_free(&text);
    assert_false(mq_file_exists(in_folder("data.tmp")));
}

static void test_mode_honours_umask(void **state)
{
    (void)state;
    struct stat s;
    mode_t old = umask(027);
    assert_int_equal(mq_write_file(in_folder("mode"), "x", 1), MQ_OK);
    umask(old);
    assert_int_equal(stat(in_folder("mode"), &s), 0);
    assert_int_equal(s.st_mode & 0777, 0640);
}

static void test_read_errors(void **state)
{
    (void)state;
    char *text = NULL;
    assert_int_equal(mq_read_text(in_folder("nothing"), 10, &text, NULL), MQ_E_IO);
    assert_non_null(strstr(mq_message(), "nothing: cannot open: No such file"));
    assert_int_equal(mq_read_text(folder, 10, &text, NULL), MQ_E_IO);
    assert_int_equal(mq_write_file(in_folder("ten"), "0123456789", 10), MQ_OK);
    assert_int_equal(mq_read_text(in_folder("ten"), 9, &text, NULL), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "10 bytes, more than the 9"));
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    assert_int_equal(mq_read_text(in_folder("pipe"), 10, &text, NULL), MQ_E_IO); /* and no wait */
    assert_non_null(strstr(mq_message(), "not a regular file"));
    assert_null(text);
}

static void test_pread(void **state)
{
    (void)state;
    char got[10] = "";
    assert_int_equal(mq_write_file(in_folder("ten"), "0123456789", 10), MQ_OK);
    int fd = open(in_folder("ten"), O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(mq_pread_all(fd, "ten", got, 4, 6), MQ_OK);
    assert_memory_equal(got, "6789", 4);
    assert_int_equal(mq_pread_all(fd, "ten", got, 0, 10), MQ_OK);
    assert_int_equal(mq_pread_all(fd, "ten", got, 5, 6), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "ten: ends 1 bytes too early"));
    assert_int_equal(mq_pread_all(fd, "ten", got, 1, (int64_t)1 << 40), MQ_E_INPUT);
    assert_int_equal(mq_pread_all(fd, "ten", got, 1, -1), MQ_E_IO);
    close(fd);
    assert_int_equal(mq_pread_all(fd, "ten", got, 1, 0), MQ_E_IO);
}

/* Reads past 4 GiB, in a sparse file. */
static void test_pread_far(void **state)
{
    (void)state;
    char got[4] = "";
    int fd = open(in_folder("sparse"), O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "end", 3, (off_t)5 << 30), 3);
    assert_int_equal(mq_pread_all(fd, "sparse", got, 3, (int64_t)5 << 30), MQ_OK);
    assert_string_equal(got, "end");
    close(fd);
    unlink(in_folder("sparse"));
}

/* Whatever goes wrong, nothing new lies under either name, and an old file stays as it was. */
static void test_write_errors(void **state)
{
    (void)state;
    assert_int_equal(mq_write_file("/nonexistent/folder/f", "x", 1), MQ_E_IO);
    assert_non_null(strstr(mq_message(), "/nonexistent/folder/f"));
    assert_int_equal(mkdir(in_folder("taken"), 0755), 0);
    assert_int_equal(mq_write_file(in_folder("taken"), "x", 1), MQ_E_IO); /* rename fails */
    assert_non_null(strstr(mq_message(), "cannot rename"));
    assert_false(mq_file_exists(in_folder("taken.tmp")));
    char name[5000];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_int_equal(mq_write_file(name, "x", 1), MQ_E_IO);
}

/* A limit of the file size stands for a full disk: the write ends short, then fails. */
static void test_disk_full(void **state)
{
    (void)state;
    struct rlimit old, small;
    static char data[100000];
    char *text = NULL;
    assert_int_equal(mq_write_file(in_folder("old"), "as it was", 9), MQ_OK);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 4096;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    mq_status status = mq_write_file(in_folder("old"), data, sizeof data);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(status, MQ_E_IO);
    assert_non_null(strstr(mq_message(), "File too large"));
    assert_false(mq_file_exists(in_folder("old.tmp")));
    assert_int_equal(mq_read_text(in_folder("old"), 100, &text, NULL), MQ_OK);
    assert_string_equal(text, "as it was");
    mq_free(&text);
}

/* The examples of FIPS 180-2, the last longer than any buffer. */
static void test_sha256(void **state)
{
    (void)state;
    enum { MILLION = 1000000 };
    char hex[65], *many = malloc(MILLION);
    assert_non_null(many);
    memset(many, 'a', MILLION);
    const struct {
        const char *data;
        size_t bytes;
        const char *hex;
    } cases[] = {
        {"", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {many, MILLION, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
    };
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(mq_write_file(in_folder("sha"), cases[i].data, cases[i].bytes), MQ_OK);
        assert_int_equal(mq_sha256_file(in_folder("sha"), hex), MQ_OK);
        assert_string_equal(hex, cases[i].hex);
    }
    assert_int_equal(mq_sha256_file(in_folder("nothing"), hex), MQ_E_IO);
    assert_int_equal(mq_sha256_file(folder, hex), MQ_E_IO);
    free(many);
}

/* XXH3 of nothing is published; a file streamed in pieces hashes like the whole in memory. */
static void test_hash(void **state)
{
    (void)state;
    enum { LENGTH = 3 * 1000 * 1000 + 1 };
    char text[22], *data = malloc(LENGTH);
    uint64_t of_file = 0;
    assert_non_null(data);
    for (int i = 0; i < LENGTH; i++) data[i] = (char)(i * 7 % 127);
    mq_hash_text(mq_hash(data, 0), text);
    assert_string_equal(text, "xxh3:2d06800538d394c2");
    mq_hash_text(5, text);
    assert_string_equal(text, "xxh3:0000000000000005");
    static const size_t lengths[] = {0, 1, 240, 241, 1 << 20, (1 << 20) + 1, LENGTH};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        assert_int_equal(mq_write_file(in_folder("xxh"), data, lengths[i]), MQ_OK);
        assert_int_equal(mq_hash_file(in_folder("xxh"), &of_file), MQ_OK);
        assert_true(of_file == mq_hash(data, lengths[i]));
    }
    assert_true(mq_hash(data, 10) != mq_hash(data + 1, 10));
    assert_int_equal(mq_hash_file(in_folder("nothing"), &of_file), MQ_E_IO);
    assert_int_equal(mq_hash_file(folder, &of_file), MQ_E_IO);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_write_and_read),
        cmocka_unit_test(test_mode_honours_umask),
        cmocka_unit_test(test_read_errors),
        cmocka_unit_test(test_pread),
        cmocka_unit_test(test_pread_far),
        cmocka_unit_test(test_write_errors),
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
