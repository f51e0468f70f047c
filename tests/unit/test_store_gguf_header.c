#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gguf_by_hand.h"

#include "store/gguf.h"

#include <stdlib.h>
#include <unistd.h>

/* What the reader of GGUF headers takes and refuses. */

static char path[] = "/tmp/mq_gguf_XXXXXX";
static int fd = -1;

static mq_status read_bytes(const by_hand *f, mq_header *h)
{
    assert_int_equal(pwrite(fd, f->bytes, f->n, 0), f->n);
    assert_int_equal(ftruncate(fd, (off_t)f->n), 0);
    return mq_gguf_read(path, h);
}

static void test_reading(void **state)
{
    (void)state;
    by_hand f = make_by_hand();
    mq_header h;
    assert_int_equal(read_bytes(&f, &h), MQ_OK);
    const mq_tensor *k = mq_header_find(&h, "blk.0.attn_k.weight");
    assert_true(h.n_tensors == N && h.data_start == f.data && k);
    assert_true(k->dtype == MQ_Q8_0 && k->n_dims == 2 && k->dim[0] == 3 && k->dim[1] == 1);
    assert_true(k->begin == 480 && k->end == 480 + 102);
    mq_header_clear(&h);
}

static void check_refused(const by_hand *f, const char *said)
{
    mq_header h;
    assert_int_equal(read_bytes(f, &h), MQ_E_INPUT);
    if (!strstr(mq_message(), said)) fail_msg("\"%s\" is not about %s", mq_message(), said);
}

typedef struct damage {
    size_t at, bytes; /* from the start, the pairs, the infos */
    int from;
    uint64_t value;
    const char *said;
} damage;

enum { START, PAIRS, INFOS };

static void test_damaged_headers(void **state)
{
    (void)state;
    static const size_t first = 8 + 17; /* what follows the first tensor's name */
    const damage list[] = {
        {0, 1, START, 'X', "not a GGUF file of version 3"},
        {4, 4, START, 2, "not a GGUF file of version 3"},
        {8, 8, START, UINT64_MAX, "truncated"},
        {8, 8, START, N - 1, "truncated, or bytes too many"},
        {16, 8, START, UINT64_MAX / 8, "truncated"},
        {0, 8, PAIRS, UINT64_MAX, "a key of"},
        {8, 1, PAIRS, 0, "holds a NUL byte"},
        {8, 1, PAIRS, 0xC0, "is not UTF-8"},
        {8, 1, INFOS, 0xFF, "is not UTF-8"},
        {28, 4, PAIRS, 13, "the unknown kind 13"},
        {28, 4, PAIRS, 9, "truncated"},
        {0, 8, INFOS, 64, "a tensor name of 64 bytes"},
        {first, 4, INFOS, 0, "0 dimensions"},
        {first, 4, INFOS, 5, "5 dimensions"},
        {first + 4, 8, INFOS, 0, "dimension 0 is 0"},
        {first + 12, 8, INFOS, UINT64_MAX, "dimension 1 is"},
        {first + 12, 8, INFOS, 15, "dimension 1 is 15"}, /* elements for the file, but not bytes */
        {first + 12, 8, INFOS, 2, "expected 256: a hole or an overlap"},
        {first + 20, 4, INFOS, 14, "type 14"},
        {first + 24, 8, INFOS, 32, "expected 0: a hole or an overlap"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        by_hand f = make_by_hand();
        size_t from = list[i].from == START ? 0 : list[i].from == PAIRS ? f.pairs : f.infos;
        memcpy(f.bytes + from + list[i].at, &list[i].value, list[i].bytes);
        check_refused(&f, list[i].said);
    }
}

static void test_twice(void **state)
{
    (void)state;
    by_hand f = make_by_hand();
    char *k = NULL;
    for (size_t i = f.infos; i < f.data; i++) {
        if (memcmp(f.bytes + i, "attn_k", 6) == 0) k = f.bytes + i;
    }
    assert_non_null(k);
    k[5] = 'q';
    check_refused(&f, "two tensors named \"blk.0.attn_q.weight\"");
    f = make_by_hand();
    add(&f, "", 1);
    check_refused(&f, "bytes too many");
    memcpy(f.bytes + f.pairs + 8, "llama.block_count\0\0\0", 20);
    f.bytes[f.pairs] = 17;
    memmove(f.bytes + f.pairs + 25, f.bytes + f.pairs + 28, f.n - f.pairs - 28);
    check_refused(&f, "holds a key twice");
}

/* No larger than the file, but not all of it inside. */
static void test_past_the_end(void **state)
{
    (void)state;
    static const char last[] = "output_norm.weight";
    by_hand f = make_by_hand();
    uint64_t columns = f.n / 8;
    for (size_t i = f.infos; i < f.data; i++) {
        char *name = f.bytes + i;
        if (memcmp(name, last, sizeof last - 1) != 0) continue;
        memcpy(name + sizeof last - 1 + 4, &columns, sizeof columns);
    }
    check_refused(&f, "too few for tensor \"output_norm.weight\"");
}

/* However short the file, or whichever bit of its header turns: an error, or a header whose tensors
 * lie inside the file. */
static void test_cut_or_turned_anywhere(void **state)
{
    (void)state;
    by_hand whole = make_by_hand();
    mq_header h;
    for (size_t n = 0; n < whole.n; n++) {
        by_hand f = whole;
        f.n = n;
        assert_int_equal(read_bytes(&f, &h), MQ_E_INPUT);
    }
    for (size_t i = 0; i < whole.data * 8; i++) {
        by_hand f = whole;
        f.bytes[i / 8] = (char)(f.bytes[i / 8] ^ 1 << i % 8);
        mq_status status = read_bytes(&f, &h);
        assert_true(status == MQ_OK || status == MQ_E_INPUT);
        for (int64_t t = 0; status == MQ_OK && t < h.n_tensors; t++) {
            assert_true(h.tensor[t].end <= f.n - h.data_start);
        }
        mq_header_clear(&h);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_damaged_headers),
        cmocka_unit_test(test_twice),
        cmocka_unit_test(test_past_the_end),
        cmocka_unit_test(test_cut_or_turned_anywhere),
    };
    fd = mkstemp(path);
    int failed = fd >= 0 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
    close(fd);
    unlink(path);
    return failed;
}
