#ifndef MQ_PIPELINE_FORWARD_H
#define MQ_PIPELINE_FORWARD_H

#include "model/block.h"
#include "model/mixture.h"
#include "pipeline/activations.h"

/* A plain forward of a whole model over this rank's units, block by block, as eval needs it. */

typedef struct mq_forward {
    mq_arch *arch;
    mq_folder *folder;
    mq_outer_weights *outer; /* head and final norm, after mq_forward_run */
    mq_activations x;        /* final residual stream of this rank's units */
} mq_forward;

/** Opens the model's descriptor and tensors, and checks them. Collective. */
mq_status mq_forward_open(const mq_comm *comm, const char *model, mq_forward *out);

/** Runs every block and reads the head. Collective. Memory: one block's weights a node, residual
 *  stream and one unit a rank. */
mq_status mq_forward_run(const mq_comm *comm, const mq_calib *tokens, mq_dtype dtype,
                         mq_forward *forward);

/** Collective. */
void mq_forward_close(mq_forward *forward);

#endif
