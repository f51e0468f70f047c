#include "base/json.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static cJSON *parse(const char *text)
{
    cJSON *json = NULL;
    assert_int_equal(mq_json_parse(text, "f.json", &json), MQ_OK);
    return json;
}

static void check_cut(const char *text, const char *inside, const char *key, const char *expected)
{
    char copy[256];
    snprintf(copy, sizeof copy, "%s", text);
    mq_json_cut(copy, inside, key);
    assert_string_equal(copy, expected);
    cJSON_Delete(parse(copy));
}

/* The first, the last, the only member; nested ones, values and strings that look like it stay. */
static void test_cut(void **state)
{
    (void)state;
    check_cut("{\"q\": {\"q\": [1, {\"b\": \"}\"}]}, \"a\": 1e6}", "", "q", "{\"a\": 1e6}");
    check_cut("{ \"a\": 1e6 ,\n  \"q\" : 2\n}", "", "q", "{ \"a\": 1e6 \n}");
    check_cut("{\"q\": null}\n", "", "q", "{}\n");
    check_cut("{\"a\": 1, \"q\": \"\\\"x,\", \"b\": 2}", "", "q", "{\"a\": 1, \"b\": 2}");
    check_cut("{\"a\": {\"q\": 1}, \"b\": \"q\", \"c\": [\"q\", 1]}", "", "q",
              "{\"a\": {\"q\": 1}, \"b\": \"q\", \"c\": [\"q\", 1]}");
    check_cut("{}", "", "q", "{}");
    check_cut("[\"q\", 1]", "", "x", "[\"q\", 1]");
    check_cut("{\"q\": 1, \"t\": {\"a\": {\"q\": 2}, \"q\": {\"q\": 3}}, \"b\": {\"q\": 4}}", "t",
              "q", "{\"q\": 1, \"t\": {\"a\": {\"q\": 2}}, \"b\": {\"q\": 4}}");
    check_cut("{\"t\": {}, \"q\": 1}", "t", "q", "{\"t\": {}, \"q\": 1}");
    check_cut("{\"t\": \"{\", \"q\": 1}", "t", "q", "{\"t\": \"{\", \"q\": 1}");
    check_cut("{\"q\": 1}", "t", "q", "{\"q\": 1}");
}

static void test_syntax_errors(void **state)
{
    (void)state;
    static const struct {
        const char *text, *place;
    } bad[] = {
        {"", "line 1"},
        {"{", "line 1"},
        {"{\"a\": 1,\n\n  \"b\": }", "line 3, column 8"},
        {"{\"a\": 1} x", "line 1, column 10"},
        {"{\"a\": 1}\n{}", "line 2, column 1"},
        {"{'a': 1}", "line 1"},
        {"[1, 2", "line 1"},
        {"nul", "line 1, column 1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cJSON *json = NULL;
        assert_int_equal(mq_json_parse(bad[i].text, "f.json", &json), MQ_E_INPUT);
        assert_null(json);
        if (!strstr(mq_message(), bad[i].place) || strncmp(mq_message(), "f.json: ", 8) != 0) {
            fail_msg("text %zu: \"%s\", expected %s", i, mq_message(), bad[i].place);
        }
    }
}

/* Thousands of brackets must not use up the stack. */
static void test_deep_nesting(void **state)
{
    (void)state;
    enum { DEPTH = 100000 };
    char *text = malloc(DEPTH + 1);
    cJSON *json = NULL;
    assert_non_null(text);
    memset(text, '[', DEPTH);
    text[DEPTH] = '\0';
    assert_int_equal(mq_json_parse(text, "f.json", &json), MQ_E_INPUT);
    free(text);
}

static void test_find(void **state)
{
    (void)state;
    cJSON *json = parse("{\"a\": {\"b\": {\"c\": 5}, \"n\": null}, \"s\": \"x\", \"A\": 7}");
    int64_t value = -1;
    assert_int_equal(mq_json_int(json, "a.b.c", "f", &value), MQ_OK);
    assert_true(value == 5);
    assert_int_equal(mq_json_int(json, "A", "f", &value), MQ_OK); /* case counts */
    assert_true(value == 7);
    static const char *const absent[] = {"a.b.d", "a.n", "a.n.x", "s.x", "b", "a.b.c.d", "S"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        assert_null(mq_json_find(json, absent[i]));
        assert_int_equal(mq_json_int(json, absent[i], "f", &value), MQ_E_INPUT);
        assert_non_null(strstr(mq_message(), absent[i]));
        assert_int_equal(mq_json_int_or(json, absent[i], "f", &value), MQ_OK);
    }
    assert_true(value == 7); /* left alone */
    char long_path[400];
    memset(long_path, 'k', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    assert_null(mq_json_find(json, long_path));
    assert_null(mq_json_find(NULL, "a"));
    cJSON_Delete(json);
}

static void test_numbers(void **state)
{
    (void)state;
    cJSON *json = parse("{\"i\": 3, \"neg\": -4, \"f\": 2.5, \"big\": 9007199254740992,"
                        " \"bigger\": 9007199254740994, \"e\": 1e3, \"huge\": 1e999,"
                        " \"s\": \"3\", \"t\": true, \"z\": -0.0, \"tiny\": 5e-324}");
    int64_t i = 0;
    double d = 0;
    assert_int_equal(mq_json_int(json, "i", "f", &i), MQ_OK);
    assert_true(i == 3);
    assert_int_equal(mq_json_int(json, "neg", "f", &i), MQ_OK);
    assert_true(i == -4);
    assert_int_equal(mq_json_int(json, "e", "f", &i), MQ_OK);
    assert_true(i == 1000);
    assert_int_equal(mq_json_int(json, "big", "f", &i), MQ_OK);
    assert_true(i == (int64_t)1 << 53);
    static const char *const no_int[] = {"f", "bigger", "huge", "s", "t"};
    for (size_t k = 0; k < 5; k++) {
        assert_int_equal(mq_json_int(json, no_int[k], "f.json", &i), MQ_E_INPUT);
        assert_int_equal(mq_json_int_or(json, no_int[k], "f.json", &i), MQ_E_INPUT);
        assert_non_null(strstr(mq_message(), "f.json: "));
    }
    assert_true(i == (int64_t)1 << 53);
    assert_int_equal(mq_json_double(json, "f", "f", &d), MQ_OK);
    assert_true(d == 2.5);
    assert_int_equal(mq_json_double(json, "i", "f", &d), MQ_OK);
    assert_true(d == 3);
    assert_int_equal(mq_json_double(json, "tiny", "f", &d), MQ_OK);
    assert_true(d == 5e-324);
    assert_int_equal(mq_json_double(json, "z", "f", &d), MQ_OK);
    assert_true(d == 0 && signbit(d));
    assert_int_equal(mq_json_double(json, "huge", "f", &d), MQ_E_INPUT);
    assert_int_equal(mq_json_double(json, "s", "f", &d), MQ_E_INPUT);
    assert_int_equal(mq_json_double(json, "nothing", "f", &d), MQ_E_INPUT);
    cJSON_Delete(json);
}

static void test_strings_and_bools(void **state)
{
    (void)state;
    cJSON *json = parse("{\"s\": \"\\u00e4\\n\", \"t\": true, \"n\": null, \"i\": 1}");
    const char *s = "before";
    bool b = false;
    assert_int_equal(mq_json_string_or(json, "n", "f", &s), MQ_OK);
    assert_string_equal(s, "before");
    assert_int_equal(mq_json_string(json, "n", "f", &s), MQ_E_INPUT);
    assert_int_equal(mq_json_string(json, "i", "f", &s), MQ_E_INPUT);
    assert_int_equal(mq_json_string(json, "s", "f", &s), MQ_OK);
    assert_string_equal(s, "\xC3\xA4\n");
    assert_int_equal(mq_json_bool_or(json, "i", "f", &b), MQ_E_INPUT);
    assert_int_equal(mq_json_bool_or(json, "n", "f", &b), MQ_OK);
    assert_false(b);
    assert_int_equal(mq_json_bool_or(json, "t", "f", &b), MQ_OK);
    assert_true(b);
    cJSON_Delete(json);
}

/* Every number written reads back as the same bits. */
static void test_round_trip(void **state)
{
    (void)state;
    static const double numbers[] = {0.1,
                                     1.0 / 3,
                                     1e22,
                                     1e23,
                                     5e-324,
                                     DBL_MAX,
                                     -DBL_MIN,
                                     4,
                                     -0.0,
                                     123456789.123456789,
                                     0x1.fffffffffffffp-3};
    enum { N = sizeof numbers / sizeof *numbers };
    cJSON *json = cJSON_CreateObject();
    char key[8];
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "d%d", i);
        assert_int_equal(mq_json_add_double(json, key, numbers[i]), MQ_OK);
    }
    assert_int_equal(mq_json_add_int(json, "big", ((int64_t)1 << 53) - 1), MQ_OK);
    assert_int_equal(mq_json_add_double(json, "nan", (double)NAN), MQ_OK);
    assert_int_equal(mq_json_add_double(json, "inf", -INFINITY), MQ_OK);
    char *text = mq_json_print(json);
    assert_non_null(text);
    cJSON *back = parse(text);
    for (int i = 0; i < N; i++) {
        double d = 99;
        snprintf(key, sizeof key, "d%d", i);
        assert_int_equal(mq_json_double(back, key, "f", &d), MQ_OK);
        if (memcmp(&d, &numbers[i], sizeof d) != 0) fail_msg("%a came back as %a", numbers[i], d);
    }
    int64_t big = 0;
    assert_int_equal(mq_json_int(back, "big", "f", &big), MQ_OK);
    assert_true(big == ((int64_t)1 << 53) - 1);
    assert_non_null(strstr(text, "\"nan\": null"));
    assert_non_null(strstr(text, "\"inf\": null"));
    assert_non_null(strstr(text, "\"d0\": 0.1,"));
    cJSON_free(text);
    cJSON_Delete(json);
    cJSON_Delete(back);
}

static void test_print(void **state)
{
    (void)state;
    cJSON *json = cJSON_CreateObject(), *inner = cJSON_CreateObject();
    assert_int_equal(mq_json_add_string(json, "a:\t", "tab\there: \"x\""), MQ_OK);
    assert_int_equal(mq_json_add_bool(inner, "yes", true), MQ_OK);
    assert_int_equal(mq_json_add_int(inner, "n", -1), MQ_OK);
    assert_int_equal(mq_json_add(json, "inner", inner), MQ_OK);
    char *text = mq_json_print(json);
    assert_string_equal(text, "{\n"
                              "  \"a:\\t\": \"tab\\there: \\\"x\\\"\",\n"
                              "  \"inner\": {\n"
                              "    \"yes\": true,\n"
                              "    \"n\": -1\n"
                              "  }\n"
                              "}\n");
    cJSON_free(text);
    assert_int_equal(mq_json_add(json, "none", NULL), MQ_E_MEMORY);
    assert_non_null(strstr(mq_message(), "\"none\""));
    assert_int_equal(mq_json_add(NULL, "k", cJSON_CreateNull()), MQ_E_MEMORY); /* freed there */
    cJSON_Delete(json);
}

static void test_arrays(void **state)
{
    (void)state;
    const double d[] = {0.1, (double)NAN, 100, -0x1.fffffffffffffp-3};
    const int64_t n[] = {360, -1, ((int64_t)1 << 53) - 1};
    cJSON *json = cJSON_CreateObject();
    assert_int_equal(mq_json_add_doubles(json, "d", d, 4), MQ_OK);
    assert_int_equal(mq_json_add_ints(json, "n", n, 3), MQ_OK);
    assert_int_equal(mq_json_add_doubles(json, "none", NULL, 0), MQ_OK);
    char *text = mq_json_print(json);
    assert_non_null(text);
    assert_string_equal(text, "{\n  \"d\": [0.1, null, 1e+02, -0.24999999999999997],\n"
                              "  \"n\": [360, -1, 9007199254740991],\n  \"none\": []\n}\n");
    cJSON_free(text);
    cJSON_Delete(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut),          cmocka_unit_test(test_syntax_errors),
        cmocka_unit_test(test_deep_nesting), cmocka_unit_test(test_find),
        cmocka_unit_test(test_numbers),      cmocka_unit_test(test_strings_and_bools),
        cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_print),
        cmocka_unit_test(test_arrays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
