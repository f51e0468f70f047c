#ifndef MQ_PIPELINE_TIMING_H
#define MQ_PIPELINE_TIMING_H

#include "base/json.h"
#include "par/comm.h"

/* Where the time of a run goes: seconds per section and rank. */

typedef enum mq_section {
    MQ_T_SETUP,
    MQ_T_READ,
    MQ_T_FORWARD,
    MQ_T_HESSIAN,
    MQ_T_REDUCE,
    MQ_T_DAMPING,
    MQ_T_FACTOR,
    MQ_T_CORRECTION,
    MQ_T_SCALES,
    MQ_T_HEADS,
    MQ_T_LDLQ,
    MQ_T_PACK,
    MQ_T_WRITE,
    MQ_N_SECTIONS
} mq_section;

typedef struct mq_timing {
    double seconds[MQ_N_SECTIONS];
    double started; /* of the run */
    double lap;     /* of the section under way */
} mq_timing;

void mq_timing_start(mq_timing *timing);

/** Books the time since the last lap (or the start) on a section. */
void mq_timing_lap(mq_timing *timing, mq_section section);

/** Logs the table (section, min, average, max over ranks, share) and adds it to `report` under
 *  "timing" on rank 0. Collective. */
mq_status mq_timing_report(const mq_timing *timing, const mq_comm *comm, cJSON *report);

#endif
