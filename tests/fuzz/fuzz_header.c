/* The header of a safetensors file: 8 bytes say how long its data is, the rest is the text. */
#include "fuzz.h"
#include "store/safetensors.h"

#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

static void check_tensor(const mq_header *h, const mq_tensor *t, uint64_t data_bytes)
{
    int64_t count = 0;
    char text[128];
    FUZZ_CHECK(t->begin <= t->end && t->end <= data_bytes);
    FUZZ_CHECK(t->n_dims >= 0 && t->n_dims <= MQ_MAX_DIMS && t->dtype < MQ_N_DTYPES);
    FUZZ_CHECK(mq_tensor_count(t, &count) == MQ_OK && count >= 0);
    uint64_t bits = (uint64_t)count * (uint64_t)mq_dtype_bits(t->dtype);
    FUZZ_CHECK(bits % 8 == 0 && bits / 8 == t->end - t->begin);
    FUZZ_CHECK(mq_header_find(h, t->name) != NULL);
    FUZZ_CHECK(strlen(mq_tensor_describe(t, text, sizeof text)) < sizeof text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};
    mq_header header = {.tensor = NULL};
    uint64_t data_bytes = fuzz_take(&in, 8), covered = 0;
    char *text = fuzz_text(&in);
    if (mq_header_scan("fuzz", text, in.size, data_bytes, &header) == MQ_OK) {
        for (int64_t i = 0; i < header.n_tensors; i++) {
            const mq_tensor *t = &header.tensor[i];
            check_tensor(&header, t, data_bytes);
            FUZZ_CHECK(i == 0 || strcmp(t[-1].name, t->name) < 0);
            covered += t->end - t->begin;
        }
        FUZZ_CHECK(covered == data_bytes);
    }
    mq_header_clear(&header);
    free(text);
    return 0;
}
