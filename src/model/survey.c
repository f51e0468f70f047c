#include "model/survey.h"

#include "base/memory.h"
#include "model/arch_parse.h"
#include "model/arch_texts.h"
#include "model/likeness.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

typedef struct texts {
    char *where, *config, *common, *descriptor;
} texts;

static void texts_free(texts *t)
{
    mq_free(&t->where);
    mq_free(&t->config);
    mq_free(&t->common);
    mq_free(&t->descriptor);
}

/* ---- weights -------------------------------------------------------------------------------- */

static bool has_weights(const char *model)
{
    static const char end[] = ".safetensors", index[] = ".safetensors.index.json";
    const struct dirent *entry = NULL;
    bool found = false;
    DIR *folder = opendir(model);
    while (folder && !found && (entry = readdir(folder))) {
        size_t n = strlen(entry->d_name);
        found = (n >= sizeof end && strcmp(entry->d_name + n + 1 - sizeof end, end) == 0) ||
                (n >= sizeof index && strcmp(entry->d_name + n + 1 - sizeof index, index) == 0);
    }
    if (folder) closedir(folder);
    return found;
}

/* Weights that cannot be read are a finding, so that config.json is looked at all the same. */
static mq_status open_weights(const mq_comm *comm, const char *model, mq_survey *s)
{
    s->has_weights = has_weights(model);
    if (!s->has_weights) return MQ_OK;
    return mq_findings_add(&s->findings, mq_folder_open(comm, model, &s->folder), MQ_FOUND_WRONG,
                           "");
}

/* ---- the descriptor ------------------------------------------------------------------------- */

typedef struct choice {
    const texts *texts;
    const mq_name_set *names; /* patterns of the folder's tensors */
    mq_survey *survey;
    char *listed, *nearest; /* texts of descriptors; NULL so far */
} choice;

static mq_status keep(const char *text, char **to)
{
    size_t bytes = strlen(text) + 1;
    mq_free(to);
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "descriptor", to));
    memcpy(*to, text, bytes);
    return MQ_OK;
}

static bool nearer(const mq_likeness *a, const mq_likeness *b)
{
    double x = (double)a->alike * (double)b->names, y = (double)b->alike * (double)a->names;
    return x != y ? x > y : a->trouble < b->trouble;
}

/* Keeps the best; returns the place of the new one, MQ_SURVEY_NEAR when it has none. */
static int rank(mq_survey *s, const mq_likeness *l)
{
    int at = 0;
    while (at < s->n_near && !nearer(l, &s->near[at])) at++;
    if (at == MQ_SURVEY_NEAR) return at;
    if (s->n_near < MQ_SURVEY_NEAR) s->n_near++;
    for (int i = s->n_near - 1; i > at; i--) s->near[i] = s->near[i - 1];
    s->near[at] = *l;
    return at;
}

static mq_status measure(const choice *c, const char *text, const cJSON *descriptor,
                         mq_likeness *out)
{
    mq_findings findings = {.item = NULL};
    mq_arch *arch = NULL;
    const char *family = cJSON_GetStringValue(mq_json_find(descriptor, "family"));
    *out = (mq_likeness){.alike = 0};
    snprintf(out->family, sizeof out->family, "%s", family ? family : "?");
    MQ_TRY(
        mq_names_compare(mq_json_find(descriptor, "tensors"), c->names, &out->alike, &out->names));
    MQ_TRY(mq_alloc(1, sizeof *arch, "architecture", &arch));
    mq_status status =
        mq_arch_examine(c->texts->config, c->texts->where, text, c->texts->common, &findings, arch);
    out->trouble = findings.n;
    mq_findings_free(&findings);
    mq_arch_destroy(&arch);
    return status;
}

/* An mq_descriptor_visit. */
static mq_status look_at(void *context, const char *text, const cJSON *descriptor)
{
    choice *c = context;
    mq_likeness likeness;
    if (c->listed) return MQ_OK;
    if (mq_descriptor_lists(descriptor, c->survey->model_type)) return keep(text, &c->listed);
    MQ_TRY(measure(c, text, descriptor, &likeness));
    return rank(c->survey, &likeness) == 0 ? keep(text, &c->nearest) : MQ_OK;
}

static mq_status choose(texts *t, mq_survey *s)
{
    mq_name_set names = {.n = 0};
    choice c = {.texts = t, .names = &names, .survey = s};
    mq_status status = s->folder ? mq_names_of_folder(s->folder, &names) : MQ_OK;
    if (status == MQ_OK) status = mq_arch_each_descriptor(look_at, &c);
    s->known = c.listed != NULL;
    if (s->known) s->n_near = 0;
    t->descriptor = s->known ? c.listed : c.nearest;
    mq_free(s->known ? &c.nearest : &c.listed);
    mq_names_free(&names);
    return status;
}

/* ---- all of it ------------------------------------------------------------------------------ */

static mq_status read_type(const texts *t, mq_survey *s)
{
    cJSON *config = NULL;
    const char *type = NULL;
    mq_status status = mq_json_parse(t->config, t->where, &config);
    if (status == MQ_OK) status = mq_json_string(config, "model_type", t->where, &type);
    if (status == MQ_OK) snprintf(s->model_type, sizeof s->model_type, "%s", type);
    cJSON_Delete(config);
    return status;
}

static mq_status look(const mq_comm *comm, const char *model, texts *t, mq_survey *s)
{
    MQ_TRY(mq_arch_read_config(model, &t->where, &t->config));
    MQ_TRY(mq_arch_read_common(&t->common));
    MQ_TRY(read_type(t, s));
    MQ_TRY(open_weights(comm, model, s));
    MQ_TRY(choose(t, s));
    MQ_TRY(mq_alloc(1, sizeof *s->arch, "architecture", &s->arch));
    MQ_TRY(mq_arch_examine(t->config, t->where, t->descriptor, t->common, &s->findings, s->arch));
    if (!s->folder || !s->findings.tensors_known) return MQ_OK;
    MQ_TRY(mq_alloc(s->folder->n_tensors, sizeof *s->role, "roles of tensors", (void *)&s->role));
    return mq_model_audit(s->folder, s->arch, &s->findings, s->role);
}

mq_status mq_survey_make(const mq_comm *comm, const char *model, mq_survey *out)
{
    texts t = {.where = NULL};
    *out = (mq_survey){.arch = NULL};
    mq_status status = look(comm, model, &t, out);
    texts_free(&t);
    if (status != MQ_OK) mq_survey_free(out);
    return status;
}

bool mq_survey_good(const mq_survey *survey)
{
    return survey->known && survey->findings.n == 0;
}

void mq_survey_free(mq_survey *survey)
{
    mq_free((void *)&survey->role);
    mq_folder_close(&survey->folder);
    mq_arch_destroy(&survey->arch);
    mq_findings_free(&survey->findings);
    *survey = (mq_survey){.arch = NULL};
}
