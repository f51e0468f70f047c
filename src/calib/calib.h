#ifndef MQ_CALIB_CALIB_H
#define MQ_CALIB_CALIB_H

#include "base/unit.h"
#include "par/comm.h"

/* Token files (calib.h5) cut into units and shared out. A unit is a run of whole samples of at most
 * unit_tokens tokens (one longer sample is a unit of its own), formed by rank 0 in file order from
 * the file alone; whole units go to ranks, balanced by tokens. */

typedef struct mq_calib {
    /* the same on every rank */
    int64_t n_samples, n_tokens, n_units;
    int64_t longest, shortest; /* sample lengths */
    int64_t max_unit_tokens;   /* of any rank's units */
    char *source;              /* where the file says its text is from; "" when it does not */
    char *path;                /* of the file */
    bool has_tokens;           /* else rows alone */
    int64_t hidden;            /* width of the rows in the place of embeddings; 0: there are none */
    int n_axes;                /* positions given for a token; 0: none */
    int n_deep;                /* blocks behind which rows are added to what they make */
    int64_t n_positions;       /* above all positions, and no less than `longest` */
    /* this rank's share */
    mq_unit *unit;
    int64_t n_local_units, n_local_tokens;
    int32_t *token;          /* -1: none stands for the row there */
    int64_t *offsets;        /* storage behind unit[].offset */
    int32_t *positions;      /* storage behind unit[].position */
    int32_t *rope_positions; /* and behind unit[].rope_position; NULL: there are none */
} mq_calib;

typedef struct mq_calib_options {
    int64_t unit_tokens;          /* budget, default 8192 */
    int64_t max_samples;          /* use the first so many; 0: all */
    int64_t vocab_size;           /* of the model */
    int64_t hidden;               /* of the model, which rows must have; 0: any */
    const char *tokenizer_sha256; /* of the model's tokenizer.json; "" when it has none */
} mq_calib_options;

/* Positions of a file are below the second: tables of rope have a row for each. */
enum { MQ_UNIT_TOKENS = 8192, MQ_MOST_POSITIONS = 1 << 20 };

#define MQ_CALIB_FORMAT "mpiquant-calib"
enum { MQ_CALIB_VERSION = 1 };

/** What a whole token file holds. */
typedef struct mq_calib_summary {
    int64_t n_samples, n_tokens, shortest, longest;
    int64_t vocab_size; /* 0 when the file does not say */
    bool has_tokens;    /* else rows alone */
    int64_t hidden;     /* width of rows; 0: there are none */
    int n_axes;         /* positions given for a token; 0: none */
    int n_deep;         /* blocks behind which rows are added */
    char *source;       /* "" when the file does not say; free with mq_free */
} mq_calib_summary;

/** Reads all of a token file and checks it as mq_calib_load does, its tokens against the vocabulary
 *  that it names itself. Not collective; call on one rank. Errors: as mq_calib_load. */
mq_status mq_calib_summarise(const char *path, mq_calib_summary *out);

/** Loads and shards a token file. Collective; rank 0 reads with HDF5, the rest comes by chunked
 *  scatter. Errors, the same on every rank: MQ_E_INPUT: not our format or version, empty, offsets
 *  that do not ascend or do not fit the tokens, a sample of length 0, a token outside
 *  [0, vocab_size) (naming sample and position), another tokenizer's checksum, rows or positions of
 *  another shape, a position outside of [0, MQ_MOST_POSITIONS); MQ_E_IO. Rows are left in the file.
 *  Warns when the file has no checksum. */
mq_status mq_calib_load(const mq_comm *comm, const char *path, const mq_calib_options *options,
                        mq_calib **out);
void mq_calib_destroy(mq_calib **calib);

enum { MQ_ROWS_EMBEDDED = -1 };

/** Takes `n` rows of this rank's tokens from number `token` on: (n, hidden) bf16. */
typedef mq_status mq_take_rows(void *context, int64_t token, int64_t n, void *rows);

/** Reads the rows that stand in the place of embeddings (layer MQ_ROWS_EMBEDDED), or those that are
 *  added to what block `layer` < n_deep makes, and gives every rank those of its tokens, piece by
 *  piece. Collective; rank 0 reads. Cost: 16 MiB a rank. Errors, the same on every rank:
 *  MQ_E_INPUT: a number that is not finite (naming sample, position and column); those of `take`;
 *  MQ_E_IO; MQ_E_MEMORY. */
mq_status mq_calib_spread_rows(const mq_comm *comm, const mq_calib *calib, int layer,
                               mq_take_rows *take, void *context);

/** (*out)[d], d < *n: pairs of a token and the one d tokens before it in its sample, over all
 * samples of all ranks; window > 0 leaves out those of d >= window, chunk > 0 those of two chunks
 * of so many tokens. Samples that a run leaves out count too. Collective. Free *out with mq_free.
 * Errors: MQ_E_MEMORY on every rank. */
mq_status mq_calib_distances(const mq_comm *comm, const mq_calib *calib, int64_t window,
                             int64_t chunk, double **out, int64_t *n);

/** Pure part, for tests: first[u] (n_units + 1) sample numbers where units begin; free it with
 *  mq_free. */
mq_status mq_units_form(const int64_t *offsets, int64_t n_samples, int64_t unit_tokens,
                        int64_t **first, int64_t *n_units);

/** owner[u] of each unit: longest first to the least loaded rank, ties to the lower rank. */
mq_status mq_units_deal(const int64_t *unit_tokens, int64_t n_units, int size, int *owner);

#endif
