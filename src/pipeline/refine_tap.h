#ifndef MQ_PIPELINE_REFINE_TAP_H
#define MQ_PIPELINE_REFINE_TAP_H

#include "pipeline/row_work.h"

/** Lowers the loss of this rank's rows after LDLQ: `rounds` sweeps over codes and scales under the
 *  damped Hessian; dead columns, which those leave alone, are rounded to nearest under the final
 *  scales. Needs the system's factor. Collective. */
mq_status mq_refine_tap(const mq_run *run, int rounds, mq_row_work *work);

#endif
