#ifndef MQ_MODEL_PACKED_H
#define MQ_MODEL_PACKED_H

#include "model/tensors.h"
#include "model/weights.h"

/** A packed linear and the place for its rows. */
typedef struct mq_packed_linear {
    mq_linear_source source;
    mq_linear_id id;
    int64_t block;
    void *to; /* (n_out, n_in) dtype, in memory that the node's ranks share */
} mq_packed_linear;

enum { MQ_PACKED_AT_ONCE = 8 };

/** Dequantises n packed linears, MQ_PACKED_AT_ONCE at most: the node's ranks read the packed
 * tensors together into a share, then dequantise the rows that are theirs. Collective; nothing
 * happens when n is 0. The caller fences the memory behind `to` afterwards. Errors, same
 * everywhere: MQ_E_IO, MQ_E_INPUT, MQ_E_MEMORY. Private to src/model. */
mq_status mq_packed_read(const mq_comm *comm, mq_folder *folder, const mq_arch *arch,
                         mq_dtype dtype, int n, const mq_packed_linear *linears);

/** Looks through the scales and zero points of all packed linears for what no weight can come of;
 *  the codes are not read. Linears are dealt to ranks. Collective. Errors, the same everywhere:
 * those of mq_stored_check, naming the linear; MQ_E_IO, MQ_E_MEMORY. Those of FP8 are left to
 * reading. Cost: reads those tensors once. */
mq_status mq_packed_check(const mq_comm *comm, mq_folder *folder, const mq_arch *arch);

#endif
