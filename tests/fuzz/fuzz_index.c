/* model.safetensors.index.json beside two sound shards. */
#include "fuzz.h"
#include "store/folder_scan.h"

#include <string.h>

static char folder[64];
static const char *const names[] = {"a.safetensors", "b.safetensors",
                                    "model.safetensors.index.json"};

static void put_shard(const char *name, const char *tensor)
{
    char file[256] = {0};
    int length =
        snprintf(file + 8, sizeof file - 8,
                 "{\"%s\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", tensor);
    file[0] = (char)length;
    fuzz_put_file(folder, name, file, 8 + (size_t)length + 4);
}

static void end(void)
{
    fuzz_remove_folder(folder, names, 3);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_scratch_name(folder);
    FUZZ_CHECK(mkdtemp(folder));
    atexit(end);
    put_shard(names[0], "x");
    put_shard(names[1], "y");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mq_folder_scan scan = {.shard = NULL};
    fuzz_put_file(folder, names[2], data, size);
    if (mq_folder_scan_files(folder, &scan) == MQ_OK) {
        for (int64_t i = 0; i < scan.n_tensors; i++) {
            int32_t shard = scan.tensor[i].shard;
            FUZZ_CHECK(shard >= 0 && shard < scan.n_shards && !strchr(scan.shard[shard], '/'));
        }
    }
    mq_folder_scan_clear(&scan);
    return 0;
}
