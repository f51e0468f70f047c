#ifndef MQ_PLAN_MEMORY_H
#define MQ_PLAN_MEMORY_H

#include "calib/calib.h"
#include "plan/scheme.h"

/* What a run will hold, before anything is allocated. Bytes, for the rank with the most tokens. */

typedef struct mq_memory_plan {
    size_t residual; /* activations between blocks, of all streams, and their drift */
    size_t taps;     /* the two widest that live together, or what experts take, of all streams */
    size_t work;     /* workspace of one unit */
    size_t hessian;  /* packed triangle of the widest tap; its half, or its cross sum */
    size_t factor;   /* this rank's part */
    size_t rows;     /* rows of W and errors in the solver, and metrics of heads */
    size_t rank;     /* all of the above */
    size_t weights;  /* per node: one block for each stream */
    size_t codes;    /* per node: codes and scales of one tap */
    size_t node;     /* ranks of the node and what they share */
} mq_memory_plan;

/** What of a run's settings the plan depends on. */
typedef struct mq_memory_settings {
    int64_t distribute_above; /* of the factorisation */
    int n_streams;            /* 2 with asymmetric calibration, else 1 */
    bool halves;              /* the Hessian is summed by halves */
    int64_t drift_rows;       /* that alpha is measured on; 0: none */
    int64_t pass_blocks;      /* row blocks that a rank solves at a time */
    bool refine;              /* rounds of refinement after LDLQ */
    int threads;              /* of a rank */
    bool couple;              /* rows of a head are rounded together */
    int64_t judged_group;     /* columns of the largest groups whose scales are judged; 0: none */
    size_t codes;             /* bytes of the codes and scales of one tap on a node */
    size_t expert_codes;      /* the same of one tap of an expert, on the rank that solves it */
} mq_memory_settings;

/** Where a run takes place, and the tokens of its busiest rank. */
typedef struct mq_memory_place {
    int ranks, ranks_of_node;
    int64_t rank_tokens; /* the most of any rank */
    int64_t unit_tokens; /* the most of any unit */
} mq_memory_place;

/** The plan of a run anywhere, on nodes that need not be there. Not collective. Errors: as below.
 */
mq_status mq_memory_plan_for(const mq_memory_place *place, const mq_scheme *scheme,
                             const mq_memory_settings *settings, mq_memory_plan *out);

/** The plan of this run. Collective (uses the largest share of tokens of any rank).
 *  Errors: MQ_E_INPUT when a size does not fit 64 bits; MQ_E_MEMORY from mq_factor_fits. */
mq_status mq_memory_plan_make(const mq_comm *comm, const mq_scheme *scheme, const mq_calib *calib,
                              const mq_memory_settings *settings, mq_memory_plan *out);

/** Refuses (MQ_E_MEMORY, with the figures and what to change) when a node has less than the plan
 *  needs. Collective. */
mq_status mq_memory_plan_check(const mq_comm *comm, const mq_memory_plan *plan);

/** Logs the plan in two lines. */
void mq_memory_plan_log(const mq_memory_plan *plan);

#endif
