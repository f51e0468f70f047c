#include "cmd/inspect_arch_text.h"

#include "base/memory.h"
#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

static const char *string_of(const cJSON *o, const char *key)
{
    const char *text = cJSON_GetStringValue(mq_json_find(o, key));
    return text ? text : "";
}

/* As mq_json_add_int wrote it. */
static const char *number_of(const cJSON *o, const char *key)
{
    const cJSON *item = mq_json_find(o, key);
    return cJSON_IsRaw(item) ? item->valuestring : "?";
}

/* A text from a file, which must not tell the terminal what to do. */
static void print_safe(const char *text)
{
    char line[512];
    snprintf(line, sizeof line, "%s", text);
    mq_make_printable(line);
    fputs(line, stdout);
}

static void print_descriptor(const cJSON *o)
{
    const cJSON *item = NULL;
    printf("model_type      ");
    print_safe(string_of(o, "model_type"));
    if (cJSON_IsTrue(mq_json_find(o, "known"))) {
        printf("\ndescriptor      configs/arch/%s.json\n", string_of(o, "family"));
        return;
    }
    printf("\ndescriptor      none lists this model_type; the nearest are\n");
    cJSON_ArrayForEach(item, mq_json_find(o, "nearest"))
    {
        printf("                  %-12s %s of %s names of tensors alike, %s findings in "
               "config.json\n",
               string_of(item, "family"), number_of(item, "names_alike"), number_of(item, "names"),
               number_of(item, "config_findings"));
    }
    printf("                what follows reads it as configs/arch/%s.json would: copy that\n",
           string_of(o, "family"));
}

static mq_status print_read(const cJSON *o)
{
    const cJSON *item = NULL;
    printf("\nread from config.json\n");
    cJSON_ArrayForEach(item, mq_json_find(o, "read"))
    {
        char *value = cJSON_PrintUnformatted(item);
        if (!value) return mq_fail(MQ_E_MEMORY, "no memory for a table");
        printf("  %-20s %s\n", item->string, value);
        cJSON_free(value);
    }
    return MQ_OK;
}

static void print_mapped(const cJSON *o)
{
    const cJSON *item = NULL;
    if (!cJSON_IsTrue(mq_json_find(o, "weights"))) {
        printf("\ntensors: there are no safetensors in this folder, so none were looked for\n");
        return;
    }
    if (!cJSON_IsTrue(mq_json_find(o, "tensors_checked"))) {
        printf("\ntensors: not looked for, because of what follows\n");
        return;
    }
    printf("\n%-16s %10s %18s\n", "tensors mapped", "number", "bytes");
    cJSON_ArrayForEach(item, mq_json_find(o, "mapped"))
    {
        printf("  %-14s %10s %18s\n", string_of(item, "role"), number_of(item, "tensors"),
               number_of(item, "bytes"));
    }
}

/* Whether two names differ in their numbers only. */
static bool same_but_numbers(const char *a, const char *b)
{
    static const char digits[] = "0123456789";
    while (*a && *b) {
        size_t n = strspn(a, digits), m = strspn(b, digits);
        if ((n > 0) != (m > 0)) return false;
        if (n == 0 && *a != *b) return false;
        a += n ? n : 1;
        b += m ? m : 1;
    }
    return *a == *b;
}

static const char *name_of(const cJSON *item)
{
    return cJSON_IsString(item) ? item->valuestring : string_of(item, "name");
}

static mq_status print_one(const cJSON *item, int more)
{
    const cJSON *shape = mq_json_find(item, "shape");
    const char *message = string_of(item, "message");
    printf("  ");
    print_safe(message[0] ? message : name_of(item));
    if (shape && !message[0]) {
        char *text = cJSON_PrintUnformatted(shape);
        if (!text) return mq_fail(MQ_E_MEMORY, "no memory for a table");
        printf("  %s", text);
        cJSON_free(text);
    }
    if (more > 0) printf("  and %d more that differ in numbers", more);
    printf("\n");
    return MQ_OK;
}

/* A list of tensors, those of all blocks in one line. */
static mq_status print_tensors(const cJSON *o, const char *key, const char *title)
{
    const cJSON *list = mq_json_find(o, key);
    int n = cJSON_GetArraySize(list);
    bool *done = NULL;
    mq_status status = MQ_OK;
    if (n == 0) return MQ_OK;
    MQ_TRY(mq_alloc(n, sizeof *done, "a table", &done));
    printf("\n%s: %d\n", title, n);
    int i = 0;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        int more = 0, j = i + 1;
        if (done[i++]) continue;
        for (const cJSON *other = item->next; other; other = other->next, j++) {
            if (done[j] || !same_but_numbers(name_of(item), name_of(other))) continue;
            done[j] = true;
            more++;
        }
        status = print_one(item, more);
        if (status != MQ_OK) break;
    }
    mq_free(&done);
    return status;
}

static void print_texts(const cJSON *o, const char *key, const char *title)
{
    const cJSON *list = mq_json_find(o, key), *item = NULL;
    if (cJSON_GetArraySize(list) == 0) return;
    printf("\n%s: %d\n", title, cJSON_GetArraySize(list));
    cJSON_ArrayForEach(item, list)
    {
        printf("  ");
        print_safe(item->valuestring);
        printf("\n");
    }
}

mq_status mq_inspect_arch_text(const cJSON *o)
{
    print_descriptor(o);
    MQ_TRY(print_read(o));
    print_mapped(o);
    print_texts(o, "config", "wrong in config.json or the descriptor");
    print_texts(o, "unknown_keys", "keys of config.json that nobody reads");
    MQ_TRY(print_tensors(o, "missing", "tensors missing (with the shape expected)"));
    MQ_TRY(print_tensors(o, "wrong", "tensors of another shape or type"));
    MQ_TRY(print_tensors(o, "unmapped", "tensors that have no place in the model"));
    bool good = cJSON_IsTrue(mq_json_find(o, "quantisable"));
    bool weights = cJSON_IsTrue(mq_json_find(o, "weights"));
    if (good) printf("\n%s\n", weights ? "can be quantised" : "config.json can be read");
    return MQ_OK;
}
