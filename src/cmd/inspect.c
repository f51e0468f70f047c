#include "cmd/cmd.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "par/collectives.h"
#include "store/folder.h"
#include "store/h5.h"

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

static void print_tensors(const mq_tensor *tensor, int64_t n, char *const *shard, const char *file)
{
    uint64_t bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        char text[128];
        bytes += tensor[i].end - tensor[i].begin;
        printf("%-60s %-28s %14" PRIu64 "  %s\n", tensor[i].name,
               mq_tensor_describe(&tensor[i], text, sizeof text), tensor[i].end - tensor[i].begin,
               shard ? shard[tensor[i].shard] : file);
    }
    printf("%" PRId64 " tensors, %" PRIu64 " bytes\n", n, bytes);
}

static mq_status inspect_folder(const mq_comm *comm, const char *path, bool json)
{
    mq_folder *folder = NULL;
    mq_status status = mq_folder_open(comm, path, &folder);
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

static mq_status inspect_safetensors(const char *path, bool json)
{
    mq_header header = {0};
    MQ_TRY(mq_header_read(path, &header));
    mq_status status = MQ_OK;
    if (json) {
        status = print_tensors_json(header.tensor, header.n_tensors, NULL, path);
    } else {
        print_tensors(header.tensor, header.n_tensors, NULL, path);
    }
    mq_header_clear(&header);
    return status;
}

typedef struct token_file {
    int64_t version, vocab_size, n_offsets, n_tokens;
    char *format, *source;
} token_file;

static mq_status read_token_file(mq_h5 *file, token_file *t)
{
    MQ_TRY(mq_h5_attribute_text(file, "format", &t->format));
    MQ_TRY(mq_h5_attribute_text(file, "source", &t->source));
    MQ_TRY(mq_h5_attribute_int(file, "version", &t->version));
    MQ_TRY(mq_h5_attribute_int(file, "vocab_size", &t->vocab_size));
    MQ_TRY(mq_h5_length(file, "tokens", &t->n_tokens));
    return mq_h5_length(file, "offsets", &t->n_offsets);
}

static mq_status print_token_json(const token_file *t)
{
    cJSON *o = cJSON_CreateObject();
    mq_status status = mq_json_add_string(o, "format", t->format);
    if (status == MQ_OK) status = mq_json_add_int(o, "version", t->version);
    if (status == MQ_OK) status = mq_json_add_int(o, "vocab_size", t->vocab_size);
    if (status == MQ_OK) status = mq_json_add_string(o, "source", t->source);
    if (status == MQ_OK) status = mq_json_add_int(o, "samples", t->n_offsets - 1);
    if (status == MQ_OK) status = mq_json_add_int(o, "tokens", t->n_tokens);
    char *text = status == MQ_OK ? mq_json_print(o) : NULL;
    if (text) fputs(text, stdout);
    cJSON_free(text);
    cJSON_Delete(o);
    return status;
}

static mq_status inspect_tokens(const char *path, bool json)
{
    token_file t = {0};
    mq_h5 *file = NULL;
    MQ_TRY(mq_h5_open(path, &file));
    mq_status status = read_token_file(file, &t);
    mq_h5_close(&file);
    if (status == MQ_OK && json) {
        status = print_token_json(&t);
    } else if (status == MQ_OK) {
        printf("%s, version %" PRId64 "\nsource      %s\nvocabulary  %" PRId64
               "\nsamples     %" PRId64 "\ntokens      %" PRId64 "\n",
               t.format, t.version, t.source, t.vocab_size, t.n_offsets - 1, t.n_tokens);
    }
    mq_free(&t.format);
    mq_free(&t.source);
    return status;
}

static bool is_hdf5(const char *path)
{
    unsigned char head[8] = {0};
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    bool hdf5 = fread(head, 1, sizeof head, f) == sizeof head &&
                memcmp(head, "\x89HDF\r\n\x1a\n", sizeof head) == 0;
    fclose(f);
    return hdf5;
}

static mq_status inspect(const mq_comm *comm, const char *path, bool json)
{
    /* Rank 0 decides: every rank must take the same way, whatever its node sees of the file. */
    int64_t folder = comm->rank == 0 && mq_is_folder(path);
    mq_status status = mq_highest_i64(comm, &folder, 1);
    if (status != MQ_OK) return status;
    if (folder) return inspect_folder(comm, path, json);
    if (comm->rank == 0) {
        status = is_hdf5(path) ? inspect_tokens(path, json) : inspect_safetensors(path, json);
    }
    return mq_agree(comm, status);
}

mq_status mq_cmd_inspect(const mq_comm *comm, int argc, char **argv)
{
    const char *path = NULL;
    bool json = false, help = false;
    const mq_positional positionals[] = {
        {"FILE|DIR", "safetensors file, model folder or token file", .text = &path},
    };
    const mq_option options[] = {
        {"--json", .help = "print one JSON object on stdout", .flag = &json},
    };
    const mq_args_spec spec = {
        "mpiquant inspect",
        "Lists what a file or folder holds. Exit code 3 when it is not valid.",
        positionals,
        1,
        options,
        sizeof options / sizeof *options,
        .takes_config = false};
    mq_args args = {0};
    mq_status status = mq_cmd_parse(comm, &spec, argc, argv, &args, &help);
    if (status == MQ_OK && !help) status = inspect(comm, path, json);
    mq_args_free(&args);
    return status;
}
