#include "base/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void position_of(const char *text, const char *at, int *line, int *column)
{
    *line = 1;
    *column = 1;
    for (const char *c = text; c < at; c++) {
        if (*c == '\n') {
            (*line)++;
            *column = 1;
        } else {
            (*column)++;
        }
    }
}

mq_status mq_json_parse(const char *text, const char *where, cJSON **out)
{
    const char *end = NULL;
    *out = cJSON_ParseWithOpts(text, &end, 1);
    if (*out) return MQ_OK;
    int line = 1, column = 1;
    if (end) position_of(text, end, &line, &column);
    return mq_fail(MQ_E_INPUT, "%s: not valid JSON at line %d, column %d", where, line, column);
}

const cJSON *mq_json_find(const cJSON *object, const char *path)
{
    const cJSON *at = object;
    while (at && *path) {
        char key[256];
        size_t n = strcspn(path, ".");
        if (n >= sizeof key) return NULL;
        memcpy(key, path, n);
        key[n] = '\0';
        at = cJSON_IsObject(at) ? cJSON_GetObjectItemCaseSensitive(at, key) : NULL;
        path += n + (path[n] == '.');
    }
    return at && !cJSON_IsNull(at) ? at : NULL;
}

static mq_status absent(const char *path, const char *where)
{
    return mq_fail(MQ_E_INPUT, "%s: \"%s\" is missing", where, path);
}

mq_status mq_json_int_or(const cJSON *object, const char *path, const char *where, int64_t *out)
{
    const cJSON *v = mq_json_find(object, path);
    if (!v) return MQ_OK;
    /* Doubles carry integers exactly up to 2^53; more is refused, not rounded. */
    if (!cJSON_IsNumber(v) || v->valuedouble != floor(v->valuedouble) ||
        fabs(v->valuedouble) > 0x1p53) {
        return mq_fail(MQ_E_INPUT, "%s: \"%s\" must be an integer", where, path);
    }
    *out = (int64_t)v->valuedouble;
    return MQ_OK;
}

mq_status mq_json_double_or(const cJSON *object, const char *path, const char *where, double *out)
{
    const cJSON *v = mq_json_find(object, path);
    if (!v) return MQ_OK;
    if (!cJSON_IsNumber(v) || !isfinite(v->valuedouble)) {
        return mq_fail(MQ_E_INPUT, "%s: \"%s\" must be a finite number", where, path);
    }
    *out = v->valuedouble;
    return MQ_OK;
}

mq_status mq_json_string_or(const cJSON *object, const char *path, const char *where,
                            const char **out)
{
    const cJSON *v = mq_json_find(object, path);
    if (!v) return MQ_OK;
    if (!cJSON_IsString(v)) return mq_fail(MQ_E_INPUT, "%s: \"%s\" must be a string", where, path);
    *out = v->valuestring;
    return MQ_OK;
}

mq_status mq_json_bool_or(const cJSON *object, const char *path, const char *where, bool *out)
{
    const cJSON *v = mq_json_find(object, path);
    if (!v) return MQ_OK;
    if (!cJSON_IsBool(v)) {
        return mq_fail(MQ_E_INPUT, "%s: \"%s\" must be true or false", where, path);
    }
    *out = cJSON_IsTrue(v);
    return MQ_OK;
}

mq_status mq_json_int(const cJSON *object, const char *path, const char *where, int64_t *out)
{
    return mq_json_find(object, path) ? mq_json_int_or(object, path, where, out)
                                      : absent(path, where);
}

mq_status mq_json_double(const cJSON *object, const char *path, const char *where, double *out)
{
    return mq_json_find(object, path) ? mq_json_double_or(object, path, where, out)
                                      : absent(path, where);
}

mq_status mq_json_string(const cJSON *object, const char *path, const char *where, const char **out)
{
    return mq_json_find(object, path) ? mq_json_string_or(object, path, where, out)
                                      : absent(path, where);
}

mq_status mq_json_add(cJSON *object, const char *key, cJSON *item)
{
    if (item && object && cJSON_AddItemToObject(object, key, item)) return MQ_OK;
    cJSON_Delete(item);
    return mq_fail(MQ_E_MEMORY, "no memory for the JSON member \"%s\"", key);
}

static cJSON *integer(int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    return cJSON_CreateRaw(text);
}

static cJSON *number(double value)
{
    char text[40];
    if (!isfinite(value)) return cJSON_CreateNull();
    snprintf(text, sizeof text, "%.17g", value);
    /* The shortest text that reads back as the same double. */
    for (int digits = 1; digits < 17; digits++) {
        char shorter[40];
        snprintf(shorter, sizeof shorter, "%.*g", digits, value);
        if (strtod(shorter, NULL) == value) {
            memcpy(text, shorter, sizeof text);
            break;
        }
    }
    return cJSON_CreateRaw(text);
}

/* The array with the item at its end; without memory NULL, and both are gone. */
static cJSON *append(cJSON *array, cJSON *item)
{
    if (array && item && cJSON_AddItemToArray(array, item)) return array;
    cJSON_Delete(item);
    cJSON_Delete(array);
    return NULL;
}

mq_status mq_json_add_int(cJSON *object, const char *key, int64_t value)
{
    return mq_json_add(object, key, integer(value));
}

mq_status mq_json_add_ints(cJSON *object, const char *key, const int64_t *value, int64_t n)
{
    cJSON *array = cJSON_CreateArray();
    for (int64_t i = 0; i < n; i++) array = append(array, integer(value[i]));
    return mq_json_add(object, key, array);
}

mq_status mq_json_add_double(cJSON *object, const char *key, double value)
{
    return mq_json_add(object, key, number(value));
}

mq_status mq_json_add_doubles(cJSON *object, const char *key, const double *value, int64_t n)
{
    cJSON *array = cJSON_CreateArray();
    for (int64_t i = 0; i < n; i++) array = append(array, number(value[i]));
    return mq_json_add(object, key, array);
}

mq_status mq_json_add_string(cJSON *object, const char *key, const char *value)
{
    return mq_json_add(object, key, cJSON_CreateString(value));
}

mq_status mq_json_add_bool(cJSON *object, const char *key, bool value)
{
    return mq_json_add(object, key, cJSON_CreateBool(value));
}

/* cJSON_Print indents with tabs; turn those into two spaces each. A tab inside a string is always
 * escaped, so a raw tab can only be indentation or the one cJSON puts after a colon. */
static char *tabs_to_spaces(const char *text)
{
    size_t n = strlen(text), tabs = 0;
    for (size_t i = 0; i < n; i++) tabs += text[i] == '\t';
    char *out = cJSON_malloc(n + tabs + 2), *at = out;
    if (!out) return NULL;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\t' && i > 0 && text[i - 1] == ':') {
            *at++ = ' ';
        } else if (text[i] == '\t') {
            *at++ = ' ';
            *at++ = ' ';
        } else {
            *at++ = text[i];
        }
    }
    *at++ = '\n';
    *at = '\0';
    return out;
}

char *mq_json_print(const cJSON *value)
{
    char *text = cJSON_Print(value);
    if (!text) return NULL;
    char *out = tabs_to_spaces(text);
    cJSON_free(text);
    return out;
}

/* The end of the string that begins at *at, past its quote. */
static char *string_end(char *at)
{
    for (at++; *at != '"'; at++) {
        if (*at == '\\') at++;
    }
    return at + 1;
}

/* The member's key in an object's text, and the byte before which it can be cut off; NULL without
 * such a member. */
static char *find_member(char *text, const char *key, char **comma)
{
    size_t length = strlen(key);
    int depth = 0;
    bool is_key = true; /* the next string of the outermost object */
    *comma = NULL;
    for (char *at = text; *at; at++) {
        if (*at == '"') {
            char *end = string_end(at);
            bool same = (size_t)(end - at) == length + 2 && memcmp(at + 1, key, length) == 0;
            if (depth == 1 && is_key && same) return at;
            if (depth == 1) is_key = false;
            at = end - 1;
        } else if (*at == ',' && depth == 1) {
            is_key = true;
            *comma = at;
        }
        depth += *at == '{' || *at == '[';
        depth -= *at == '}' || *at == ']';
        if (depth == 0 && *at == '}') break;
    }
    return NULL;
}

/* Behind a member's key and colon. */
static char *value_of(char *key)
{
    char *value = strchr(string_end(key), ':') + 1;
    return value + strspn(value, " \t\r\n");
}

void mq_json_cut(char *text, const char *inside, const char *key)
{
    char *comma = NULL, *begin = text;
    const char *end = NULL;
    if (inside[0]) {
        begin = find_member(text, inside, &comma);
        begin = begin ? value_of(begin) : NULL;
        if (!begin || *begin != '{') return;
    }
    begin = find_member(begin, key, &comma);
    if (!begin) return;
    cJSON *value = cJSON_ParseWithOpts(value_of(begin), &end, 0);
    cJSON_Delete(value);
    size_t rest = strspn(end, " \t\r\n");
    if (comma) {
        begin = comma;
    } else if (end[rest] == ',') {
        end += rest + 1;
        end += strspn(end, " \t\r\n");
    }
    memmove(begin, end, strlen(end) + 1);
}
