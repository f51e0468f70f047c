/* tokenizer.model: a SentencePiece model. */
#include "format/sentencepiece.h"
#include "fuzz.h"

#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mq_sentencepiece m;
    size_t bytes = 0;
    if (mq_sentencepiece_read("fuzz", data, size, &m) == MQ_OK) {
        FUZZ_CHECK(m.n_pieces > 0);
        for (int64_t i = 0; i < m.n_pieces; i++) {
            FUZZ_CHECK(m.piece[i].type >= 1 && m.piece[i].type <= 6);
            bytes += strlen(m.piece[i].text);
        }
        FUZZ_CHECK(bytes < size); /* texts are taken from the model, and it holds more than them */
    }
    mq_sentencepiece_clear(&m);
    return 0;
}
