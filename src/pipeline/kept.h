#ifndef MQ_PIPELINE_KEPT_H
#define MQ_PIPELINE_KEPT_H

#include "pipeline/run.h"

/** Writes the layers that are packed in the source and not quantised, dequantised to BF16: two
 * kinds of packed layers in one folder no reader takes. Reads the blocks that have such, into the
 * first stream's weights. Collective. Errors: those of reading and writing. */
mq_status mq_run_write_kept(mq_run *run);

#endif
