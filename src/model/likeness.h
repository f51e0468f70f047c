#ifndef MQ_MODEL_LIKENESS_H
#define MQ_MODEL_LIKENESS_H

#include "base/json.h"
#include "store/folder.h"

/* Names of tensors as patterns: every number, and every "{i}" of a descriptor, is a "*", and what
 * says how a layer is stored (".weight", ".qweight") is gone. Private to src/model. */

typedef struct mq_name_set {
    char (*name)[128]; /* each once */
    int64_t n, room;
} mq_name_set;

/** The pattern of a name, cut where it does not fit. */
void mq_name_pattern(const char *name, char *out, size_t bytes);

/** The patterns of a folder's tensors. Free with mq_names_free. Errors: MQ_E_MEMORY. */
mq_status mq_names_of_folder(const mq_folder *folder, mq_name_set *out);

/** Patterns that both a descriptor's "tensors" and a set have, and that either of them has.
 *  Errors: MQ_E_MEMORY. */
mq_status mq_names_compare(const cJSON *tensors, const mq_name_set *set, int64_t *both,
                           int64_t *either);

void mq_names_free(mq_name_set *set);

#endif
