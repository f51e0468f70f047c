#ifndef MQ_PIPELINE_EXPERTS_H
#define MQ_PIPELINE_EXPERTS_H

#include "model/mixture.h"
#include "pipeline/run.h"

/* The routed experts of a block, one after the other in the order of their numbers, whichever of
 * them a rank has tokens for: every rank takes part in all of them. An expert has two taps, what it
 * reads and what its down reads, over the tokens that the quantised model routes to it; or over all
 * tokens, if those are too few for the width of the tap, or when that is asked for. */

typedef struct mq_experts {
    const mq_calib *calib;
    mq_routes *route[MQ_MAX_STREAMS]; /* by local unit; each stream goes its own ways */
    int64_t *n_routed;                /* (n_experts) tokens of the quantised stream, of all ranks */
    mq_calib part;        /* this rank's units, of each the tokens that the expert in hand gets */
    mq_unit *unit;        /* storage behind part */
    int64_t *offset;      /* the same */
    int64_t expert;       /* in hand, */
    bool all_tokens;      /* at a tap of its that is over all tokens */
    mq_activations *kept; /* of a batch: what the downs read in the quantised stream; or no rows */
    int64_t batch, first; /* most experts of a batch, and the first of this one */
    mq_expert_room room;  /* of one unit */
    mq_activations sum[MQ_MAX_STREAMS]; /* F32: what experts make, weighed */
} mq_experts;

void mq_experts_destroy(mq_experts **experts);

/** The units that a tap's activations are rows of: part for those of the expert in hand. */
const mq_calib *mq_run_units(const mq_run *run, mq_tap_id tap);

/** Which token of the u-th local unit a row of a tap is of. */
int64_t mq_run_token(const mq_run *run, mq_tap_id tap, int64_t u, int64_t row);

/** Tokens routed to the expert of a tap, of all ranks; -1 for taps that are of none. */
int64_t mq_run_routed_tokens(const mq_run *run, mq_tap_id tap);

/** Whether the tap of an expert is over all tokens. */
bool mq_run_takes_all_tokens(const mq_run *run, int64_t block, mq_tap_id tap);

/** What is to be done at a tap of n experts from `first` on: what they read, or (`mid`) what their
 *  downs do. */
typedef mq_status (*mq_batch_visit)(mq_run *run, int64_t block, int64_t first, int64_t n, bool mid,
                                    void *context);

/** Routes the tokens by MQ_TAP_MLP_IN, which is there; visits what all experts read and then
 *  what their downs do, a batch after the other; adds what they make to the residual streams. A
 * visit goes through its experts in order: mq_experts_take, mq_run_produce, and when the sums are
 * made mq_experts_release. Collective. Memory: 4 hidden bytes a token and stream, the rows of one
 * tap of one expert, and in batches what the downs of several read, of the tokens routed to them.
 */
mq_status mq_run_experts(mq_run *run, int64_t block, int64_t batch, mq_batch_visit visit,
                         void *context);

/** Takes an expert in hand. Not collective. */
void mq_experts_take(mq_run *run, int64_t block, int64_t expert, bool mid);

/** Frees the rows of a tap, but keeps those that become outputs. Not collective. */
void mq_experts_release(mq_run *run, mq_tap_id tap);

/** What the expert in hand makes of the tokens of one unit that go to it. */
typedef struct mq_expert_rows {
    int64_t n;
    const int32_t *token; /* (n) in the unit */
    const float *weight;  /* (n); NULL: 1 */
    const void *rows;     /* (n, hidden) of the stream's type, not weighed; until the next call */
} mq_expert_rows;

/** Of the u-th local unit of a stream, once the tap of its down is there. Not collective. */
mq_status mq_experts_outputs(const mq_run *run, int s, int64_t u, mq_expert_rows *out);

/** mq_run_produce for a tap of an expert. Not collective. */
mq_status mq_experts_produce(mq_run *run, mq_stream *stream, mq_tap_id tap);

#endif
