#include "cmd/cmd.h"

#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "cmd/inspect_arch.h"
#include "cmd/inspect_tokens.h"
#include "par/collectives.h"
#include "store/folder.h"
#include "store/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static mq_status add_tensor(cJSON *list, const mq_tensor *t, const char *shard)
{
    cJSON *o = cJSON_CreateObject();
    if (!o || !cJSON_AddItemToArray(list, o)) return mq_fail(MQ_E_MEMORY, "no memory for JSON");
    MQ_TRY(mq_json_add_string(o, "name", t->name));
    MQ_TRY(mq_json_add_string(o, "dtype", mq_dtype_name(t->dtype)));
    cJSON *shape = cJSON_AddArrayToObject(o, "shape");
    for (int d = 0; d < t->n_dims; d++) {
        char number[32];
        snprintf(number, sizeof number, "%" PRId64, t->dim[d]);
        cJSON_AddItemToArray(shape, cJSON_CreateRaw(number));
    }
    MQ_TRY(mq_json_add_string(o, "file", shard));
    MQ_TRY(mq_json_add_int(o, "begin", (int64_t)t->begin));
    return mq_json_add_int(o, "end", (int64_t)t->end);
}

static mq_status print_tensors_json(const mq_tensor *tensor, int64_t n, char *const *shard,
                                    const char *file)
{
    cJSON *o = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(o, "tensors");
    mq_status status = list ? MQ_OK : mq_fail(MQ_E_MEMORY, "no memory for JSON");
    for (int64_t i = 0; i < n && status == MQ_OK; i++) {
        status = add_tensor(list, &tensor[i], shard ? shard[tensor[i].shard] : file);
    }
    char *text = status == MQ_OK ? mq_json_print(o) : NULL;
    if (text) fputs(text, stdout);
    cJSON_free(text);
    cJSON_Delete(o);
    return status;
}

/* For a terminal, which must not be told what to do by a name. */
static void print_tensors(const mq_tensor *tensor, int64_t n, char *const *shard, const char *file)
{
    uint64_t bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        char text[128];
        bytes += tensor[i].end - tensor[i].begin;
        mq_make_printable(tensor[i].name);
        printf("%-60s %-28s %14" PRIu64 "  %s\n", tensor[i].name,
               mq_tensor_describe(&tensor[i], text, sizeof text), tensor[i].end - tensor[i].begin,
               shard ? shard[tensor[i].shard] : file);
    }
    printf("%" PRId64 " tensors, %" PRIu64 " bytes\n", n, bytes);
}

static mq_status inspect_folder(const mq_comm *comm, const char *path, bool json)
{
    mq_folder *folder = NULL;
    mq_status status = mq_folder_open_any(comm, path, &folder);
    if (status == MQ_OK && comm->rank == 0) {
        if (json) {
            status = print_tensors_json(folder->tensor, folder->n_tensors, folder->shard, "");
        } else {
            print_tensors(folder->tensor, folder->n_tensors, folder->shard, "");
        }
    }
    mq_folder_close(&folder);
    return status;
}

typedef mq_status header_reader(const char *path, mq_header *out);

static mq_status inspect_tensors(const char *path, header_reader *read, bool json)
{
    mq_header header = {0};
    MQ_TRY(read(path, &header));
    mq_status status = MQ_OK;
    if (json) {
        status = print_tensors_json(header.tensor, header.n_tensors, NULL, path);
    } else {
        print_tensors(header.tensor, header.n_tensors, NULL, path);
    }
    mq_header_clear(&header);
    return status;
}

static bool begins_with(const char *path, const char *magic, size_t bytes)
{
    char head[8];
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    bool same = fread(head, 1, bytes, f) == bytes && memcmp(head, magic, bytes) == 0;
    fclose(f);
    return same;
}

static mq_status inspect_file(const char *path, bool json)
{
    if (begins_with(path, "\x89HDF\r\n\x1a\n", 8)) return mq_inspect_tokens(path, json);
    bool gguf = begins_with(path, mq_gguf_magic, 4);
    return inspect_tensors(path, gguf ? mq_gguf_read : mq_header_read, json);
}

static mq_status inspect(const mq_comm *comm, const char *path, bool json)
{
    /* Rank 0 decides: every rank must take the same way, whatever its node sees of the file. */
    int64_t folder = comm->rank == 0 && mq_is_folder(path);
    mq_status status = mq_highest_i64(comm, &folder, 1);
    if (status != MQ_OK) return status;
    if (folder) return inspect_folder(comm, path, json);
    return mq_agree(comm, comm->rank == 0 ? inspect_file(path, json) : MQ_OK);
}

mq_status mq_cmd_inspect(const mq_comm *comm, int argc, char **argv)
{
    const char *path = NULL;
    bool json = false, arch = false, help = false;
    const mq_positional positionals[] = {
        {"FILE|DIR", "safetensors or GGUF file, model folder or token file", .text = &path},
    };
    const mq_option options[] = {
        {"--arch",
         .help = "how the model in DIR is read, and all that stands in the way of quantising it",
         .flag = &arch},
        {"--json", .help = "print one JSON object on stdout", .flag = &json},
    };
    const mq_args_spec spec = {"mpiquant inspect",
                               "Lists what a file or folder holds. Exit code 3 when it is not "
                               "valid or, with --arch, when the "
                               "model cannot be quantised.",
                               positionals,
                               1,
                               options,
                               sizeof options / sizeof *options,
                               .takes_config = false};
    mq_args args = {0};
    mq_status status = mq_cmd_parse(comm, &spec, argc, argv, &args, &help);
    if (status == MQ_OK && !help && arch) {
        status = mq_agree(comm, comm->rank == 0 ? mq_inspect_arch(path, json) : MQ_OK);
    } else if (status == MQ_OK && !help) {
        status = inspect(comm, path, json);
    }
    mq_args_free(&args);
    return status;
}
