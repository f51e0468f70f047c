#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/safetensors.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Every row of the table of what the reference reader takes and refuses, as headers (text and
 * length of the data) and as files. The verdicts come from the reference reader itself, version
 * 0.8.0, and so do those of the further cases at the end of each list. */

typedef struct header_case {
    const char *what, *text;
    size_t length; /* of the text; 0: strlen */
    uint64_t data_bytes;
} header_case;

#define ENTRY(dtype, shape, begin, end) \
    "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end "]}"
#define ONE(dtype, shape, begin, end) "{\"a\":" ENTRY(dtype, shape, begin, end) "}"
#define TWO(x, y) "{\"a\":" x ",\"b\":" y "}"
#define WITH(field) "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]," field "}}"
#define META(value) "{\"__metadata__\":" value "}"
#define OPEN_20 "[[[[[[[[[[[[[[[[[[[["
#define CLOSE_20 "]]]]]]]]]]]]]]]]]]]]"

static const header_case refused[] = {
    {"trailing byte", ONE("U8", "1", "0", "1"), 0, 2},
    {"short data", ONE("U8", "2", "0", "2"), 0, 1},
    {"data without tensors", "{}", 0, 1},
    {"overlap", TWO(ENTRY("U8", "2", "0", "2"), ENTRY("U8", "2", "1", "3")), 0, 3},
    {"same range twice", TWO(ENTRY("U8", "2", "0", "2"), ENTRY("U8", "2", "0", "2")), 0, 2},
    {"hole", TWO(ENTRY("U8", "1", "0", "1"), ENTRY("U8", "1", "2", "3")), 0, 3},
    {"leading hole", ONE("U8", "1", "1", "2"), 0, 2},
    {"offsets backwards", ONE("U8", "1", "1", "0"), 0, 1},
    {"NUL padding", "{}\0\0", 4, 0},
    {"NUL inside", "{\0}", 3, 0},
    {"byte order mark", "\xEF\xBB\xBF{}", 0, 0},
    {"not UTF-8: stray byte", "{\"\x80\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"not UTF-8: cut sequence", "{\"\xC3\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"not UTF-8: overlong", "{\"\xC0\x80\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"not UTF-8: overlong of three", "{\"\xE0\x80\x80\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"not UTF-8: surrogate", "{\"\xED\xA0\x80\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"not UTF-8: past U+10FFFF", "{\"\xF4\x90\x80\x80\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"not UTF-8: in a dropped field", WITH("\"x\":\"\xFF\""), 0, 1},
    {"empty text", "", 0, 0},
    {"white space only", "  ", 0, 0},
    {"shape x dtype too small", ONE("F32", "2", "0", "4"), 0, 4},
    {"shape x dtype too large", ONE("F32", "1", "0", "8"), 0, 8},
    /* 65536 x 65537 x 4 bytes wraps to 262144 in 32 bits; 256000 x 12288 x 2 to 1996488704. */
    {"wrapped to a plausible range", ONE("F32", "65536,65537", "0", "262144"), 0, 262144},
    {"the wrap of the report", ONE("BF16", "256000,12288", "0", "1996488704"), 0, 1996488704},
    {"product overflow", ONE("U8", "4294967296,4294967296", "0", "0"), 0, 0},
    {"overflow before a zero", ONE("U8", "4611686018427387904,4,0", "0", "0"), 0, 0},
    {"bits overflow", ONE("F64", "2305843009213693952", "0", "0"), 0, 0},
    {"empty tensor at a wrong offset", TWO(ENTRY("U8", "2", "0", "2"), ENTRY("U8", "0", "1", "1")),
     0, 2},
    {"empty tensor past the end", ONE("U8", "0", "5", "5"), 0, 0},
    {"negative offset", ONE("U8", "1", "-1", "0"), 0, 0},
    {"minus zero", ONE("U8", "1", "-0", "1"), 0, 1},
    {"fractional offset", ONE("U8", "1", "0.0", "1"), 0, 1},
    {"offset with exponent", ONE("U8", "10", "0", "1e1"), 0, 10},
    {"leading zero", ONE("U8", "1", "00", "1"), 0, 1},
    {"leading zero in the shape", ONE("U8", "01", "0", "1"), 0, 1},
    {"plus sign", ONE("U8", "1", "0", "+1"), 0, 1},
    {"offset past 2^64", ONE("U8", "1", "0", "18446744073709551617"), 0, 1},
    {"negative dimension", ONE("U8", "-1", "0", "1"), 0, 1},
    {"three offsets", ONE("U8", "1", "0", "1,2"), 0, 1},
    {"one offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 0, 1},
    {"offsets as an object", "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":{}}}", 0, 1},
    {"offsets as strings", ONE("U8", "1", "\"0\"", "1"), 0, 1},
    {"unknown dtype", ONE("U4", "1", "0", "1"), 0, 1},
    {"lower-case dtype", ONE("f32", "1", "0", "4"), 0, 4},
    {"empty dtype", ONE("", "1", "0", "1"), 0, 1},
    {"dtype with something after NUL", ONE("U8\\u0000", "1", "0", "1"), 0, 1},
    {"half a byte", ONE("F4", "3", "0", "1"), 0, 1},
    {"six bits that do not fill bytes", ONE("F6_E2M3", "3", "0", "2"), 0, 2},
    {"number in metadata", META("{\"a\":1}"), 0, 0},
    {"null in metadata", META("{\"a\":null}"), 0, 0},
    {"object in metadata", META("{\"a\":{}}"), 0, 0},
    {"metadata is an array", META("[]"), 0, 0},
    {"metadata is a string", META("\"pt\""), 0, 0},
    {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, 0},
    {"metadata twice, one escaped", "{\"__metadata__\":{},\"__metad\\u0061ta__\":{}}", 0, 0},
    {"dtype twice", WITH("\"dtype\":\"U8\""), 0, 1},
    {"shape twice", WITH("\"shape\":[1]"), 0, 1},
    {"data_offsets twice", WITH("\"data_offsets\":[0,1]"), 0, 1},
    {"missing field", "{\"a\":{\"dtype\":\"U8\",\"shape\":[]}}", 0, 0},
    {"entry is null", "{\"a\":null}", 0, 0},
    {"lone high surrogate", "{\"\\ud83d\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"high surrogate and a letter", "{\"\\ud83d\\u0061\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"lone low surrogate", "{\"\\ude00\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"lone surrogate in a dropped field", WITH("\"x\":\"\\ud83d\""), 0, 1},
    {"unknown escape", "{\"\\x\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"short \\u", "{\"\\u12\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"control character in a name", "{\"\n\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"form feed as white space", "\f{}", 0, 0},
    {"array at the top", "[]", 0, 0},
    {"text after the object", "{} {}", 0, 0},
    {"comment", "{}//", 0, 0},
    {"trailing comma", "{\"a\":" ENTRY("U8", "1", "0", "1") ",}", 0, 1},
    {"comma first", "{,}", 0, 0},
    {"no colon", "{\"a\" " ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"unclosed", "{\"a\":" ENTRY("U8", "1", "0", "1"), 0, 1},
    {"unclosed string", "{\"a", 0, 0},
    {"wrong bracket", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1},\"data_offsets\":[0,1]}}", 0, 1},
    {"number past a double", WITH("\"x\":1e999"), 0, 1},
    {"hexadecimal", WITH("\"x\":0x10"), 0, 1},
    {"NaN", WITH("\"x\":NaN"), 0, 1},
    {"bare point", WITH("\"x\":1."), 0, 1},
    {"126 deep in an entry",
     WITH("\"x\":" OPEN_20 OPEN_20 OPEN_20 OPEN_20 OPEN_20 OPEN_20
          "[[[[[[]]]]]]" CLOSE_20 CLOSE_20 CLOSE_20 CLOSE_20 CLOSE_20 CLOSE_20),
     0, 1},
};

static const header_case accepted[] = {
    {"starts past 4 GiB",
     TWO(ENTRY("U8", "4294967296", "0", "4294967296"),
         ENTRY("F32", "1", "4294967296", "4294967300")),
     0, 4294967300},
    {"more than 2^32 elements", ONE("U8", "65536,65537", "0", "4295032832"), 0, 4295032832},
    {"256000 x 12288 in BF16", ONE("BF16", "256000,12288", "0", "6291456000"), 0, 6291456000},
    {"256000 x 12288 in F32", ONE("F32", "256000,12288", "0", "12582912000"), 0, 12582912000},
    {"53248 x 53248 in F64", ONE("F64", "53248,53248", "0", "22682796032"), 0, 22682796032},
    {"length not a multiple of 8", "{ }", 0, 0},
    {"leading white space", " \t\r\n{}", 0, 0},
    {"trailing white space", "{}  \n\t\r", 0, 0},
    {"keys not in the order of offsets",
     TWO(ENTRY("U8", "1", "1", "2"), ENTRY("U8", "1", "0", "1")), 0, 2},
    {"empty tensor first", TWO(ENTRY("U8", "0", "0", "0"), ENTRY("U8", "1", "0", "1")), 0, 1},
    {"empty tensor last", TWO(ENTRY("U8", "1", "0", "1"), ENTRY("F64", "3,0", "1", "1")), 0, 1},
    {"empty tensors only", TWO(ENTRY("U8", "0", "0", "0"), ENTRY("U8", "0", "0", "0")), 0, 0},
    {"scalar", ONE("F32", "", "0", "4"), 0, 4},
    {"no tensors", "{}", 0, 0},
    {"no tensors, with metadata", META("{\"format\":\"pt\"}"), 0, 0},
    {"misaligned", TWO(ENTRY("U8", "1", "0", "1"), ENTRY("F64", "1", "1", "9")), 0, 9},
    {"unknown extra field", WITH("\"x\":[1,{\"y\":[true,false,null,-1.5e-3,\"z\"]}]"), 0, 1},
    {"extra field twice", WITH("\"x\":1,\"x\":2"), 0, 1},
    {"empty name", "{\"\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"escaped names", "{\"\\u0061\\n\\\"\\\\\\/\\ud83d\\ude00\":" ENTRY("U8", "1", "0", "1") "}", 0,
     1},
    {"UTF-8 names", "{\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\":" ENTRY("U8", "1", "0", "1") "}", 0,
     1},
    {"DEL in a name", "{\"\x7F\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"metadata null", META("null"), 0, 0},
    {"metadata key twice", META("{\"a\":\"b\",\"a\":\"c\"}"), 0, 0},
    {"U+0000 in metadata", META("{\"a\":\"\\u0000\"}"), 0, 0},
    {"same key, same range",
     "{\"a\":" ENTRY("U8", "1", "0", "1") ",\"a\":" ENTRY("I8", "1", "0", "1") "}", 0, 1},
    {"same key, the last one fits",
     "{\"a\":" ENTRY("U8", "7", "5", "1") ",\"a\":" ENTRY("U8", "2", "0", "2") "}", 0, 2},
    {"escaped field and dtype",
     "{\"a\":{\"dt\\u0079pe\":\"U\\u0038\",\"shape\":[],\"data_offsets\":[0,1]}}", 0, 1},
    {"white space everywhere",
     "{ \"a\" :\n{ \"dtype\" : \"U8\" ,\t\"shape\" : [ 1 , 1 ] , \"data_offsets\" : [ 0 , 1 ] } }",
     0, 1},
    {"two values of four bits", ONE("F4", "2", "0", "1"), 0, 1},
    {"four values of six bits", ONE("F6_E3M2", "4", "0", "3"), 0, 3},
    {"overflow after a zero", ONE("U8", "0,4611686018427387904,4", "0", "0"), 0, 0},
    {"huge number in a dropped field", WITH("\"x\":123456789012345678901234567890"), 0, 1},
    {"tiny number in a dropped field", WITH("\"x\":1e-999"), 0, 1},
    {"zero with a huge exponent", WITH("\"x\":0e999"), 0, 1},
    {"125 deep in an entry",
     WITH("\"x\":" OPEN_20 OPEN_20 OPEN_20 OPEN_20 OPEN_20 OPEN_20
          "[[[[[]]]]]" CLOSE_20 CLOSE_20 CLOSE_20 CLOSE_20 CLOSE_20 CLOSE_20),
     0, 1},
};

/* Ours only: what the reference takes and no writer produces. */
static const header_case stricter[] = {
    {"nine dimensions", ONE("U8", "1,1,1,1,1,1,1,1,1", "0", "1"), 0, 1},
    {"dimension past 2^63 beside a zero", ONE("U8", "0,18446744073709551615", "0", "0"), 0, 0},
    {"U+0000 in a name", "{\"a\\u0000b\":" ENTRY("U8", "1", "0", "1") "}", 0, 1},
    {"entry as an array", "{\"a\":[\"U8\",[1],[0,1]]}", 0, 1},
    {"dtype as an object", "{\"a\":{\"dtype\":{\"U8\":null},\"shape\":[1],\"data_offsets\":[0,1]}}",
     0, 1},
};

/* Scanned from a copy without a NUL behind it, so that a sanitizer sees every step too far. */
static mq_status scan_case(const header_case *c, mq_header *out)
{
    size_t length = c->length ? c->length : strlen(c->text);
    char *copy = malloc(length ? length : 1);
    assert_non_null(copy);
    memcpy(copy, c->text, length);
    mq_status status = mq_header_scan("f.safetensors", copy, length, c->data_bytes, out);
    free(copy);
    return status;
}

static void check_refused(const header_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        mq_header h;
        mq_status status = scan_case(&cases[i], &h);
        if (status != MQ_E_INPUT) fail_msg("%s: got %s", cases[i].what, mq_status_name(status));
        if (!strstr(mq_message(), "f.safetensors")) {
            fail_msg("%s: message without the file: %s", cases[i].what, mq_message());
        }
        assert_null(h.tensor);
        assert_null(h.names);
    }
}

static void refuses_what_the_reference_refuses(void **state)
{
    (void)state;
    check_refused(refused, sizeof refused / sizeof *refused);
}

static void refuses_what_no_writer_produces(void **state)
{
    (void)state;
    check_refused(stricter, sizeof stricter / sizeof *stricter);
}

static void accepts_what_the_reference_accepts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        mq_header h;
        mq_status status = scan_case(&accepted[i], &h);
        if (status != MQ_OK) fail_msg("%s: %s", accepted[i].what, mq_message());
        mq_header_clear(&h);
    }
}

/* Every prefix of a good header is refused, without a read past its end. */
static void refuses_every_prefix(void **state)
{
    (void)state;
    const char *text =
        TWO("{\"dtype\":\"U8\",\"shape\":[1,2],\"x\":[-1.5e3,{\"\\ud83d\\ude00\":null}],"
            "\"data_offsets\":[0,2]}",
            ENTRY("F64", "1", "2", "10"));
    for (size_t n = 1; n < strlen(text); n++) {
        mq_header h;
        header_case c = {"prefix", text, n, 10};
        assert_int_equal(scan_case(&c, &h), MQ_E_INPUT);
    }
}

static void keeps_numbers_of_64_bits(void **state)
{
    (void)state;
    char text[64];
    int64_t count = 0;
    mq_header h;
    header_case c = {"",
                     TWO(ENTRY("F32", "256000,12288", "9007199254740993", "9007211837652993"),
                         ENTRY("U8", "9007199254740993", "0", "9007199254740993")),
                     0, 9007211837652993};
    assert_int_equal(scan_case(&c, &h), MQ_OK);
    const mq_tensor *a = mq_header_find(&h, "a");
    assert_non_null(a);
    assert_true(a->begin == UINT64_C(9007199254740993) && a->end == UINT64_C(9007211837652993));
    assert_int_equal(mq_tensor_count(a, &count), MQ_OK);
    assert_true(count == INT64_C(3145728000));
    assert_string_equal(mq_tensor_describe(a, text, sizeof text), "F32 [256000, 12288]");
    assert_null(mq_header_find(&h, "aa"));
    assert_null(mq_header_find(&h, ""));
    mq_header_clear(&h);
}

static void decodes_names(void **state)
{
    (void)state;
    mq_header h;
    header_case c = {"",
                     "{\"\\u0061\\u00e9\\u20ac\\ud83d\\ude00\\b\\f\\n\\r\\t\\\"\\\\\\/\":" ENTRY(
                         "U8", "1", "0", "1") "}",
                     0, 1};
    assert_int_equal(scan_case(&c, &h), MQ_OK);
    assert_string_equal(h.tensor[0].name, "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\b\f\n\r\t\"\\/");
    mq_header_clear(&h);
}

static void last_of_a_double_key_counts(void **state)
{
    (void)state;
    mq_header h;
    header_case c = {"",
                     "{\"a\":" ENTRY("U8", "4", "0", "4") ",\"b\":" ENTRY("U8", "1", "4", "5") //
                     ",\"a\":" ENTRY("F32", "", "0", "4") "}",
                     0, 5};
    assert_int_equal(scan_case(&c, &h), MQ_OK);
    assert_int_equal(h.n_tensors, 2);
    assert_int_equal(mq_header_find(&h, "a")->dtype, MQ_F32);
    assert_int_equal(mq_header_find(&h, "a")->n_dims, 0);
    mq_header_clear(&h);
}

/* Many tensors in a shuffled order come out sorted and can all be found. */
static void finds_every_tensor(void **state)
{
    (void)state;
    enum { N = 20011, STEP = 7919 }; /* both prime: a permutation */
    char *text = malloc((size_t)N * 100), *at = text;
    assert_non_null(text);
    *at++ = '{';
    for (int i = 0; i < N; i++) {
        int k = (int)((int64_t)i * STEP % N);
        at += sprintf(at, "%s\"t.%d\":{\"dtype\":\"I16\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                      i ? "," : "", k, 2 * k, 2 * k + 2);
    }
    *at++ = '}';
    mq_header h;
    assert_int_equal(mq_header_scan("f", text, (size_t)(at - text), 2 * N, &h), MQ_OK);
    assert_int_equal(h.n_tensors, N);
    for (int i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof name, "t.%d", i);
        const mq_tensor *t = mq_header_find(&h, name);
        assert_non_null(t);
        assert_true(t->begin == (uint64_t)(2 * i));
        if (i > 0) assert_true(strcmp(h.tensor[i - 1].name, h.tensor[i].name) < 0);
    }
    mq_header_clear(&h);
    free(text);
}

/* ---- files ----------------------------------------------------------------------------------- */

static char folder[] = "/tmp/mq_header_XXXXXX";
static char path[64];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder)) return 1;
    snprintf(path, sizeof path, "%s/f.safetensors", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

/* A file with that length word and text, `hole` bytes of it not stored behind. */
static void write_file(uint64_t n, const char *text, size_t length, off_t hole)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, &n, 8), 8);
    assert_int_equal(write(fd, text, length), length);
    if (hole > 0) assert_int_equal(ftruncate(fd, (off_t)(8 + length) + hole), 0);
    close(fd);
}

static void checks_the_length_word(void **state)
{
    (void)state;
    mq_header h;
    write_file(0, "{}", 2, 0);
    assert_int_equal(mq_header_read(path, &h), MQ_E_INPUT);
    write_file(3, "{}", 2, 0); /* past the end */
    assert_int_equal(mq_header_read(path, &h), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "truncated"));
    write_file(UINT64_MAX, "{}", 2, 0);
    assert_int_equal(mq_header_read(path, &h), MQ_E_INPUT);
    write_file(UINT64_MAX - 7, "{}", 2, 0); /* 8 + N would wrap to 0 */
    assert_int_equal(mq_header_read(path, &h), MQ_E_INPUT);
    write_file(2, "{}", 2, 0);
    assert_int_equal(mq_header_read(path, &h), MQ_OK);
    assert_true(h.data_start == 10 && h.n_tensors == 0);
    mq_header_clear(&h);
    assert_int_equal(truncate(path, 7), 0);
    assert_int_equal(mq_header_read(path, &h), MQ_E_INPUT);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(mq_header_read(path, &h), MQ_E_INPUT);
}

static void accepts_the_longest_header_only(void **state)
{
    (void)state;
    const size_t limit = 100000000;
    char *text = malloc(limit + 1);
    assert_non_null(text);
    memset(text, ' ', limit + 1);
    memcpy(text, "{}", 2);
    mq_header h;
    write_file(limit, text, limit, 0);
    assert_int_equal(mq_header_read(path, &h), MQ_OK);
    assert_true(h.data_start == limit + 8);
    mq_header_clear(&h);
    write_file(limit + 1, text, limit + 1, 0);
    assert_int_equal(mq_header_read(path, &h), MQ_E_INPUT);
    free(text);
}

static void reads_a_file_past_4_gib(void **state)
{
    (void)state;
    const char *text = TWO(ENTRY("BF16", "256000,12288", "0", "6291456000"),
                           ENTRY("F32", "2", "6291456000", "6291456008"));
    mq_header h;
    write_file(strlen(text), text, strlen(text), 6291456008);
    assert_int_equal(mq_header_read(path, &h), MQ_OK);
    assert_true(mq_header_find(&h, "b")->begin == UINT64_C(6291456000));
    mq_header_clear(&h);
    write_file(strlen(text), text, strlen(text), 6291456007);
    assert_int_equal(mq_header_read(path, &h), MQ_E_INPUT);
    /* The 32-bit rest of the right length. */
    write_file(strlen(text), text, strlen(text), 6291456008 - ((off_t)1 << 32));
    assert_int_equal(mq_header_read(path, &h), MQ_E_INPUT);
}

static void tells_missing_files_and_folders(void **state)
{
    (void)state;
    mq_header h;
    assert_int_equal(mq_header_read("/nowhere/f.safetensors", &h), MQ_E_IO);
    assert_non_null(strstr(mq_message(), "/nowhere/f.safetensors"));
    assert_int_equal(mq_header_read(folder, &h), MQ_E_IO);
    mq_header_clear(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_the_reference_refuses),
        cmocka_unit_test(refuses_what_no_writer_produces),
        cmocka_unit_test(accepts_what_the_reference_accepts),
        cmocka_unit_test(refuses_every_prefix),
        cmocka_unit_test(keeps_numbers_of_64_bits),
        cmocka_unit_test(decodes_names),
        cmocka_unit_test(last_of_a_double_key_counts),
        cmocka_unit_test(finds_every_tensor),
        cmocka_unit_test(checks_the_length_word),
        cmocka_unit_test(accepts_the_longest_header_only),
        cmocka_unit_test(reads_a_file_past_4_gib),
        cmocka_unit_test(tells_missing_files_and_folders),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
