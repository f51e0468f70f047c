#ifndef MQ_FORMAT_SENTENCEPIECE_H
#define MQ_FORMAT_SENTENCEPIECE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A SentencePiece model (tokenizer.model), as much of it as GGUF wants. Source: its protocol
 * buffer, sentencepiece_model.proto. */

typedef struct mq_sp_piece {
    const char *text; /* UTF-8, NUL-terminated */
    float score;
    int32_t
        type; /* 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 a byte: as in GGUF */
} mq_sp_piece;

typedef struct mq_sentencepiece {
    mq_sp_piece *piece; /* by id */
    int64_t n_pieces;
    bool bpe;          /* the best pair is merged first; else another algorithm */
    bool normalises;   /* changes characters, or drops white space */
    bool space_prefix; /* puts a space before a text */
    char *storage;     /* behind piece[].text */
} mq_sentencepiece;

/** Reads `bytes` bytes of a model. `where` is for messages. Not collective. On failure *out is
 * empty. Errors: MQ_E_INPUT for what is not such a model. */
mq_status mq_sentencepiece_read(const char *where, const void *data, size_t bytes,
                                mq_sentencepiece *out);

void mq_sentencepiece_clear(mq_sentencepiece *model);

#endif
