#ifndef MQ_PIPELINE_SAMPLED_ROWS_H
#define MQ_PIPELINE_SAMPLED_ROWS_H

#include "pipeline/tap_system.h"

/* At most MQ_ROW_BLOCK rows of the layers bound in run->result, evenly spread over each: a sample
 * on which something can be tried that is too dear for all rows. The same on every rank. */

typedef struct mq_sampled_rows {
    mq_row_block block[MQ_N_LINEARS]; /* one for each run of layers that are quantised alike */
    int n_blocks;
    int64_t n_rows[MQ_N_LINEARS];          /* of each block that are not padding */
    int layer[MQ_N_LINEARS][MQ_ROW_BLOCK]; /* of each row: its number in run->result */
    float *w, *e, *scales;                 /* storage of the blocks */
    uint8_t *codes, *zeros;
    double *sums;
} mq_sampled_rows;

/** Reads the rows, columns in the system's processing order, and searches their scales by the
 *  system's diagonal (the fast search). Not collective. Errors: MQ_E_MEMORY, those of
 *  mq_folder_read_rows. */
mq_status mq_sampled_rows_create(const mq_run *run, int64_t block, const mq_tap_system *system,
                                 mq_sampled_rows *rows);
void mq_sampled_rows_free(mq_sampled_rows *rows);

#endif
