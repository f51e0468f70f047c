#ifndef MQ_CALIB_SPREAD_H
#define MQ_CALIB_SPREAD_H

#include "calib/calib.h"
#include "calib/token_file.h"

/* From a token file to the ranks that have its units. Private to src/calib. */

typedef struct mq_spread_kind {
    size_t bytes; /* of a token */
    int layer;    /* handed to `read` */
    /** On rank 0: tokens [begin, begin + n) of the file, checked. */
    mq_status (*read)(const mq_token_file *file, int layer, int64_t begin, int64_t n, void *out);
    mq_take_rows *take;
    void *context;
} mq_spread_kind;

/** Reads all units and hands each to its rank. Collective. Errors, the same everywhere: those of
 *  `read`, of `take` on any rank, of mq_token_file_open. */
mq_status mq_spread(const mq_comm *comm, const mq_calib *calib, const mq_spread_kind *kind);

#endif
