#include "base/args.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/nearest.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A file of settings is small; more is a mistake. */
static const size_t config_limit = 1 << 20;

typedef struct parser {
    const mq_args_spec *spec;
    mq_args *args;
    int argc;
    char **argv;
    bool *given;             /* (n_options) on the command line or in the file */
    const char **positional; /* (argc) */
    int n_positional;
    const char *config_path;
} parser;

/* ---- one value ------------------------------------------------------------------------------ */

static mq_status parse_integer(const char *name, const char *text, int64_t *out)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno != 0) {
        return mq_fail(MQ_E_USAGE, "%s: expected an integer, found \"%s\"", name, text);
    }
    *out = value;
    return MQ_OK;
}

static mq_status parse_number(const char *name, const char *text, double *out)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value)) {
        return mq_fail(MQ_E_USAGE, "%s: expected a finite number, found \"%s\"", name, text);
    }
    *out = value;
    return MQ_OK;
}

static mq_status parse_number_or_word(const mq_option *o, const char *text)
{
    bool word = o->word && strcmp(text, o->word) == 0;
    if (o->word) *o->word_given = word;
    return word ? MQ_OK : parse_number(o->name, text, o->number);
}

static mq_status parse_flag(const char *name, const char *text, bool *out)
{
    bool yes = !text || strcmp(text, "true") == 0;
    if (!yes && strcmp(text, "false") != 0) {
        return mq_fail(MQ_E_USAGE, "%s: expected nothing, true or false, found \"%s\"", name, text);
    }
    *out = yes;
    return MQ_OK;
}

/* Adds to a list that never outgrows `most`. */
static mq_status append(mq_texts *texts, int64_t most, const char *text)
{
    if (!texts->item) MQ_TRY(mq_alloc(most, sizeof *texts->item, "arguments", &texts->item));
    texts->item[texts->n++] = text;
    return MQ_OK;
}

static mq_status set_from_text(const parser *p, const mq_option *o, const char *text)
{
    if (o->flag) return parse_flag(o->name, text, o->flag);
    if (o->integer) return parse_integer(o->name, text, o->integer);
    if (o->number) return parse_number_or_word(o, text);
    if (o->texts) return append(o->texts, p->argc, text);
    *o->text = text;
    return MQ_OK;
}

/* ---- the command line ----------------------------------------------------------------------- */

static mq_status unknown_option(const parser *p, const char *name)
{
    mq_nearest near = {.word = name};
    for (int i = 0; i < p->spec->n_options; i++) mq_nearest_offer(&near, p->spec->options[i].name);
    if (p->spec->takes_config) mq_nearest_offer(&near, "--config");
    mq_nearest_offer(&near, "--help");
    if (near.best) {
        return mq_fail(MQ_E_USAGE, "unknown option %s: did you mean %s?", name, near.best);
    }
    return mq_fail(MQ_E_USAGE, "unknown option %s: see %s --help", name, p->spec->name);
}

static int find_option(const parser *p, const char *name)
{
    for (int i = 0; i < p->spec->n_options; i++) {
        if (strcmp(p->spec->options[i].name, name) == 0) return i;
    }
    return -1;
}

/* The value behind `=`, or the next argument, which *at then passes over. */
static mq_status value_of(const parser *p, const char *name, const char *inline_value, int *at,
                          const char **value)
{
    *value = inline_value;
    if (inline_value) return MQ_OK;
    bool none = *at + 1 >= p->argc;
    if (none || strncmp(p->argv[*at + 1], "--", 2) == 0) {
        return mq_fail(MQ_E_USAGE, "%s needs a value%s%s%s", name, none ? "" : ", found ",
                       none ? "" : p->argv[*at + 1],
                       none ? "" : " (write NAME=VALUE for a value that begins with --)");
    }
    *value = p->argv[++*at];
    return MQ_OK;
}

static mq_status take_option(parser *p, int *at)
{
    const char *word = p->argv[*at], *equals = strchr(word, '='), *value = NULL;
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    char name[128];
    if (length >= sizeof name) return mq_fail(MQ_E_USAGE, "unknown option %.100s...", word);
    memcpy(name, word, length);
    name[length] = '\0';
    const char *inline_value = equals ? equals + 1 : NULL;
    if (p->spec->takes_config && strcmp(name, "--config") == 0) {
        return value_of(p, name, inline_value, at, &p->config_path);
    }
    int i = find_option(p, name);
    if (i < 0) return unknown_option(p, name);
    const mq_option *o = &p->spec->options[i];
    if (o->flag) {
        value = inline_value;
    } else {
        MQ_TRY(value_of(p, name, inline_value, at, &value));
    }
    p->given[i] = true;
    return set_from_text(p, o, value);
}

static mq_status read_command_line(parser *p)
{
    bool options_end = false;
    for (int at = 1; at < p->argc; at++) {
        const char *word = p->argv[at];
        if (options_end || word[0] != '-' || word[1] == '\0') {
            p->positional[p->n_positional++] = word;
        } else if (strcmp(word, "--") == 0) {
            options_end = true;
        } else {
            MQ_TRY(take_option(p, &at));
        }
    }
    return MQ_OK;
}

static mq_status deal_positionals(const parser *p)
{
    int next = 0;
    for (int i = 0; i < p->spec->n_positionals; i++) {
        const mq_positional *to = &p->spec->positionals[i];
        if (next == p->n_positional && !to->optional) {
            return mq_fail(MQ_E_USAGE, "%s is missing: %s", to->name, to->help);
        }
        if (to->text && next < p->n_positional) *to->text = p->positional[next++];
        while (to->texts && next < p->n_positional) {
            MQ_TRY(append(to->texts, p->argc, p->positional[next++]));
        }
    }
    if (next == p->n_positional) return MQ_OK;
    return mq_fail(MQ_E_USAGE, "unexpected argument \"%s\": see %s --help", p->positional[next],
                   p->spec->name);
}

/* ---- the config file ------------------------------------------------------------------------ */

static mq_status wrong_type(const parser *p, const char *key, const char *expected)
{
    return mq_fail(MQ_E_USAGE, "%s: \"%s\" must be %s", p->config_path, key, expected);
}

static bool all_strings(const cJSON *array)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, array)
    {
        if (!cJSON_IsString(item)) return false;
    }
    return cJSON_IsArray(array);
}

static mq_status set_texts(const parser *p, const mq_option *o, const cJSON *value)
{
    const cJSON *item = NULL;
    if (cJSON_IsString(value)) return append(o->texts, 1, value->valuestring);
    if (!all_strings(value)) return wrong_type(p, value->string, "a string or an array of strings");
    int64_t n = cJSON_GetArraySize(value);
    cJSON_ArrayForEach(item, value) MQ_TRY(append(o->texts, n, item->valuestring));
    return MQ_OK;
}

static mq_status set_from_json(const parser *p, const mq_option *o, const cJSON *value)
{
    double number = cJSON_IsNumber(value) ? value->valuedouble : (double)NAN;
    if (o->texts) return set_texts(p, o, value);
    if (o->flag) {
        if (!cJSON_IsBool(value)) return wrong_type(p, value->string, "true or false");
        *o->flag = cJSON_IsTrue(value);
    } else if (o->integer) {
        /* Doubles carry integers exactly up to 2^53. */
        bool good = fabs(number) <= 0x1p53 && number == floor(number);
        if (!good) return wrong_type(p, value->string, "an integer");
        *o->integer = (int64_t)number;
    } else if (o->number && o->word && cJSON_IsString(value)) {
        return parse_number_or_word(o, value->valuestring);
    } else if (o->number) {
        if (!isfinite(number)) return wrong_type(p, value->string, "a finite number");
        *o->number = number;
    } else {
        if (!cJSON_IsString(value)) return wrong_type(p, value->string, "a string");
        *o->text = value->valuestring;
    }
    return MQ_OK;
}

/* The option a key stands for. */
static mq_status find_key(const parser *p, const char *key, int *option)
{
    char name[128] = "--";
    size_t n = strlen(key);
    if (n + 3 > sizeof name) {
        return mq_fail(MQ_E_USAGE, "%s: unknown setting \"%.100s...\"", p->config_path, key);
    }
    for (size_t i = 0; i <= n; i++) name[i + 2] = key[i] == '_' ? '-' : key[i];
    *option = find_option(p, name);
    if (*option >= 0) return MQ_OK;
    mq_nearest near = {.word = name};
    for (int i = 0; i < p->spec->n_options; i++) mq_nearest_offer(&near, p->spec->options[i].name);
    return mq_fail(MQ_E_USAGE, "%s: unknown setting \"%s\"%s%s%s", p->config_path, key,
                   near.best ? ": did you mean \"" : "", near.best ? near.best + 2 : "",
                   near.best ? "\"?" : "");
}

/* in_file (n_options) finds a setting that stands there twice, be it once with '-' and once with
 * '_'; which of the two was meant nobody can tell. */
static mq_status apply_config(parser *p, bool *in_file)
{
    const cJSON *value = NULL;
    cJSON_ArrayForEach(value, p->args->config)
    {
        int i = 0;
        MQ_TRY(find_key(p, value->string, &i));
        if (in_file[i]) {
            return mq_fail(MQ_E_USAGE, "%s: \"%s\" stands there twice", p->config_path,
                           value->string);
        }
        in_file[i] = true;
        if (p->given[i] || cJSON_IsNull(value)) continue;
        MQ_TRY(set_from_json(p, &p->spec->options[i], value));
        p->given[i] = true;
    }
    return MQ_OK;
}

static mq_status read_config(parser *p)
{
    char *text = NULL;
    bool *in_file = NULL;
    if (!p->config_path) return MQ_OK;
    mq_status status = mq_read_text(p->config_path, config_limit, &text, NULL);
    if (status == MQ_OK) status = mq_json_parse(text, p->config_path, &p->args->config);
    if (status == MQ_OK && !cJSON_IsObject(p->args->config)) {
        status = mq_fail(MQ_E_USAGE, "%s: expected a JSON object of settings", p->config_path);
    }
    if (status == MQ_OK) {
        status = mq_alloc(p->spec->n_options, sizeof *in_file, "settings", &in_file);
    }
    if (status == MQ_OK) status = apply_config(p, in_file);
    mq_free(&in_file);
    mq_free(&text);
    return status;
}

/* ---- all of it ------------------------------------------------------------------------------ */

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    }
    return false;
}

static mq_status check_required(const parser *p)
{
    for (int i = 0; i < p->spec->n_options; i++) {
        const mq_option *o = &p->spec->options[i];
        if (o->required && !p->given[i]) {
            return mq_fail(MQ_E_USAGE, "%s %s is required: %s", o->name, o->metavar, o->help);
        }
    }
    return MQ_OK;
}

mq_status mq_args_parse(const mq_args_spec *spec, int argc, char **argv, mq_args *args)
{
    *args = (mq_args){.spec = spec, .help = asks_for_help(argc, argv)};
    if (args->help) return MQ_OK;
    parser p = {.spec = spec, .args = args, .argc = argc, .argv = argv};
    mq_status status = mq_alloc(spec->n_options, sizeof *p.given, "options", &p.given);
    if (status == MQ_OK) status = mq_alloc(argc, sizeof *p.positional, "arguments", &p.positional);
    if (status == MQ_OK) status = read_command_line(&p);
    if (status == MQ_OK) status = read_config(&p);
    if (status == MQ_OK) status = deal_positionals(&p);
    if (status == MQ_OK) status = check_required(&p);
    mq_free(&p.given);
    mq_free(&p.positional);
    if (status != MQ_OK) mq_args_free(args);
    return status;
}

static void free_texts(mq_texts *texts)
{
    if (!texts) return;
    mq_free(&texts->item);
    texts->n = 0;
}

void mq_args_free(mq_args *args)
{
    const mq_args_spec *spec = args->spec;
    for (int i = 0; spec && i < spec->n_options; i++) free_texts(spec->options[i].texts);
    for (int i = 0; spec && i < spec->n_positionals; i++) free_texts(spec->positionals[i].texts);
    cJSON_Delete(args->config);
    *args = (mq_args){0};
}
