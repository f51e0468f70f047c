/* A tokenizer that becomes GGUF. A byte chooses the family, and what follows is tokenizer.json,
 * tokenizer_config.json, config.json and tokenizer.model, with NUL bytes between them. */
#include "format/gguf_pairs.h"
#include "fuzz.h"
#include "pipeline/gguf_tokenizer.h"
#include "store/gguf.h"

#include <string.h>

enum { N_FILES = 4, VOCABULARY = 40 };

static char folder[64];
static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "config.json",
                                    "tokenizer.model", "model.gguf"};

static void end(void)
{
    fuzz_remove_folder(folder, names, N_FILES + 1);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_scratch_name(folder);
    FUZZ_CHECK(mkdtemp(folder));
    atexit(end);
    return 0;
}

/* The last file is all that is left. */
static void put_files(fuzz_input in)
{
    for (int i = 0; i < N_FILES; i++) {
        const uint8_t *nul = in.size > 0 ? memchr(in.data, '\0', in.size) : NULL;
        size_t bytes = nul && i + 1 < N_FILES ? (size_t)(nul - in.data) : in.size;
        fuzz_put_file(folder, names[i], in.data, bytes);
        in.data += bytes;
        in.size -= bytes;
        fuzz_take(&in, 1);
    }
}

/* A file of these pairs, and no tensors, is one that is read. */
static void check(const mq_gguf_pairs *pairs)
{
    mq_gguf_pairs file = {.n_bytes = 0};
    mq_header header;
    char path[128];
    mq_gguf_put(&file, mq_gguf_magic, 4);
    mq_gguf_put_u32(&file, MQ_GGUF_VERSION);
    mq_gguf_put_u64(&file, 0);
    mq_gguf_put_u64(&file, pairs->n_pairs);
    mq_gguf_put(&file, pairs->bytes, pairs->n_bytes);
    while (file.n_bytes % MQ_GGUF_ALIGNMENT != 0) mq_gguf_put(&file, "", 1);
    FUZZ_CHECK(file.status == MQ_OK);
    fuzz_put_file(folder, names[N_FILES], file.bytes, file.n_bytes);
    snprintf(path, sizeof path, "%s/%s", folder, names[N_FILES]);
    FUZZ_CHECK(mq_gguf_read(path, &header) == MQ_OK);
    FUZZ_CHECK(header.data_start == file.n_bytes && header.n_tensors == 0);
    mq_header_clear(&header);
    mq_gguf_pairs_clear(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static mq_arch arch = {.vocab = VOCABULARY};
    fuzz_input in = {data, size};
    mq_gguf_pairs pairs = {.n_bytes = 0};
    snprintf(arch.gguf.architecture, sizeof arch.gguf.architecture, "%s",
             fuzz_take(&in, 1) % 2 ? "command-r" : "llama");
    put_files(in);
    if (mq_gguf_add_tokenizer(folder, &arch, &pairs) == MQ_OK) check(&pairs);
    mq_gguf_pairs_clear(&pairs);
    return 0;
}
