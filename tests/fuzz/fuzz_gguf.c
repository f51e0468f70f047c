/* A GGUF file: its header as verify and inspect read it, and then, as verify does, the blocks of
 * its tensors. */
#include "base/utf8.h"
#include "format/gguf.h"
#include "fuzz.h"
#include "store/gguf.h"

#include <string.h>

static const char *const name = "model.gguf";
static char folder[64], path[128];

static void end(void)
{
    fuzz_remove_folder(folder, &name, 1);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_scratch_name(folder);
    FUZZ_CHECK(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/%s", folder, name);
    atexit(end);
    return 0;
}

/* Blocks in a buffer of just their size. */
static void check_blocks(const mq_tensor *t, const uint8_t *data)
{
    size_t bytes = (size_t)(t->end - t->begin);
    char *blocks = malloc(bytes);
    FUZZ_CHECK(blocks);
    memcpy(blocks, data + t->begin, bytes);
    if (mq_dtype_weights(t->dtype) > 1) {
        int64_t n = (int64_t)(bytes / mq_dtype_size(t->dtype));
        mq_gguf_check_blocks(t->dtype, blocks, n, t->name, 0);
    }
    free(blocks);
}

static void check_tensor(const mq_header *h, const mq_tensor *t, uint64_t data_bytes)
{
    char text[128];
    uint64_t bytes = mq_dtype_size(t->dtype);
    FUZZ_CHECK(t->n_dims >= 1 && t->n_dims <= MQ_GGUF_DIMS && t->dtype < MQ_N_DTYPES);
    for (int d = 0; d < t->n_dims; d++) {
        FUZZ_CHECK(t->dim[d] > 0 && !__builtin_mul_overflow(bytes, (uint64_t)t->dim[d], &bytes));
    }
    FUZZ_CHECK(t->begin % MQ_GGUF_ALIGNMENT == 0 && t->begin < t->end && t->end <= data_bytes);
    FUZZ_CHECK(t->end - t->begin == bytes);
    FUZZ_CHECK(mq_header_find(h, t->name) == t && mq_is_utf8(t->name));
    FUZZ_CHECK(strlen(mq_tensor_describe(t, text, sizeof text)) < sizeof text);
}

/* Tensors lie one after the other, each filled up, from the start of the data to the file's end. */
static void check(const mq_header *h, const uint8_t *data, size_t size)
{
    uint64_t covered = 0;
    FUZZ_CHECK(h->data_start <= size && h->data_start % MQ_GGUF_ALIGNMENT == 0);
    for (int64_t i = 0; i < h->n_tensors; i++) {
        const mq_tensor *t = &h->tensor[i];
        check_tensor(h, t, size - h->data_start);
        check_blocks(t, data + h->data_start);
        covered +=
            (t->end - t->begin + MQ_GGUF_ALIGNMENT - 1) / MQ_GGUF_ALIGNMENT * MQ_GGUF_ALIGNMENT;
    }
    FUZZ_CHECK(covered == size - h->data_start);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mq_header header;
    fuzz_put_file(folder, name, data, size);
    if (mq_gguf_read(path, &header) == MQ_OK) check(&header, data, size);
    mq_header_clear(&header);
    return 0;
}
