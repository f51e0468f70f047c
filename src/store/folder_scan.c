#include "store/folder_scan.h"

#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/gguf.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char single_file[] = "model.safetensors";
static const char index_file[] = "model.safetensors.index.json";

/* One line of weight_map; both texts borrowed from cJSON. */
typedef struct mapped {
    const char *tensor, *file;
} mapped;

static mq_status copy_text(const char *text, char **out)
{
    size_t bytes = strlen(text) + 1;
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "file name", out));
    memcpy(*out, text, bytes);
    return MQ_OK;
}

/* A shard is a plain name: an index must not reach outside its folder. */
static bool is_plain_name(const char *name)
{
    return *name != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           strchr(name, '/') == NULL;
}

/* ---- the index ------------------------------------------------------------------------------- */

static int compare_mapped_tensor(const void *a, const void *b)
{
    return strcmp(((const mapped *)a)->tensor, ((const mapped *)b)->tensor);
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* weight_map as an array sorted by tensor name. */
static mq_status read_weight_map(const cJSON *index, const char *path, mapped **out, int64_t *n)
{
    const cJSON *map = mq_json_find(index, "weight_map");
    if (!cJSON_IsObject(map)) {
        return mq_fail(MQ_E_INPUT, "%s: \"weight_map\" is missing or not an object", path);
    }
    for (const cJSON *item = map->child; item; item = item->next) (*n)++;
    MQ_TRY(mq_alloc(*n, sizeof **out, "weight_map", out));
    mapped *at = *out;
    for (const cJSON *item = map->child; item; item = item->next, at++) {
        if (!cJSON_IsString(item) || !is_plain_name(item->valuestring)) {
            return mq_fail(
                MQ_E_INPUT,
                "%s: weight_map sends tensor \"%.200s\" to \"%.200s\"; expected the name "
                "of a file in the same folder",
                path, item->string,
                cJSON_IsString(item) ? item->valuestring : "something not a string");
        }
        *at = (mapped){item->string, item->valuestring};
    }
    qsort(*out, (size_t)*n, sizeof **out, compare_mapped_tensor);
    for (int64_t i = 0; i + 1 < *n; i++) {
        if (strcmp((*out)[i].tensor, (*out)[i + 1].tensor) == 0) {
            return mq_fail(MQ_E_INPUT, "%s: weight_map names tensor \"%.200s\" twice", path,
                           (*out)[i].tensor);
        }
    }
    return MQ_OK;
}

/* The different files of a weight_map, sorted. */
static mq_status list_shards(const mapped *map, int64_t n, const char *path, mq_folder_scan *out)
{
    const char **file = NULL;
    int n_shards = 0;
    if (n == 0) return mq_fail(MQ_E_INPUT, "%s: weight_map is empty", path);
    MQ_TRY(mq_alloc(n, sizeof *file, "shard names", (void *)&file));
    int64_t runs = 0, kept = 0;
    for (int64_t i = 0; i < n; i++) { /* neighbours by name are mostly in one file: few to sort */
        if (runs == 0 || strcmp(file[runs - 1], map[i].file) != 0) file[runs++] = map[i].file;
    }
    qsort(file, (size_t)runs, sizeof *file, compare_text);
    for (int64_t i = 0; i < runs; i++) {
        if (kept == 0 || strcmp(file[kept - 1], file[i]) != 0) file[kept++] = file[i];
    }
    mq_status status = mq_to_int(kept, "number of shards", &n_shards);
    if (status == MQ_OK) status = mq_alloc(kept, sizeof *out->shard, "shard names", &out->shard);
    for (; status == MQ_OK && out->n_shards < n_shards; out->n_shards++) {
        status = copy_text(file[out->n_shards], &out->shard[out->n_shards]);
    }
    mq_free((void *)&file);
    return status;
}

/* ---- shards ---------------------------------------------------------------------------------- */

typedef mq_status header_reader(const char *path, mq_header *out);

static mq_status read_headers(const char *path, header_reader *read, mq_folder_scan *out)
{
    MQ_TRY(mq_alloc(out->n_shards, sizeof *out->header, "shard headers", &out->header));
    for (int32_t s = 0; s < out->n_shards; s++) {
        char *file = NULL;
        MQ_TRY(mq_path_join(path, out->shard[s], &file));
        mq_status status = mq_file_exists(file)
                               ? read(file, &out->header[s])
                               : mq_fail(MQ_E_INPUT,
                                         "%s: this shard is missing (shard %d of %d in %s): fetch "
                                         "the model again",
                                         file, s + 1, out->n_shards, index_file);
        mq_free(&file);
        MQ_TRY(status);
    }
    return MQ_OK;
}

static int compare_tensor_name(const void *a, const void *b)
{
    const mq_tensor *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : (x->shard > y->shard) - (x->shard < y->shard);
}

/* All tensors of all shards in one array sorted by name. */
static mq_status merge_headers(const char *path, mq_folder_scan *out)
{
    int64_t total = 0, n = 0;
    for (int32_t s = 0; s < out->n_shards; s++) total += out->header[s].n_tensors;
    MQ_TRY(mq_alloc(total, sizeof *out->tensor, "tensors of a folder", &out->tensor));
    for (int32_t s = 0; s < out->n_shards; s++) {
        for (int64_t i = 0; i < out->header[s].n_tensors; i++, n++) {
            out->tensor[n] = out->header[s].tensor[i];
            out->tensor[n].shard = s;
        }
    }
    out->n_tensors = total;
    qsort(out->tensor, (size_t)total, sizeof *out->tensor, compare_tensor_name);
    for (int64_t i = 0; i + 1 < total; i++) {
        const mq_tensor *t = &out->tensor[i];
        if (strcmp(t[0].name, t[1].name) == 0) {
            return mq_fail(MQ_E_INPUT, "%s: tensor \"%.200s\" is in two shards, %s and %s", path,
                           t->name, out->shard[t[0].shard], out->shard[t[1].shard]);
        }
    }
    return MQ_OK;
}

/* Walks map and tensors, both sorted by name, side by side: they must be the same. */
static mq_status match_map(const char *path, const mapped *map, int64_t n,
                           const mq_folder_scan *scan)
{
    for (int64_t i = 0, j = 0; i < n || j < scan->n_tensors; i++, j++) {
        const mq_tensor *t = j < scan->n_tensors ? &scan->tensor[j] : NULL;
        int order = i == n ? 1 : !t ? -1 : strcmp(map[i].tensor, t->name);
        if (order < 0) {
            return mq_fail(MQ_E_INPUT,
                           "%s: tensor \"%.200s\" is missing from %s, where %s says it is", path,
                           map[i].tensor, map[i].file, index_file);
        }
        if (order > 0) {
            return mq_fail(MQ_E_INPUT, "%s: %s holds tensor \"%.200s\", of which %s knows nothing",
                           path, scan->shard[t->shard], t->name, index_file);
        }
        if (strcmp(map[i].file, scan->shard[t->shard]) != 0) {
            return mq_fail(MQ_E_INPUT, "%s: tensor \"%.200s\" is in %s, but %s says %s", path,
                           t->name, scan->shard[t->shard], index_file, map[i].file);
        }
    }
    return MQ_OK;
}

/* ---- the folder ------------------------------------------------------------------------------ */

static mq_status scan_sharded(const char *path, const char *index_path, const char *text,
                              mq_folder_scan *out)
{
    cJSON *index = NULL;
    mapped *map = NULL;
    int64_t n = 0;
    mq_status status = mq_json_parse(text, index_path, &index);
    if (status == MQ_OK) status = read_weight_map(index, index_path, &map, &n);
    if (status == MQ_OK) status = list_shards(map, n, index_path, out);
    if (status == MQ_OK) status = read_headers(path, mq_header_read, out);
    if (status == MQ_OK) status = merge_headers(path, out);
    if (status == MQ_OK) status = match_map(path, map, n, out);
    mq_free(&map);
    cJSON_Delete(index);
    return status;
}

static mq_status scan_single(const char *path, const char *name, header_reader *read,
                             mq_folder_scan *out)
{
    MQ_TRY(mq_alloc(1, sizeof *out->shard, "shard names", &out->shard));
    MQ_TRY(copy_text(name, &out->shard[0]));
    out->n_shards = 1;
    MQ_TRY(read_headers(path, read, out));
    return merge_headers(path, out);
}

static bool holds(const char *path, const char *name)
{
    char *file = NULL;
    bool found = mq_path_join(path, name, &file) == MQ_OK && mq_file_exists(file);
    mq_free(&file);
    return found;
}

static bool is_gguf(const char *path)
{
    return holds(path, mq_gguf_file) && !holds(path, single_file) && !holds(path, index_file);
}

static mq_status holds_none(const char *path)
{
    if (is_gguf(path)) {
        return mq_fail(MQ_E_INPUT,
                       "%s: holds %s, which is for llama.cpp: evaluate it there, or write --format "
                       "dense with the same settings",
                       path, mq_gguf_file);
    }
    return mq_fail(MQ_E_INPUT, "%s: holds neither %s nor %s; expected %s", path, single_file,
                   index_file, "a Hugging Face model folder with safetensors");
}

static mq_status scan_paths(const char *path, const char *single, const char *index,
                            mq_folder_scan *out)
{
    bool has_index = mq_file_exists(index);
    if (mq_file_exists(single)) {
        if (has_index) {
            mq_warn("%s: holds both %s and %s; the single file is used, as transformers does", path,
                    single_file, index_file);
        }
        return scan_single(path, single_file, mq_header_read, out);
    }
    if (!has_index) return holds_none(path);
    char *text = NULL;
    MQ_TRY(mq_read_text(index, MQ_INDEX_LIMIT, &text, NULL));
    mq_status status = scan_sharded(path, index, text, out);
    mq_free(&text);
    return status;
}

mq_status mq_folder_scan_files(const char *path, mq_folder_scan *out)
{
    char *single = NULL, *index = NULL;
    memset(out, 0, sizeof *out);
    if (!mq_is_folder(path)) return mq_fail(MQ_E_INPUT, "%s: there is no such folder", path);
    mq_status status = mq_path_join(path, single_file, &single);
    if (status == MQ_OK) status = mq_path_join(path, index_file, &index);
    if (status == MQ_OK) status = scan_paths(path, single, index, out);
    mq_free(&single);
    mq_free(&index);
    return status;
}

mq_status mq_folder_scan_gguf(const char *path, mq_folder_scan *out)
{
    memset(out, 0, sizeof *out);
    return scan_single(path, mq_gguf_file, mq_gguf_read, out);
}

mq_status mq_folder_scan_any(const char *path, mq_folder_scan *out)
{
    return is_gguf(path) ? mq_folder_scan_gguf(path, out) : mq_folder_scan_files(path, out);
}

void mq_folder_scan_clear(mq_folder_scan *scan)
{
    for (int32_t s = 0; s < scan->n_shards; s++) {
        if (scan->header) mq_header_clear(&scan->header[s]);
        mq_free(&scan->shard[s]);
    }
    mq_free(&scan->header);
    mq_free(&scan->shard);
    mq_free(&scan->tensor);
    memset(scan, 0, sizeof *scan);
}
