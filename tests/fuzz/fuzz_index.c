/* model.safetensors.index.json beside two sound shards. */
#include "fuzz.h"
#include "store/folder_scan.h"

#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/mpiquant-fuzz-XXXXXX";

static void put(const char *name, const void *data, size_t bytes)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    FUZZ_CHECK(f && fwrite(data, 1, bytes, f) == bytes);
    FUZZ_CHECK(fclose(f) == 0);
}

static void put_shard(const char *name, const char *tensor)
{
    char file[256] = {0};
    int length =
        snprintf(file + 8, sizeof file - 8,
                 "{\"%s\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", tensor);
    file[0] = (char)length;
    put(name, file, 8 + (size_t)length + 4);
}

static void remove_folder(void)
{
    static const char *const names[] = {"a.safetensors", "b.safetensors",
                                        "model.safetensors.index.json"};
    for (int i = 0; i < 3; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    FUZZ_CHECK(mkdtemp(folder));
    atexit(remove_folder);
    put_shard("a.safetensors", "x");
    put_shard("b.safetensors", "y");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mq_folder_scan scan = {.shard = NULL};
    put("model.safetensors.index.json", data, size);
    if (mq_folder_scan_files(folder, &scan) == MQ_OK) {
        for (int64_t i = 0; i < scan.n_tensors; i++) {
            int32_t shard = scan.tensor[i].shard;
            FUZZ_CHECK(shard >= 0 && shard < scan.n_shards && !strchr(scan.shard[shard], '/'));
        }
    }
    mq_folder_scan_clear(&scan);
    return 0;
}
