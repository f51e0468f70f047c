#ifndef MQ_PLAN_SCALED_NORM_H
#define MQ_PLAN_SCALED_NORM_H

#include "plan/scheme.h"

/** The norm that makes the inputs of a tap, where its weights can take the powers of two that the
 *  columns of the tap's layers are divided by (solve/columns.h): all layers that read it are
 *  quantised, its type holds such products, and it multiplies by its weights alone (no 1 + weight,
 *  no bias). NULL where columns are not to be scaled, and for taps that no norm makes. Not
 *  collective. */
const mq_tensor *mq_scaled_norm(const mq_folder *source, const mq_scheme *scheme, int64_t block,
                                mq_tap_id tap);

#endif
