#include "cmd/inspect_arch.h"

#include "cmd/inspect_arch_text.h"
#include "model/arch_parse.h"
#include "model/survey.h"

#include <stdio.h>
#include <string.h>

/* ---- as JSON --------------------------------------------------------------------------------- */

static mq_status no_memory(void)
{
    return mq_fail(MQ_E_MEMORY, "no memory for JSON");
}

static mq_status new_object(cJSON *list, cJSON **out)
{
    *out = cJSON_CreateObject();
    if (cJSON_AddItemToArray(list, *out)) return MQ_OK;
    cJSON_Delete(*out);
    return no_memory();
}

static mq_status add_nearest(cJSON *o, const mq_survey *s)
{
    cJSON *list = cJSON_AddArrayToObject(o, "nearest"), *item = NULL;
    if (!list) return no_memory();
    for (int i = 0; i < s->n_near; i++) {
        MQ_TRY(new_object(list, &item));
        MQ_TRY(mq_json_add_string(item, "family", s->near[i].family));
        MQ_TRY(mq_json_add_int(item, "names_alike", s->near[i].alike));
        MQ_TRY(mq_json_add_int(item, "names", s->near[i].names));
        MQ_TRY(mq_json_add_int(item, "config_findings", s->near[i].trouble));
    }
    return MQ_OK;
}

/* Number and bytes of the tensors of every role, in the order in which the roles turn up. */
static mq_status add_mapped(cJSON *o, const mq_survey *s)
{
    cJSON *list = cJSON_AddArrayToObject(o, "mapped"), *item = NULL;
    if (!list) return no_memory();
    for (int64_t first = 0; s->role && first < s->folder->n_tensors; first++) {
        const char *role = s->role[first];
        int64_t n = 0, bytes = 0;
        bool seen = false;
        for (int64_t i = 0; i < first && role && !seen; i++) seen = s->role[i] == role;
        if (!role || seen) continue;
        for (int64_t i = first; i < s->folder->n_tensors; i++) {
            const mq_tensor *t = &s->folder->tensor[i];
            if (s->role[i] != role) continue;
            n++;
            bytes += (int64_t)(t->end - t->begin);
        }
        MQ_TRY(new_object(list, &item));
        MQ_TRY(mq_json_add_string(item, "role", role));
        MQ_TRY(mq_json_add_int(item, "tensors", n));
        MQ_TRY(mq_json_add_int(item, "bytes", bytes));
    }
    return MQ_OK;
}

/* What was found of one kind. Names alone where they say it all. */
static mq_status add_findings(cJSON *o, const char *key, const mq_survey *s, mq_finding_kind kind)
{
    cJSON *list = cJSON_AddArrayToObject(o, key), *item = NULL;
    if (!list) return no_memory();
    for (int64_t i = 0; i < s->findings.n; i++) {
        const mq_finding *f = &s->findings.item[i];
        const char *text = kind == MQ_FOUND_CONFIG ? f->message : f->name;
        if (f->kind != kind) continue;
        if (kind != MQ_FOUND_MISSING && kind != MQ_FOUND_WRONG) {
            item = cJSON_CreateString(text);
            if (!cJSON_AddItemToArray(list, item)) return no_memory();
            continue;
        }
        MQ_TRY(new_object(list, &item));
        MQ_TRY(mq_json_add_string(item, "name", f->name));
        if (f->n_dims > 0) MQ_TRY(mq_json_add_ints(item, "shape", f->dim, f->n_dims));
        if (kind == MQ_FOUND_WRONG) MQ_TRY(mq_json_add_string(item, "message", f->message));
    }
    return MQ_OK;
}

static mq_status add_arch(cJSON *o, const mq_survey *s)
{
    cJSON *read = cJSON_AddObjectToObject(o, "read");
    if (!read) return no_memory();
    return mq_arch_describe(s->arch, read);
}

static mq_status fill(cJSON *o, const mq_survey *s)
{
    MQ_TRY(mq_json_add_string(o, "model_type", s->model_type));
    MQ_TRY(mq_json_add_string(o, "family", s->arch->family));
    MQ_TRY(mq_json_add_bool(o, "known", s->known));
    MQ_TRY(add_nearest(o, s));
    MQ_TRY(add_arch(o, s));
    MQ_TRY(mq_json_add_bool(o, "weights", s->has_weights));
    MQ_TRY(mq_json_add_bool(o, "tensors_checked", s->role != NULL));
    MQ_TRY(add_mapped(o, s));
    MQ_TRY(add_findings(o, "config", s, MQ_FOUND_CONFIG));
    MQ_TRY(add_findings(o, "unknown_keys", s, MQ_FOUND_KEY));
    MQ_TRY(add_findings(o, "missing", s, MQ_FOUND_MISSING));
    MQ_TRY(add_findings(o, "wrong", s, MQ_FOUND_WRONG));
    MQ_TRY(add_findings(o, "unmapped", s, MQ_FOUND_UNMAPPED));
    return mq_json_add_bool(o, "quantisable", mq_survey_good(s));
}

static mq_status print_json(const cJSON *o)
{
    char *text = mq_json_print(o);
    if (!text) return no_memory();
    fputs(text, stdout);
    cJSON_free(text);
    return MQ_OK;
}

/* ---- the command ----------------------------------------------------------------------------- */

static mq_status verdict(const char *model, const mq_survey *s)
{
    if (mq_survey_good(s)) return MQ_OK;
    if (!s->known) {
        return mq_fail(MQ_E_INPUT, "%s: no descriptor lists the model_type \"%s\"", model,
                       s->model_type);
    }
    return mq_fail(MQ_E_INPUT, "%s: cannot be quantised, for the reasons above", model);
}

mq_status mq_inspect_arch(const char *model, bool json)
{
    mq_comm *self = NULL;
    mq_survey survey = {.arch = NULL};
    cJSON *o = NULL;
    mq_status status = mq_comm_create(MPI_COMM_SELF, &self);
    if (status == MQ_OK) status = mq_survey_make(self, model, &survey);
    if (status == MQ_OK && !(o = cJSON_CreateObject())) status = no_memory();
    if (status == MQ_OK) status = fill(o, &survey);
    if (status == MQ_OK) status = json ? print_json(o) : mq_inspect_arch_text(o);
    if (status == MQ_OK) status = verdict(model, &survey);
    cJSON_Delete(o);
    mq_survey_free(&survey);
    mq_comm_destroy(&self);
    return status;
}
