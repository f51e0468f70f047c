#ifndef MQ_PIPELINE_CORRECTION_H
#define MQ_PIPELINE_CORRECTION_H

#include "pipeline/row_work.h"

/** Moves this rank's rows towards what makes up for the drift of the streams: w += alpha B (H +
 *  lambda I)^-1, with alpha from run->alpha and B the layers' rows of the cross sum (drift.c), or W
 * times it where the drift is that of inputs. Needs the system's factor. Collective. */
mq_status mq_correct_tap(const mq_run *run, mq_tap_id tap, const mq_cross *cross,
                         mq_row_work *work);

#endif
