#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "format/sentencepiece.h"

#include <stdlib.h>
#include <string.h>

/* A SentencePiece model made up by hand from its protocol buffer, and what is left of it when it is
 * cut or damaged. */

/* Three pieces, the second without score and type, the last with a field that is not known; a
 * trainer (BPE); a normaliser that puts no space first and keeps white space; a field after all. */
static const unsigned char model[] = {
    0x0A, 0x0E, 0x0A, 0x05, '<',  'u',  'n',  'k',  '>',  0x15, 0,    0,    0,    0,    0x18,
    2,    0x0A, 0x03, 0x0A, 0x01, 'a',  0x0A, 0x11, 0x0A, 0x04, 0xE2, 0x96, 0x81, 't',  0x15,
    0,    0,    0x20, 0xC1, 0x18, 1,    0x22, 0x02, 'x',  'y',  0x12, 0x05, 0x0A, 0x01, 'z',
    0x18, 2,    0x1A, 0x0E, 0x0A, 0x08, 'i',  'd',  'e',  'n',  't',  'i',  't',  'y',  0x18,
    0,    0x20, 0,    0x29, 1,    2,    3,    4,    5,    6,    7,    8};

static mq_status read_copy(const unsigned char *data, size_t bytes, mq_sentencepiece *out)
{
    unsigned char *copy = malloc(bytes ? bytes : 1); /* sanitizers see each step too far */
    assert_non_null(copy);
    memcpy(copy, data, bytes);
    mq_status status = mq_sentencepiece_read("m", copy, bytes, out);
    free(copy);
    return status;
}

static void test_reading(void **state)
{
    (void)state;
    mq_sentencepiece m;
    assert_int_equal(read_copy(model, sizeof model, &m), MQ_OK);
    assert_int_equal(m.n_pieces, 3);
    assert_string_equal(m.piece[0].text, "<unk>");
    assert_string_equal(m.piece[1].text, "a");
    assert_string_equal(m.piece[2].text, "\xE2\x96\x81t");
    assert_true(m.piece[0].type == 2 && m.piece[1].type == 1 && m.piece[2].type == 1);
    assert_true(m.piece[0].score == 0 && m.piece[1].score == 0 && m.piece[2].score == -10);
    assert_true(m.bpe && !m.normalises && !m.space_prefix);
    mq_sentencepiece_clear(&m);
}

/* Without their sections: another algorithm, a space before texts, white space dropped. */
static void test_defaults(void **state)
{
    (void)state;
    static const unsigned char table[] = {0x0A, 0x03, 0x0A, 0x01, 'a',  0x1A,
                                          0x05, 0x12, 0x01, 't',  0x20, 0};
    mq_sentencepiece m;
    assert_int_equal(read_copy(model, 21, &m), MQ_OK);
    assert_true(m.n_pieces == 2 && !m.bpe && m.normalises && m.space_prefix);
    mq_sentencepiece_clear(&m);
    assert_int_equal(read_copy(table, sizeof table, &m), MQ_OK);
    assert_true(m.normalises && m.space_prefix);
    mq_sentencepiece_clear(&m);
}

static void check_refused(const unsigned char *data, size_t bytes)
{
    mq_sentencepiece m;
    assert_int_equal(read_copy(data, bytes, &m), MQ_E_INPUT);
    assert_non_null(strstr(mq_message(), "m: not a SentencePiece model"));
    assert_true(m.piece == NULL && m.n_pieces == 0);
}

static void test_what_is_none(void **state)
{
    (void)state;
    static const unsigned char empty[] = {0x12, 0}, nul[] = {0x0A, 0x04, 0x0A, 0x02, 'a', 0},
                               type[] = {0x0A, 0x05, 0x0A, 0x01, 'a', 0x18, 7},
                               group[] = {0x0A, 0x03, 0x0A, 0x01, 'a', 0x0B},
                               endless[] = {0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
                                            0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1};
    check_refused(model, 0);
    check_refused(empty, sizeof empty);
    check_refused(nul, sizeof nul);
    check_refused(type, sizeof type);
    check_refused(group, sizeof group);
    check_refused(endless, sizeof endless);
}

/* However short, and whichever bit turns: a model, or a message; never beyond the bytes. */
static void test_cut_or_turned_anywhere(void **state)
{
    (void)state;
    unsigned char turned[sizeof model];
    mq_sentencepiece m;
    for (size_t n = 0; n < sizeof model; n++) {
        mq_status status = read_copy(model, n, &m);
        assert_true(status == MQ_OK || status == MQ_E_INPUT);
        mq_sentencepiece_clear(&m);
    }
    for (size_t i = 0; i < sizeof model * 8; i++) {
        memcpy(turned, model, sizeof model);
        turned[i / 8] = (unsigned char)(turned[i / 8] ^ 1 << i % 8);
        mq_status status = read_copy(turned, sizeof turned, &m);
        assert_true(status == MQ_OK || status == MQ_E_INPUT);
        mq_sentencepiece_clear(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_what_is_none),
        cmocka_unit_test(test_cut_or_turned_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
