#ifndef MQ_MODEL_PACKED_H
#define MQ_MODEL_PACKED_H

#include "model/tensors.h"
#include "model/weights.h"

/** Dequantises the packed linears among sources[MQ_N_LINEARS] into weights->w: the node's ranks
 *  read the packed tensors together into a share, then dequantise the rows that are theirs.
 *  Collective; nothing happens when none is packed. The caller fences weights->share afterwards.
 *  Errors, same everywhere: MQ_E_IO, MQ_E_INPUT, MQ_E_MEMORY. Private to src/model. */
mq_status mq_packed_read(const mq_comm *comm, mq_folder *folder, const mq_linear_source *sources,
                         mq_block_weights *weights);

#endif
