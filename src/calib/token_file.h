#ifndef MQ_CALIB_TOKEN_FILE_H
#define MQ_CALIB_TOKEN_FILE_H

#include "store/h5.h"

#include <stdbool.h>

/* A token file, open on one rank. What it holds is checked as it is read. Private to src/calib. */

typedef struct mq_token_file {
    const char *path; /* borrowed */
    mq_h5 *h5;
    int64_t *offsets; /* (n_samples + 1), from 0 to n_tokens, ascending */
    int64_t n_samples, n_tokens;
    bool has_tokens; /* else there are rows alone */
    int64_t hidden;  /* width of the rows in the place of embeddings; 0: there are none */
    int n_axes;      /* positions of a token that are given; 0: none */
    int n_deep;      /* blocks behind which other rows are added */
} mq_token_file;

/** Opens a file and reads its offsets. Errors: MQ_E_IO; MQ_E_INPUT: not our format or version,
 *  empty, offsets that do not ascend or do not fit the tokens, a sample of length 0. *out is to be
 *  closed also on failure. */
mq_status mq_token_file_open(const char *path, mq_token_file *out);
void mq_token_file_close(mq_token_file *file);

/** Where its text is from, "" when it does not say; free with mq_free. */
mq_status mq_token_file_source(const mq_token_file *file, char **source);

/** Of the first n_samples. */
void mq_token_file_lengths(const mq_token_file *file, int64_t n_samples, int64_t *shortest,
                           int64_t *longest);

/** Finds which datasets there are, and how many tokens: what of the struct they decide. */
mq_status mq_token_file_count(mq_token_file *file);

/** out (n, hidden) uint16: rows of tokens [begin, begin + n) for a layer (mq_calib_spread_rows),
 * all finite. Errors: MQ_E_INPUT naming sample, position and column; MQ_E_IO. */
mq_status mq_token_file_rows(const mq_token_file *file, int layer, int64_t begin, int64_t n,
                             void *out);

/** out (n, n_axes) int32: their positions, in [0, MQ_MOST_POSITIONS). Errors: MQ_E_INPUT naming
 *  sample and position; MQ_E_IO. `layer` means nothing. */
mq_status mq_token_file_positions(const mq_token_file *file, int layer, int64_t begin, int64_t n,
                                  void *out);

/** Tokens [begin, begin + n), each in [0, vocab_size), or -1 where there are rows: no token stands
 *  for that row. All are -1 in a file without tokens. Errors: MQ_E_INPUT naming sample and
 *  position; MQ_E_IO. */
mq_status mq_token_file_read(const mq_token_file *file, int64_t begin, int64_t n,
                             int64_t vocab_size, int32_t *out);

#endif
