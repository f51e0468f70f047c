#ifndef MQ_PIPELINE_TAP_JUDGE_H
#define MQ_PIPELINE_TAP_JUDGE_H

#include "pipeline/tap_system.h"
#include "solve/judge.h"

/* What the accurate scale search judges candidates by: the part of the tap's factor that belongs to
 * each group, for every group size among its layers. */

typedef struct mq_tap_judge {
    int n_sizes;
    int64_t group[MQ_N_LINEARS];
    mq_group_judge judge[MQ_N_LINEARS]; /* of groups of that size */
    float *m[MQ_N_LINEARS];             /* storage of the judges */
    double *r2[MQ_N_LINEARS];
    int32_t *order[MQ_N_LINEARS];
} mq_tap_judge;

/** Gathers the parts for the group sizes in run->result; none when the run's search is the fast
 *  one, without a factor, and for groups of more than MQ_JUDGE_GROUP columns. Collective; the
 *  caller agrees on the status. Errors: those of mq_gather_groups.
 *  Cost: one pass over the panels and 4 n group bytes for each size. */
mq_status mq_tap_judge_create(const mq_run *run, mq_tap_system *system, mq_tap_judge *judge);
void mq_tap_judge_free(mq_tap_judge *judge);

/** That for groups of so many columns, or NULL. */
const mq_group_judge *mq_tap_judge_for(const mq_tap_judge *judge, int64_t group);

#endif
