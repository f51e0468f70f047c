#include "model/findings.h"

#include "base/memory.h"

#include <string.h>

enum { FIRST_ROOM = 16 };

static mq_status copy(const char *text, char **out)
{
    size_t bytes = strlen(text) + 1;
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "findings", out));
    memcpy(*out, text, bytes);
    return MQ_OK;
}

static mq_status make_room(mq_findings *f)
{
    mq_finding *item = NULL;
    int64_t room = f->room > 0 ? 2 * f->room : FIRST_ROOM;
    if (f->n < f->room) return MQ_OK;
    MQ_TRY(mq_alloc(room, sizeof *item, "findings", &item));
    if (f->n > 0) memcpy(item, f->item, (size_t)f->n * sizeof *item);
    mq_free(&f->item);
    f->item = item;
    f->room = room;
    return MQ_OK;
}

mq_status mq_findings_add_tensor(mq_findings *findings, mq_status status, mq_finding_kind kind,
                                 const char *name, int n_dims, const int64_t *dims)
{
    if (!findings || status != MQ_E_INPUT) return status;
    MQ_TRY(make_room(findings));
    mq_finding *f = &findings->item[findings->n++];
    *f = (mq_finding){.kind = kind, .n_dims = n_dims};
    for (int d = 0; d < n_dims; d++) f->dim[d] = dims[d];
    MQ_TRY(copy(mq_message(), &f->message));
    return copy(name, &f->name);
}

mq_status mq_findings_add(mq_findings *findings, mq_status status, mq_finding_kind kind,
                          const char *name)
{
    return mq_findings_add_tensor(findings, status, kind, name, 0, NULL);
}

int64_t mq_findings_count(const mq_findings *findings)
{
    return findings ? findings->n : 0;
}

void mq_findings_free(mq_findings *findings)
{
    for (int64_t i = 0; i < findings->n; i++) {
        mq_free(&findings->item[i].name);
        mq_free(&findings->item[i].message);
    }
    mq_free(&findings->item);
    *findings = (mq_findings){.item = NULL};
}
