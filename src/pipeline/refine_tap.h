#ifndef MQ_PIPELINE_REFINE_TAP_H
#define MQ_PIPELINE_REFINE_TAP_H

#include "pipeline/row_work.h"

/** Lowers the loss of this rank's rows after LDLQ: `rounds` of a scale refit and a descent on
 *  codes, under the damped Hessian. Needs the system's factor. Collective. */
mq_status mq_refine_tap(const mq_run *run, int rounds, mq_row_work *work);

#endif
