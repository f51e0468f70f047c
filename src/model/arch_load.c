#include "base/file.h"
#include "base/memory.h"
#include "model/arch_parse.h"
#include "model/arch_texts.h"
#include "par/collectives.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* No descriptor or config.json of use is larger. */
static const size_t text_limit = (size_t)4 << 20;

const char *mq_data_folder(void)
{
    static char folder[4096];
    const char *set = getenv("MPIQUANT_DATA");
    if (set && set[0]) {
        snprintf(folder, sizeof folder, "%s", set);
        return folder;
    }
    char program[2048];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(program, '/');
    if (slash) {
        *slash = '\0';
        snprintf(folder, sizeof folder, "%s/../share/mpiquant", program);
        if (mq_is_folder(folder)) return folder;
    }
    return mq_is_folder(MQ_SOURCE_DATA) ? MQ_SOURCE_DATA : MQ_INSTALLED_DATA;
}

/* ---- rank 0 finds the texts ----------------------------------------------------------------- */

enum { CONFIG, DESCRIPTOR, COMMON, WHERE, N_TEXTS };

static mq_status read_in(const char *folder, const char *name, char **text)
{
    char *path = NULL;
    mq_status status = mq_path_join(folder, name, &path);
    if (status == MQ_OK) status = mq_read_text(path, text_limit, text, NULL);
    mq_free(&path);
    return status;
}

static int is_descriptor(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 5 && strcmp(entry->d_name + n - 5, ".json") == 0 &&
           strcmp(entry->d_name, "common.json") != 0;
}

static mq_status visit_file(const char *folder, const char *name, mq_descriptor_visit *visit,
                            void *context)
{
    char *text = NULL;
    cJSON *json = NULL;
    mq_status status = read_in(folder, name, &text);
    if (status == MQ_OK) status = mq_json_parse(text, name, &json);
    if (status == MQ_OK) status = visit(context, text, json);
    cJSON_Delete(json);
    mq_free(&text);
    return status;
}

static mq_status visit_all(const char *folder, mq_descriptor_visit *visit, void *context)
{
    struct dirent **entries = NULL;
    mq_status status = MQ_OK;
    int n = scandir(folder, &entries, is_descriptor, alphasort);
    if (n <= 0) {
        free(entries);
        return mq_fail(MQ_E_IO,
                       "%s: no model descriptors there; set MPIQUANT_DATA to the folder "
                       "that holds arch/*.json",
                       folder);
    }
    for (int i = 0; i < n; i++) {
        if (status == MQ_OK) status = visit_file(folder, entries[i]->d_name, visit, context);
        free(entries[i]);
    }
    free(entries);
    return status;
}

mq_status mq_arch_each_descriptor(mq_descriptor_visit *visit, void *context)
{
    char *folder = NULL;
    mq_status status = mq_path_join(mq_data_folder(), "arch", &folder);
    if (status == MQ_OK) status = visit_all(folder, visit, context);
    mq_free(&folder);
    return status;
}

mq_status mq_arch_read_common(char **text)
{
    char *folder = NULL;
    mq_status status = mq_path_join(mq_data_folder(), "arch", &folder);
    if (status == MQ_OK) status = read_in(folder, "common.json", text);
    mq_free(&folder);
    return status;
}

/* ---- the one that lists a model type -------------------------------------------------------- */

typedef struct search {
    const char *model_type; /* wanted */
    char *text;             /* of the descriptor that has it; NULL so far */
    char known[1024];       /* model types seen, for the message */
} search;

bool mq_descriptor_lists(const cJSON *descriptor, const char *model_type)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(descriptor, "model_types"))
    {
        if (cJSON_IsString(item) && strcmp(item->valuestring, model_type) == 0) return true;
    }
    return false;
}

static void note_known(search *s, const cJSON *descriptor)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(descriptor, "model_types"))
    {
        const char *name = cJSON_GetStringValue(item);
        size_t used = strlen(s->known);
        if (!name) continue;
        snprintf(s->known + used, sizeof s->known - used, "%s%s", used ? ", " : "", name);
    }
}

/* An mq_descriptor_visit. */
static mq_status look_into(void *context, const char *text, const cJSON *descriptor)
{
    search *s = context;
    size_t bytes = strlen(text) + 1;
    note_known(s, descriptor);
    if (s->text || !mq_descriptor_lists(descriptor, s->model_type)) return MQ_OK;
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "descriptor", &s->text));
    memcpy(s->text, text, bytes);
    return MQ_OK;
}

static mq_status find_descriptor(const char *model_type, const char *where, char **text)
{
    search s = {.model_type = model_type};
    mq_status status = mq_arch_each_descriptor(look_into, &s);
    if (status == MQ_OK && !s.text) {
        status = mq_fail(MQ_E_INPUT,
                         "%s: model_type \"%s\" is not known; this version knows %s. `mpiquant "
                         "inspect --arch` says which of them is nearest",
                         where, model_type, s.known);
    }
    if (status == MQ_OK) {
        *text = s.text;
    } else {
        mq_free(&s.text);
    }
    return status;
}

static mq_status find_by_config(char *text[N_TEXTS])
{
    cJSON *config = NULL;
    const char *model_type = NULL;
    mq_status status = mq_json_parse(text[CONFIG], text[WHERE], &config);
    if (status == MQ_OK) status = mq_json_string(config, "model_type", text[WHERE], &model_type);
    if (status == MQ_OK) status = find_descriptor(model_type, text[WHERE], &text[DESCRIPTOR]);
    cJSON_Delete(config);
    return status;
}

/* ---- config.json ---------------------------------------------------------------------------- */

/* text becomes that of the object with `settings` as its "quantization_config". Takes settings. */
static mq_status add_settings(cJSON *config, cJSON *settings, char **text)
{
    char *printed = NULL;
    bool named = cJSON_HasObjectItem(settings, "quant_method") ||
                 cJSON_AddStringToObject(settings, "quant_method", "gptq");
    cJSON_AddItemToObject(config, "quantization_config", settings);
    if (named) printed = cJSON_PrintUnformatted(config);
    if (!printed) return mq_fail(MQ_E_MEMORY, "no memory for the model's settings");
    mq_free(text);
    size_t bytes = strlen(printed) + 1;
    mq_status status = mq_alloc((int64_t)bytes, 1, "the model's settings", text);
    if (status == MQ_OK) memcpy(*text, printed, bytes);
    cJSON_free(printed);
    return status;
}

/* Old GPTQ folders say how they are quantised in a file of its own alone. */
static mq_status take_quantize_config(const char *model, const char *where, char **text)
{
    char *path = NULL, *separate = NULL;
    cJSON *config = NULL, *settings = NULL;
    mq_status status = mq_path_join(model, "quantize_config.json", &path);
    if (status == MQ_OK) status = mq_json_parse(*text, where, &config);
    bool wanted = status == MQ_OK && !cJSON_HasObjectItem(config, "quantization_config");
    if (wanted && access(path, F_OK) == 0) {
        status = mq_read_text(path, text_limit, &separate, NULL);
        if (status == MQ_OK) status = mq_json_parse(separate, path, &settings);
        if (status == MQ_OK && !cJSON_IsObject(settings)) {
            cJSON_Delete(settings);
            status = mq_fail(MQ_E_INPUT, "%s: is not a JSON object", path);
        }
        if (status == MQ_OK) status = add_settings(config, settings, text);
    }
    cJSON_Delete(config);
    mq_free(&separate);
    mq_free(&path);
    return status;
}

mq_status mq_arch_read_config(const char *model, char **where, char **config)
{
    if (!mq_is_folder(model)) return mq_fail(MQ_E_IO, "%s: no such model folder", model);
    MQ_TRY(mq_path_join(model, "config.json", where));
    MQ_TRY(mq_read_text(*where, text_limit, config, NULL));
    return take_quantize_config(model, *where, config);
}

static mq_status find_texts(const char *model, char *text[N_TEXTS])
{
    MQ_TRY(mq_arch_read_config(model, &text[WHERE], &text[CONFIG]));
    MQ_TRY(find_by_config(text));
    return mq_arch_read_common(&text[COMMON]);
}

/* ---- all ranks ------------------------------------------------------------------------------ */

static mq_status share_texts(const mq_comm *comm, const char *model, char *text[N_TEXTS])
{
    MQ_TRY(mq_agree(comm, comm->rank == 0 ? find_texts(model, text) : MQ_OK));
    mq_status status = MQ_OK;
    for (int i = 0; i < N_TEXTS && status == MQ_OK; i++) {
        status = mq_bcast_text(comm, &text[i], 0);
    }
    return status;
}

mq_status mq_arch_load(const mq_comm *comm, const char *model, mq_arch **out)
{
    char *text[N_TEXTS] = {NULL};
    mq_arch *arch = NULL;
    *out = NULL;
    mq_status status = mq_agree(comm, share_texts(comm, model, text));
    if (status == MQ_OK) {
        status = mq_alloc(1, sizeof *arch, "architecture", &arch);
        if (status == MQ_OK) {
            status = mq_arch_parse(text[CONFIG], text[WHERE], text[DESCRIPTOR], text[COMMON], arch);
        }
        status = mq_agree(comm, status);
    }
    for (int i = 0; i < N_TEXTS; i++) mq_free(&text[i]);
    if (status != MQ_OK) mq_arch_destroy(&arch);
    *out = arch;
    return status;
}
