#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/utf8.h"

#include <string.h>

/* What is UTF-8, and what of a text may be shown. */

static const struct {
    const char *text, *shown;
    bool good;
} cases[] = {
    {"", "", true},
    {"layers.0", "layers.0", true},
    {"\xC3\xBC \xE2\x96\x81 \xF0\x9F\x98\x80", "\xC3\xBC \xE2\x96\x81 \xF0\x9F\x98\x80", true},
    {"a\x1B[31m\n\x7F", "a?[31m??", true},
    {"\xC2\x9B\xC2\xA0", "??\xC2\xA0", true},
    {"\xC0\x80x", "??x", false},         /* overlong */
    {"\xED\xA0\x80", "???", false},      /* a surrogate */
    {"\xF4\x90\x80\x80", "????", false}, /* past the last character */
    {"caf\xE9", "caf?", false},          /* Latin 1 */
    {"\xE2\x96", "??", false},           /* cut off */
    {"\xF0\x9F\x98", "???", false},      /* cut off */
};

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[32];
        strcpy(text, cases[i].text);
        assert_int_equal(mq_is_utf8(text), cases[i].good);
        mq_make_printable(text);
        assert_string_equal(text, cases[i].shown);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
