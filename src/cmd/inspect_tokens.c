#include "cmd/inspect_tokens.h"

#include "base/json.h"
#include "base/memory.h"
#include "calib/calib.h"
#include "store/h5.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- as JSON --------------------------------------------------------------------------------- */

static mq_status add_value(cJSON *o, const mq_h5_entry *e)
{
    switch (e->kind) {
    case MQ_H5_INTEGER:
        return mq_json_add_int(o, "value", e->integer);
    case MQ_H5_REAL:
        return mq_json_add_double(o, "value", e->real);
    case MQ_H5_TEXT:
        return mq_json_add_string(o, "value", e->text);
    default:
        return MQ_OK;
    }
}

/* An mq_h5_visit: one more object in the array `context`. */
static mq_status add_entry(void *context, const mq_h5_entry *e)
{
    cJSON *o = cJSON_CreateObject();
    if (!cJSON_AddItemToArray(context, o)) {
        cJSON_Delete(o);
        return mq_fail(MQ_E_MEMORY, "no memory for JSON");
    }
    MQ_TRY(mq_json_add_string(o, "name", e->name));
    MQ_TRY(mq_json_add_string(o, "type", e->type));
    if (e->n_dims >= 0) MQ_TRY(mq_json_add_ints(o, "shape", e->dim, e->n_dims));
    return add_value(o, e);
}

static mq_status add_lists(cJSON *o, const char *path)
{
    mq_h5 *file = NULL;
    cJSON *attributes = cJSON_AddArrayToObject(o, "attributes");
    cJSON *members = cJSON_AddArrayToObject(o, "datasets");
    if (!attributes || !members) return mq_fail(MQ_E_MEMORY, "no memory for JSON");
    MQ_TRY(mq_h5_open(path, &file));
    mq_status status = mq_h5_list_attributes(file, add_entry, attributes);
    if (status == MQ_OK) status = mq_h5_list_members(file, add_entry, members);
    mq_h5_close(&file);
    return status;
}

static mq_status add_summary(cJSON *o, const mq_calib_summary *s)
{
    MQ_TRY(mq_json_add_string(o, "format", MQ_CALIB_FORMAT));
    MQ_TRY(mq_json_add_int(o, "version", MQ_CALIB_VERSION));
    if (s->vocab_size > 0) MQ_TRY(mq_json_add_int(o, "vocab_size", s->vocab_size));
    MQ_TRY(mq_json_add_string(o, "source", s->source));
    MQ_TRY(mq_json_add_int(o, "samples", s->n_samples));
    MQ_TRY(mq_json_add_int(o, "tokens", s->n_tokens));
    MQ_TRY(mq_json_add_int(o, "shortest", s->shortest));
    MQ_TRY(mq_json_add_int(o, "longest", s->longest));
    if (s->hidden > 0) {
        MQ_TRY(mq_json_add_int(o, "hidden", s->hidden));
        MQ_TRY(mq_json_add_bool(o, "has_tokens", s->has_tokens));
        if (s->n_deep > 0) MQ_TRY(mq_json_add_int(o, "deepstack", s->n_deep));
    }
    return s->n_axes > 0 ? mq_json_add_int(o, "positions", s->n_axes) : MQ_OK;
}

static mq_status print_json(const cJSON *o)
{
    char *text = mq_json_print(o);
    if (!text) return mq_fail(MQ_E_MEMORY, "no memory for JSON");
    fputs(text, stdout);
    cJSON_free(text);
    return MQ_OK;
}

/* ---- as a table ------------------------------------------------------------------------------ */

/* A line for every entry, with the member that says most about it. */
static mq_status print_entries(const char *title, const cJSON *list, const char *member)
{
    const cJSON *entry = NULL;
    printf("%-20s %-12s %s\n", title, "type", member);
    cJSON_ArrayForEach(entry, list)
    {
        const cJSON *last = mq_json_find(entry, member);
        char *text = last ? cJSON_PrintUnformatted(last) : NULL;
        if (last && !text) return mq_fail(MQ_E_MEMORY, "no memory for a table");
        printf("%-20s %-12s %s\n", mq_json_find(entry, "name")->valuestring,
               mq_json_find(entry, "type")->valuestring, text ? text : "");
        cJSON_free(text);
    }
    printf("\n");
    return MQ_OK;
}

static mq_status print_table(const cJSON *o, const mq_calib_summary *s)
{
    MQ_TRY(print_entries("attribute", mq_json_find(o, "attributes"), "value"));
    MQ_TRY(print_entries("dataset", mq_json_find(o, "datasets"), "shape"));
    printf("%" PRId64 " samples of %" PRId64 " to %" PRId64 " tokens, %" PRId64 " tokens\n",
           s->n_samples, s->shortest, s->longest, s->n_tokens);
    if (s->hidden > 0) {
        printf("rows of %" PRId64 " in the place of embeddings%s\n", s->hidden,
               s->has_tokens ? "" : "; no tokens, so not for eval");
        if (s->n_deep > 0) printf("rows to add behind the first %d blocks\n", s->n_deep);
    }
    if (s->n_axes > 0) {
        printf("positions: %d for each token\n", s->n_axes);
    }
    return MQ_OK;
}

mq_status mq_inspect_tokens(const char *path, bool json)
{
    mq_calib_summary summary;
    cJSON *o = cJSON_CreateObject();
    mq_status status = mq_calib_summarise(path, &summary);
    if (status == MQ_OK) status = add_summary(o, &summary);
    if (status == MQ_OK) status = add_lists(o, path);
    if (status == MQ_OK) status = json ? print_json(o) : print_table(o, &summary);
    mq_free(&summary.source);
    cJSON_Delete(o);
    return status;
}
