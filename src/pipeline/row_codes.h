#ifndef MQ_PIPELINE_ROW_CODES_H
#define MQ_PIPELINE_ROW_CODES_H

#include "pipeline/row_work.h"

/** Chooses codes for the rows in w, refines them so many rounds, and keeps no row that rounding to
 *  nearest serves better; losses and energies are without damping. Without a factor all rows are
 *  rounded to nearest. Collective; the caller agrees on the status. Errors: those of mq_ldlq,
 *  mq_refine_tap and mq_row_guard_create. */
mq_status mq_row_codes(const mq_run *run, int rounds, mq_row_work *work);

#endif
