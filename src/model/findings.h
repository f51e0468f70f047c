#ifndef MQ_MODEL_FINDINGS_H
#define MQ_MODEL_FINDINGS_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

/* What speaks against a model. The checks of a config.json and of a folder's tensors run in one of
 * two ways: a run wants the first thing that is wrong, as an error, and somebody who adds a model
 * wants all of it, as a list. Every check ends in mq_findings_add, which tells the two apart. */

typedef enum mq_finding_kind {
    MQ_FOUND_CONFIG,   /* a value of config.json or of the descriptor: missing, or makes no sense */
    MQ_FOUND_KEY,      /* a key of config.json that nobody reads */
    MQ_FOUND_MISSING,  /* a tensor that is not there, */
    MQ_FOUND_WRONG,    /* is there with another shape or type, */
    MQ_FOUND_UNMAPPED, /* or is there and has no place in the model */
} mq_finding_kind;

typedef struct mq_finding {
    mq_finding_kind kind;
    char *name; /* of the tensor or the key; "" where there is none */
    char *message;
    int n_dims; /* of a missing tensor, the shape that is expected */
    int64_t dim[3];
} mq_finding;

typedef struct mq_findings {
    mq_finding *item;
    int64_t n, room;
    bool tensors_known; /* sizes and names were read, so that tensors can be looked for */
} mq_findings;

/** The end of a check with `status`: without a list that status; else what is wrong (MQ_E_INPUT)
 *  joins the list, with the message of the failure, and the checks go on with MQ_OK. The name is
 *  copied. Errors: `status` where it is any other failure; MQ_E_MEMORY. */
mq_status mq_findings_add(mq_findings *findings, mq_status status, mq_finding_kind kind,
                          const char *name);

/** The same for a tensor, with the shape that is expected of it (n_dims up to 3). */
mq_status mq_findings_add_tensor(mq_findings *findings, mq_status status, mq_finding_kind kind,
                                 const char *name, int n_dims, const int64_t *dims);

/** How many there are; 0 without a list. */
int64_t mq_findings_count(const mq_findings *findings);

/** Leaves *findings as {0}; safe on that. */
void mq_findings_free(mq_findings *findings);

#endif
