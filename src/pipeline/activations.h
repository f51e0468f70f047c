#ifndef MQ_PIPELINE_ACTIVATIONS_H
#define MQ_PIPELINE_ACTIVATIONS_H

#include "base/dtype.h"
#include "calib/calib.h"

/* The activations that a rank holds of its own units: rows in unit order, one width. A stream is
 * one of these for the residual; taps come and go. */

typedef struct mq_activations {
    char *rows; /* (n_local_tokens, width) dtype; NULL when not held */
    int64_t width;
    mq_dtype dtype;
} mq_activations;

/** Allocates for all local units of calib. Not collective. Errors: MQ_E_MEMORY. */
mq_status mq_activations_create(const mq_calib *calib, int64_t width, mq_dtype dtype,
                                const char *purpose, mq_activations *out);
void mq_activations_free(mq_activations *a);

/** The rows of the i-th local unit; NULL when nothing is held. */
void *mq_activations_unit(const mq_activations *a, const mq_calib *calib, int64_t i);

/** largest (a->width), zero on entry: the largest sum of squares of each column over any one of
 * this rank's units, the bound that an order-free sum needs. NaN where a column holds one. Not
 *  collective. Errors: MQ_E_MEMORY. */
mq_status mq_activations_bounds(const mq_activations *a, const mq_calib *calib, double *largest);

#endif
