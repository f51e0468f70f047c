#include "base/args.h"
#include "base/nearest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* A command with one option of every kind. */
static struct {
    bool json;
    int64_t bits;
    double damp;
    bool auto_damp;
    const char *format, *calib, *model, *rest;
    mq_texts skip, files;
} got;

static const mq_positional positionals[] = {
    {"MODEL", "folder of the model", .text = &got.model},
    {"REST", "another folder", .text = &got.rest, .optional = true},
};

static const mq_option options[] = {
    {"--calib", "FILE", "calibration tokens", .text = &got.calib, .required = true},
    {"--bits", "N", "bits per weight", "4", .integer = &got.bits},
    {"--damp-percent", "X", "share of the mean diagonal", "0.01", .number = &got.damp,
     .word = "auto", .word_given = &got.auto_damp},
    {"--format", "NAME", "checkpoint format", "gptq", .text = &got.format},
    {"--skip", "REGEX", "leave layers whose name matches alone; may be repeated",
     .texts = &got.skip},
    {"--json", .help = "print one JSON object on standard output", .flag = &got.json},
};

static const mq_args_spec spec = {
    "mpiquant quantize", "Quantises a model.", positionals, 2, options, 6, .takes_config = true};

enum { MOST_WORDS = 32 };

static char line_storage[1024];
static mq_args args;

/* Parses a line of words separated by single spaces; an empty word is written as @. */
static mq_status parse_with(const mq_args_spec *with, const char *line)
{
    char *argv[MOST_WORDS];
    int argc = 0;
    memset(&got, 0, sizeof got);
    got.bits = 4;
    got.damp = 0.01;
    got.format = "gptq";
    snprintf(line_storage, sizeof line_storage, "quantize %s", line);
    for (char *word = strtok(line_storage, " "); word; word = strtok(NULL, " ")) {
        argv[argc++] = strcmp(word, "@") == 0 ? word + 1 : word;
    }
    return mq_args_parse(with, argc, argv, &args);
}

static mq_status parse(const char *line)
{
    return parse_with(&spec, line);
}

static void assert_usage(const char *line, const char *message)
{
    assert_int_equal(parse(line), MQ_E_USAGE);
    if (!strstr(mq_message(), message)) fail_msg("\"%s\" lacks \"%s\"", mq_message(), message);
    assert_null(got.skip.item); /* freed already */
}

static void test_values(void **state)
{
    (void)state;
    assert_int_equal(parse("m --calib c.h5"), MQ_OK);
    assert_string_equal(got.model, "m");
    assert_string_equal(got.calib, "c.h5");
    assert_null(got.rest);
    assert_int_equal(got.bits, 4); /* left alone */
    assert_string_equal(got.format, "gptq");
    assert_false(got.json || args.help);
    assert_int_equal(got.skip.n, 0);
    mq_args_free(&args);

    assert_int_equal(parse("--json --bits=-1 m --calib=a=b --damp-percent 1e-3 --skip one "
                           "--skip=--two r --format="),
                     MQ_OK);
    assert_true(got.json);
    assert_int_equal(got.bits, -1);
    assert_string_equal(got.calib, "a=b");
    assert_true(got.damp == 1e-3);
    assert_false(got.auto_damp);
    assert_string_equal(got.rest, "r");
    assert_string_equal(got.format, "");
    assert_int_equal(got.skip.n, 2);
    assert_string_equal(got.skip.item[0], "one");
    assert_string_equal(got.skip.item[1], "--two");
    mq_args_free(&args);
    assert_null(got.skip.item);
    mq_args_free(&args); /* twice does no harm */
}

static void test_spellings(void **state)
{
    (void)state;
    assert_int_equal(parse("--calib c --bits -9223372036854775808 --bits 8 -- --json"), MQ_OK);
    assert_int_equal(got.bits, 8); /* the last one counts */
    assert_string_equal(got.model, "--json");
    assert_false(got.json);
    mq_args_free(&args);
    assert_int_equal(parse("- --calib - --json --json=false"), MQ_OK);
    assert_string_equal(got.model, "-");
    assert_string_equal(got.calib, "-");
    assert_false(got.json);
    mq_args_free(&args);
    static const char *const help[] = {"--help", "-h", "--bits nonsense --help", "--unknown -h"};
    for (size_t i = 0; i < sizeof help / sizeof *help; i++) {
        assert_int_equal(parse(help[i]), MQ_OK);
        assert_true(args.help);
        mq_args_free(&args);
    }
    assert_int_equal(parse("m --calib c -- --help"), MQ_OK);
    assert_false(args.help);
    mq_args_free(&args);
}

static void test_errors(void **state)
{
    (void)state;
    assert_usage("m --skip x", "--calib FILE is required: calibration tokens");
    assert_usage("--calib c --skip x", "MODEL is missing: folder of the model");
    assert_usage("m r third --calib c", "unexpected argument \"third\"");
    assert_usage("m --calib c --bits", "--bits needs a value");
    assert_usage("m --calib --bits 4", "--calib needs a value, found --bits");
    assert_usage("m --bits 4x", "--bits: expected an integer, found \"4x\"");
    assert_usage("m --bits @", "--bits: expected an integer, found \"\"");
    assert_usage("m --bits 4.0", "--bits: expected an integer");
    assert_usage("m --bits 9223372036854775808", "--bits: expected an integer");
    assert_usage("m --damp-percent nan", "--damp-percent: expected a finite number");
    assert_usage("m --damp-percent 1e999", "--damp-percent: expected a finite number");
    assert_usage("m --damp-percent 1,5", "--damp-percent: expected a finite number");
    assert_usage("m --json=yes", "--json: expected nothing, true or false");
}

static void test_unknown_options(void **state)
{
    (void)state;
    assert_usage("--skip x --bit 4", "unknown option --bit: did you mean --bits?");
    assert_usage("--formta gptq", "unknown option --formta: did you mean --format?");
    assert_usage("--damp_percent=3", "unknown option --damp_percent: did you mean --damp-percent?");
    assert_usage("--damp 3", "did you mean --damp-percent?"); /* begins like it */
    assert_usage("--cnfig f", "did you mean --config?");
    assert_usage("--halp", "did you mean --help?");
    assert_usage("--something-else", "unknown option --something-else: see mpiquant quantize");
    assert_usage("-b 4", "unknown option -b");
    char line[300] = "--";
    memset(line + 2, 'x', 250);
    assert_usage(line, "unknown option --xxx");
    mq_args_spec plain = spec;
    plain.takes_config = false;
    assert_int_equal(parse_with(&plain, "m --calib c --config f"), MQ_E_USAGE);
}

static void test_repeated_positionals(void **state)
{
    (void)state;
    const mq_positional files[] = {{"OUT", "folders", .texts = &got.files}};
    const mq_args_spec report = {"mpiquant report", "Reports.", files, 1, NULL, 0, false};
    assert_int_equal(parse_with(&report, "a b c"), MQ_OK);
    assert_int_equal(got.files.n, 3);
    assert_string_equal(got.files.item[2], "c");
    mq_args_free(&args);
    assert_null(got.files.item);
    assert_int_equal(parse_with(&report, ""), MQ_E_USAGE);
    assert_non_null(strstr(mq_message(), "OUT is missing"));
}

/* ---- config files --------------------------------------------------------------------------- */

static char config_path[] = "/tmp/mq_test_args_XXXXXX";

static int make_config(void **state)
{
    (void)state;
    int fd = mkstemp(config_path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_config(void **state)
{
    (void)state;
    return unlink(config_path);
}

static mq_status parse_config(const char *json, const char *line)
{
    char with_config[256];
    FILE *f = fopen(config_path, "w");
    assert_non_null(f);
    fputs(json, f);
    fclose(f);
    snprintf(with_config, sizeof with_config, "--config %s %s", config_path, line);
    return parse(with_config);
}

static void test_config(void **state)
{
    (void)state;
    assert_int_equal(parse_config("{\"bits\": 3, \"damp_percent\": 0.25, \"json\": true,"
                                  " \"skip\": [\"a\", \"b\"], \"calib\": \"f.h5\","
                                  " \"format\": null}",
                                  "m"),
                     MQ_OK);
    assert_int_equal(got.bits, 3);
    assert_true(got.damp == 0.25 && got.json);
    assert_int_equal(got.skip.n, 2);
    assert_string_equal(got.skip.item[1], "b");
    assert_string_equal(got.calib, "f.h5"); /* a required option may come from the file */
    assert_string_equal(got.format, "gptq");
    mq_args_free(&args);
    /* The command line wins, whatever the order; its list replaces the file's. */
    assert_int_equal(
        parse_config("{\"bits\": 3, \"skip\": \"a\", \"json\": true, \"calib\": \"f\"}",
                     "m --bits 8 --skip z --json=false"),
        MQ_OK);
    assert_int_equal(got.bits, 8);
    assert_false(got.json);
    assert_int_equal(got.skip.n, 1);
    assert_string_equal(got.skip.item[0], "z");
    mq_args_free(&args);
    assert_int_equal(parse_config("{\"damp-percent\": 1, \"skip\": \"one\"}", "m --calib c"),
                     MQ_OK);
    assert_true(got.damp == 1);
    assert_string_equal(got.skip.item[0], "one");
    mq_args_free(&args);
    assert_int_equal(parse_config("{\"skip\": []}", "m --calib c"), MQ_OK);
    assert_int_equal(got.skip.n, 0);
    mq_args_free(&args);
}

static void assert_config(const char *json, mq_status status, const char *message)
{
    assert_int_equal(parse_config(json, "m --calib c"), status);
    if (!strstr(mq_message(), message)) fail_msg("\"%s\" lacks \"%s\"", mq_message(), message);
    if (!strstr(mq_message(), config_path)) fail_msg("\"%s\" names no file", mq_message());
    assert_null(got.skip.item);
}

/* A word in the place of a number; the last of several counts, and the line before the file. */
static void test_word_for_number(void **state)
{
    (void)state;
    static const struct {
        const char *config, *line;
        bool word;
        double number;
    } cases[] = {
        {"{}", "m --calib c --damp-percent auto", true, 0.01},
        {"{}", "m --calib c --damp-percent auto --damp-percent=0.5", false, 0.5},
        {"{\"damp_percent\": \"auto\"}", "m --calib c", true, 0.01},
        {"{\"damp_percent\": \"auto\"}", "m --calib c --damp-percent 0.5", false, 0.5},
        {"{\"damp_percent\": 0.5}", "m --calib c --damp-percent auto", true, 0.01},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(parse_config(cases[i].config, cases[i].line), MQ_OK);
        assert_int_equal(got.auto_damp, cases[i].word);
        assert_true(got.damp == cases[i].number);
        mq_args_free(&args);
    }
    assert_usage("m --calib c --damp-percent Auto", "--damp-percent: expected a finite number");
}

static void test_config_errors(void **state)
{
    (void)state;
    assert_config("{\"bit\": 3}", MQ_E_USAGE, "unknown setting \"bit\": did you mean \"bits\"?");
    assert_config("{\"dampPercent\": 3}", MQ_E_USAGE, "did you mean \"damp-percent\"?");
    assert_config("{\"colour\": 3}", MQ_E_USAGE, "unknown setting \"colour\"");
    assert_config("{\"config\": \"f\"}", MQ_E_USAGE, "unknown setting \"config\"");
    assert_config("{\"bits\": 3.5}", MQ_E_USAGE, "\"bits\" must be an integer");
    assert_config("{\"bits\": \"3\"}", MQ_E_USAGE, "\"bits\" must be an integer");
    assert_config("{\"bits\": 1e300}", MQ_E_USAGE, "\"bits\" must be an integer");
    assert_config("{\"damp-percent\": 1e999}", MQ_E_USAGE, "must be a finite number");
    assert_config("{\"json\": 1}", MQ_E_USAGE, "\"json\" must be true or false");
    assert_config("{\"format\": 1}", MQ_E_USAGE, "\"format\" must be a string");
    assert_config("{\"skip\": [\"a\", 1]}", MQ_E_USAGE, "\"skip\" must be a string or an array");
    assert_config("{\"skip\": {\"a\": \"b\"}}", MQ_E_USAGE, "\"skip\" must be");
    assert_config("{\"damp-percent\": 1, \"damp_percent\": 2}", MQ_E_USAGE, "stands there twice");
    assert_config("[]", MQ_E_USAGE, "expected a JSON object");
    assert_config("{\"bits\": }", MQ_E_INPUT, "not valid JSON at line 1");
    assert_int_equal(parse("m --calib c --config /nonexistent/f.json"), MQ_E_IO);
    assert_non_null(strstr(mq_message(), "/nonexistent/f.json"));
}

/* ---- help ----------------------------------------------------------------------------------- */

static void test_help(void **state)
{
    (void)state;
    char *text = NULL;
    size_t length = 0;
    FILE *to = open_memstream(&text, &length);
    assert_non_null(to);
    mq_args_help(&spec, to);
    fclose(to);
    assert_string_equal(
        text, "usage: mpiquant quantize MODEL [REST] --calib FILE [options]\n"
              "\n"
              "Quantises a model.\n"
              "\n"
              "arguments:\n"
              "  MODEL                 folder of the model\n"
              "  REST                  another folder\n"
              "\n"
              "options:\n"
              "  --calib FILE          calibration tokens\n"
              "  --bits N              bits per weight (default: 4)\n"
              "  --damp-percent X      share of the mean diagonal (default: 0.01)\n"
              "  --format NAME         checkpoint format (default: gptq)\n"
              "  --skip REGEX          leave layers whose name matches alone; may be repeated\n"
              "  --json                print one JSON object on standard output\n"
              "  --config FILE         read settings from a JSON object whose keys are the\n"
              "                        names of these options; the command line wins over it\n"
              "  --help                print this text\n");
    free(text);
}

/* Long names, long words and long paragraphs: only a word that is longer itself passes 80 columns.
 */
static void test_help_wraps(void **state)
{
    (void)state;
    static int64_t n;
    const mq_option many[] = {
        {"--an-option-with-a-very-long-name", "NUMBER",
         "explained in so many words that they cannot stand on one line, and not on two lines "
         "either, if one counts how narrow the column is",
         "12", .integer = &n, .required = true},
        {"--eighteen-letters", "N", "on the same line", .integer = &n},
        {"--long", "X", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa b",
         .integer = &n},
    };
    const mq_args_spec wide = {"mpiquant something",
                               "A paragraph that is longer than the eighty "
                               "columns of a terminal and must go on in a second line.",
                               NULL,
                               0,
                               many,
                               3,
                               false};
    char *text = NULL;
    size_t length = 0;
    FILE *to = open_memstream(&text, &length);
    assert_non_null(to);
    mq_args_help(&wide, to);
    fclose(to);
    assert_non_null(strstr(text, "\n  --eighteen-letters N  on the same line\n"));
    assert_non_null(strstr(text, "very-long-name NUMBER\n                        explained in"));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        if (strlen(line) > 80 && !strstr(line, "aaaa"))
            fail_msg("%zu columns: %s", strlen(line), line);
        assert_true(line[strlen(line) - 1] != ' ');
    }
    free(text);
}

static void test_nearest(void **state)
{
    (void)state;
    static const struct {
        const char *word, *expected;
    } cases[] = {{"quantise", "quantize"}, {"quant", "quantize"}, {"evla", "eval"},
                 {"plan", "plan"},         {"verfy", "verify"},   {"", NULL},
                 {"zzzzzz", NULL},         {"pl", "plan"},        {"inspcet", "inspect"}};
    static const char *const names[] = {"quantize", "eval", "plan", "verify", "inspect"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mq_nearest near = {.word = cases[i].word};
        for (int k = 0; k < 5; k++) mq_nearest_offer(&near, names[k]);
        if (!cases[i].expected) {
            assert_null(near.best);
        } else {
            assert_non_null(near.best);
            assert_string_equal(near.best, cases[i].expected);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_unknown_options),
        cmocka_unit_test(test_repeated_positionals),
        cmocka_unit_test_setup_teardown(test_config, make_config, NULL),
        cmocka_unit_test(test_word_for_number),
        cmocka_unit_test_setup_teardown(test_config_errors, NULL, remove_config),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_help_wraps),
        cmocka_unit_test(test_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
