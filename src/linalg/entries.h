#ifndef MQ_LINALG_ENTRIES_H
#define MQ_LINALG_ENTRIES_H

#include "base/status.h"

#include <stdint.h>

/** Gives a part of a symmetric matrix: out (i1 - i0, j1 - j0) f64 row-major, rows [i0, i1) and
 *  columns [j0, j1). Called from one thread; it may start a parallel loop of its own. Local: every
 *  rank can give every part. */
typedef mq_status (*mq_entry_source)(void *context, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
                                     double *out);

#endif
