#ifndef MQ_MODEL_SURVEY_H
#define MQ_MODEL_SURVEY_H

#include "model/findings.h"
#include "model/weights.h"

/* Whether a model can be read, and if not, all that stands in the way: for somebody who writes a
 * descriptor. The rules are those of mq_arch_load and mq_model_check. */

/** How near a family's descriptor comes to a model. */
typedef struct mq_likeness {
    char family[64];
    int64_t alike, names; /* patterns of tensor names that both have, and that either has */
    int64_t trouble;      /* findings in config.json when it is read as this family's */
} mq_likeness;

enum { MQ_SURVEY_NEAR = 3 };

typedef struct mq_survey {
    char model_type[64];
    bool known;                       /* a descriptor lists model_type; where none does, */
    mq_likeness near[MQ_SURVEY_NEAR]; /* the nearest families, best first, */
    int n_near;                       /* and near[0] stands in for it in what follows */
    mq_arch *arch;                    /* as far as config.json could be read */
    mq_folder *folder;                /* NULL: there are no weights, or none that can be read */
    bool has_weights;                 /* there are safetensors, readable or not */
    const char **role;                /* of each tensor, as from mq_model_audit; NULL: not looked */
    mq_findings findings;
} mq_survey;

/** Reads MODEL/config.json and, where there are any, the headers of the weights.
 *  Collective on comm, which is of one rank. Errors: MQ_E_IO, MQ_E_MEMORY; MQ_E_INPUT only for a
 *  config.json that is not a JSON object or has no model_type: all else is a finding. */
mq_status mq_survey_make(const mq_comm *comm, const char *model, mq_survey *out);

/** True when `quantize` would take the model, or would with weights that fit its config.json. */
bool mq_survey_good(const mq_survey *survey);

/** Collective on the same comm. Leaves *survey as {0}; safe on that. */
void mq_survey_free(mq_survey *survey);

#endif
