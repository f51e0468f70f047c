#ifndef MQ_BASE_JSON_H
#define MQ_BASE_JSON_H

#include "base/status.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

/* Typed access to cJSON values, with messages that name the file and the key. `where` is the file
 * or what stands for it. Everything but the safetensors header goes through here. */

/** Parses a text; caller frees with cJSON_Delete. Errors: MQ_E_INPUT naming line and column. */
mq_status mq_json_parse(const char *text, const char *where, cJSON **out);

/** The member at a dotted path ("rope_scaling.factor"), or NULL. JSON null counts as absent. */
const cJSON *mq_json_find(const cJSON *object, const char *path);

/** Required members. Errors: MQ_E_INPUT when absent or of another type. */
mq_status mq_json_int(const cJSON *object, const char *path, const char *where, int64_t *out);
mq_status mq_json_double(const cJSON *object, const char *path, const char *where, double *out);
mq_status mq_json_string(const cJSON *object, const char *path, const char *where,
                         const char **out);

/** Optional members: *out is left alone when absent. Errors: MQ_E_INPUT for another type. */
mq_status mq_json_int_or(const cJSON *object, const char *path, const char *where, int64_t *out);
mq_status mq_json_double_or(const cJSON *object, const char *path, const char *where, double *out);
mq_status mq_json_string_or(const cJSON *object, const char *path, const char *where,
                            const char **out);
mq_status mq_json_bool_or(const cJSON *object, const char *path, const char *where, bool *out);

/** Adds an integer of up to 53 bits, or a double with 17 significant digits; NaN and inf become
 *  null. Errors: MQ_E_MEMORY. */
mq_status mq_json_add_int(cJSON *object, const char *key, int64_t value);
mq_status mq_json_add_double(cJSON *object, const char *key, double value);
mq_status mq_json_add_string(cJSON *object, const char *key, const char *value);
mq_status mq_json_add_bool(cJSON *object, const char *key, bool value);
/** An array of n numbers, written like those. */
mq_status mq_json_add_ints(cJSON *object, const char *key, const int64_t *value, int64_t n);
mq_status mq_json_add_doubles(cJSON *object, const char *key, const double *value, int64_t n);
/** Adds an item and takes it over, also on failure. */
mq_status mq_json_add(cJSON *object, const char *key, cJSON *item);

/** Cuts the member `key` out of the text of a JSON object, which must have been parsed before, or
 *  out of its member `inside` where that is not ""; all else stays byte for byte. Nothing happens
 *  without such a member. */
void mq_json_cut(char *text, const char *inside, const char *key);

/** Text of a value, indented by two spaces, ending in a newline; free with cJSON_free. */
char *mq_json_print(const cJSON *value);

#endif
