#ifndef MQ_CALIB_SHARES_H
#define MQ_CALIB_SHARES_H

#include "calib/calib.h"

/* What rank 0 makes of a token file: everything in the order in which it goes out, rank after rank,
 * within a rank by number of the unit. Private to src/calib. */

/* What every rank must know of the whole file, and of one unit: as they travel. */
typedef struct mq_calib_totals {
    int64_t n_samples, n_tokens, n_units, longest, shortest, max_unit_tokens;
    int64_t has_tokens, hidden, n_axes, n_deep;
} mq_calib_totals;

typedef struct mq_unit_record {
    int64_t id, n_tokens, n_samples, first_sample;
} mq_unit_record;

/* Of one rank. */
typedef struct mq_share_counts {
    int64_t n_units, n_offsets, n_tokens;
} mq_share_counts;

typedef struct mq_calib_shares {
    mq_calib_totals totals;
    char *source;
    mq_share_counts *counts; /* (size) */
    mq_unit_record *records; /* (n_units) */
    int64_t *offsets;        /* of the tokens in each unit, n_samples + 1 a unit */
    int32_t *tokens;
} mq_calib_shares;

/** Reads and checks the file, forms and deals units. Rank 0 only; not collective.
 *  Errors: as mq_calib_load; what is allocated stays in `shares`. */
mq_status mq_calib_shares_read(const char *path, const mq_calib_options *options, int size,
                               mq_calib_shares *shares);
void mq_calib_shares_clear(mq_calib_shares *shares);

#endif
