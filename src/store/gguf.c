#include "store/gguf.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "format/gguf.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char mq_gguf_magic[] = "GGUF";
const char mq_gguf_file[] = "model.gguf";

enum { KEY_LIMIT = 1 << 16, LEAST_PAIR = 8 + 4 + 1, LEAST_TENSOR = 8 + 4 + 8 + 4 + 8 };

/* A file that is read from its start to its end. */
typedef struct reader {
    const char *path;
    FILE *file;
    uint64_t at, size;
    char key[KEY_LIMIT];
    uint64_t *hash; /* (n_pairs) of the keys */
} reader;

/* ---- bytes ----------------------------------------------------------------------------------- */

static mq_status truncated(const reader *r)
{
    return mq_fail(MQ_E_INPUT,
                   "%s: ends after %" PRIu64 " bytes, inside its header: truncated, "
                   "copy it again",
                   r->path, r->size);
}

static mq_status take(reader *r, void *to, size_t bytes)
{
    if (bytes > r->size - r->at) return truncated(r);
    if (bytes > 0 && fread(to, bytes, 1, r->file) != 1) {
        return mq_fail(MQ_E_IO, "%s: cannot read: %s", r->path, mq_errno_text(errno));
    }
    r->at += bytes;
    return MQ_OK;
}

static mq_status skip(reader *r, uint64_t bytes)
{
    if (bytes > r->size - r->at) return truncated(r);
    if (fseeko(r->file, (off_t)bytes, SEEK_CUR) != 0) {
        return mq_fail(MQ_E_IO, "%s: cannot read: %s", r->path, mq_errno_text(errno));
    }
    r->at += bytes;
    return MQ_OK;
}

/* A string of less than `room` bytes: UTF-8, without NUL bytes inside. */
static mq_status take_name(reader *r, char *to, size_t room, const char *what)
{
    uint64_t length = 0;
    MQ_TRY(take(r, &length, sizeof length));
    if (length >= room) {
        return mq_fail(MQ_E_INPUT, "%s: a %s of %" PRIu64 " bytes, expected less than %zu", r->path,
                       what, length, room);
    }
    MQ_TRY(take(r, to, (size_t)length));
    to[length] = '\0';
    if (strlen(to) == length && mq_is_utf8(to)) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: the %s \"%s\" holds a NUL byte, or is not UTF-8", r->path, what,
                   to);
}

/* ---- pairs ----------------------------------------------------------------------------------- */

/* Bytes of a value; 0 for strings and arrays. */
static const uint8_t kind_bytes[MQ_GGUF_N_KINDS] = {
    [MQ_GGUF_U8] = 1,  [MQ_GGUF_I8] = 1,  [MQ_GGUF_U16] = 2, [MQ_GGUF_I16] = 2,
    [MQ_GGUF_U32] = 4, [MQ_GGUF_I32] = 4, [MQ_GGUF_F32] = 4, [MQ_GGUF_BOOL] = 1,
    [MQ_GGUF_U64] = 8, [MQ_GGUF_I64] = 8, [MQ_GGUF_F64] = 8};

static mq_status take_kind(reader *r, mq_gguf_kind *kind)
{
    uint32_t number = 0;
    MQ_TRY(take(r, &number, sizeof number));
    *kind = (mq_gguf_kind)number;
    if (number < MQ_GGUF_N_KINDS) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: key \"%s\" has a value of the unknown kind %" PRIu32, r->path,
                   r->key, number);
}

static mq_status skip_values(reader *r, mq_gguf_kind kind, uint64_t n)
{
    if (kind != MQ_GGUF_STRING) {
        return n > r->size ? truncated(r) : skip(r, n * kind_bytes[kind]);
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t length = 0;
        MQ_TRY(take(r, &length, sizeof length));
        MQ_TRY(skip(r, length));
    }
    return MQ_OK;
}

static mq_status skip_array(reader *r)
{
    mq_gguf_kind kind = MQ_GGUF_U8;
    uint64_t n = 0;
    MQ_TRY(take_kind(r, &kind));
    MQ_TRY(take(r, &n, sizeof n));
    if (kind != MQ_GGUF_ARRAY) return skip_values(r, kind, n);
    return mq_fail(MQ_E_INPUT, "%s: key \"%s\" has an array of arrays", r->path, r->key);
}

static mq_status read_pair(reader *r, uint64_t *hash)
{
    mq_gguf_kind kind = MQ_GGUF_U8;
    MQ_TRY(take_name(r, r->key, sizeof r->key, "key"));
    MQ_TRY(take_kind(r, &kind));
    if (strcmp(r->key, "general.alignment") == 0) {
        return mq_fail(MQ_E_INPUT, "%s: has an alignment of its own, expected %d, the usual one",
                       r->path, MQ_GGUF_ALIGNMENT);
    }
    *hash = mq_hash(r->key, strlen(r->key));
    return kind == MQ_GGUF_ARRAY ? skip_array(r) : skip_values(r, kind, 1);
}

static int compare_hashes(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static mq_status read_pairs(reader *r, uint64_t n)
{
    if (n > r->size / LEAST_PAIR) return truncated(r);
    MQ_TRY(mq_alloc((int64_t)n, sizeof *r->hash, "keys of a GGUF file", &r->hash));
    for (uint64_t i = 0; i < n; i++) MQ_TRY(read_pair(r, &r->hash[i]));
    qsort(r->hash, (size_t)n, sizeof *r->hash, compare_hashes);
    for (uint64_t i = 0; i + 1 < n; i++) {
        if (r->hash[i] == r->hash[i + 1]) {
            return mq_fail(MQ_E_INPUT, "%s: holds a key twice", r->path);
        }
    }
    return MQ_OK;
}

/* ---- tensors --------------------------------------------------------------------------------- */

/* Fills the shape and gives the bytes. */
static mq_status take_shape(reader *r, mq_tensor *t, const uint64_t ne[MQ_GGUF_DIMS],
                            uint64_t *bytes)
{
    uint64_t weights = (uint64_t)mq_dtype_weights(t->dtype);
    *bytes = mq_dtype_size(t->dtype);
    for (int d = 0; d < t->n_dims; d++) {
        uint64_t dim = d == 0 ? ne[d] / weights : ne[d];
        bool whole = d > 0 || ne[d] % weights == 0;
        if (!whole || dim == 0 || *bytes > r->size / dim) {
            return mq_fail(MQ_E_INPUT,
                           "%s: tensor \"%s\": dimension %d is %" PRIu64
                           ", which its type or the file cannot hold",
                           r->path, t->name, d, ne[d]);
        }
        *bytes *= dim;
        t->dim[t->n_dims - 1 - d] = (int64_t)dim;
    }
    return MQ_OK;
}

static mq_status truncated_data(const reader *r, const char *name)
{
    return mq_fail(MQ_E_INPUT,
                   "%s: has %" PRIu64 " bytes, too few for tensor \"%s\": truncated, copy it again",
                   r->path, r->size, name);
}

static mq_status take_type(reader *r, mq_tensor *t)
{
    uint32_t number = 0;
    MQ_TRY(take(r, &number, sizeof number));
    if (mq_gguf_type_find(number, &t->dtype)) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: tensor \"%s\" is of type %" PRIu32 ", which is not known here",
                   r->path, t->name, number);
}

static mq_status read_tensor(reader *r, mq_tensor *t, uint64_t expected)
{
    uint64_t ne[MQ_GGUF_DIMS] = {0}, bytes = 0;
    uint32_t n_dims = 0;
    MQ_TRY(take_name(r, t->name, MQ_GGUF_NAME_LIMIT, "tensor name"));
    MQ_TRY(take(r, &n_dims, sizeof n_dims));
    if (n_dims < 1 || n_dims > MQ_GGUF_DIMS) {
        return mq_fail(MQ_E_INPUT, "%s: tensor \"%s\" has %" PRIu32 " dimensions, expected 1 to %d",
                       r->path, t->name, n_dims, MQ_GGUF_DIMS);
    }
    t->n_dims = (int)n_dims;
    MQ_TRY(take(r, ne, n_dims * sizeof *ne));
    MQ_TRY(take_type(r, t));
    MQ_TRY(take_shape(r, t, ne, &bytes));
    MQ_TRY(take(r, &t->begin, sizeof t->begin));
    if (t->begin != expected) {
        return mq_fail(MQ_E_INPUT,
                       "%s: tensor \"%s\" begins at byte %" PRIu64 " of the data, expected %" PRIu64
                       ": a hole or an overlap",
                       r->path, t->name, t->begin, expected);
    }
    if (t->begin > r->size || bytes > r->size - t->begin) return truncated_data(r, t->name);
    t->end = t->begin + bytes;
    return MQ_OK;
}

static uint64_t align(uint64_t at)
{
    return (at + MQ_GGUF_ALIGNMENT - 1) / MQ_GGUF_ALIGNMENT * MQ_GGUF_ALIGNMENT;
}

static int compare_tensor_names(const void *a, const void *b)
{
    return strcmp(((const mq_tensor *)a)->name, ((const mq_tensor *)b)->name);
}

static mq_status sort_tensors(const reader *r, mq_header *h)
{
    qsort(h->tensor, (size_t)h->n_tensors, sizeof *h->tensor, compare_tensor_names);
    for (int64_t i = 0; i + 1 < h->n_tensors; i++) {
        if (strcmp(h->tensor[i].name, h->tensor[i + 1].name) == 0) {
            return mq_fail(MQ_E_INPUT, "%s: holds two tensors named \"%s\"", r->path,
                           h->tensor[i].name);
        }
    }
    return MQ_OK;
}

static mq_status read_tensors(reader *r, uint64_t n, mq_header *h)
{
    uint64_t at = 0;
    if (n > r->size / LEAST_TENSOR) return truncated(r);
    MQ_TRY(mq_alloc((int64_t)n, sizeof *h->tensor, "tensors of a GGUF file", &h->tensor));
    MQ_TRY(mq_alloc((int64_t)n, MQ_GGUF_NAME_LIMIT, "names of a GGUF file", &h->names));
    for (; h->n_tensors < (int64_t)n; h->n_tensors++) {
        mq_tensor *t = &h->tensor[h->n_tensors];
        t->name = h->names + h->n_tensors * MQ_GGUF_NAME_LIMIT;
        MQ_TRY(read_tensor(r, t, at));
        at = align(t->end);
    }
    h->data_start = align(r->at);
    if (h->data_start <= r->size && at == r->size - h->data_start) return sort_tensors(r, h);
    return mq_fail(MQ_E_INPUT,
                   "%s: its data should be %" PRIu64 " bytes from byte %" PRIu64
                   ", but the file has %" PRIu64 " bytes: truncated, or bytes too many",
                   r->path, at, h->data_start, r->size);
}

/* ---- the file -------------------------------------------------------------------------------- */

static mq_status read_all(reader *r, mq_header *out)
{
    char magic[4];
    uint32_t version = 0;
    uint64_t n_tensors = 0, n_pairs = 0;
    MQ_TRY(take(r, magic, sizeof magic));
    MQ_TRY(take(r, &version, sizeof version));
    if (memcmp(magic, mq_gguf_magic, sizeof magic) != 0 || version != MQ_GGUF_VERSION) {
        return mq_fail(MQ_E_INPUT, "%s: not a GGUF file of version %d", r->path, MQ_GGUF_VERSION);
    }
    MQ_TRY(take(r, &n_tensors, sizeof n_tensors));
    MQ_TRY(take(r, &n_pairs, sizeof n_pairs));
    MQ_TRY(read_pairs(r, n_pairs));
    return read_tensors(r, n_tensors, out);
}

static mq_status read_open(reader *r, mq_header *out)
{
    struct stat s;
    if (fstat(fileno(r->file), &s) != 0 || !S_ISREG(s.st_mode)) {
        return mq_fail(MQ_E_IO, "%s: not a regular file", r->path);
    }
    r->size = (uint64_t)s.st_size;
    return read_all(r, out);
}

mq_status mq_gguf_read(const char *path, mq_header *out)
{
    reader *r = NULL;
    memset(out, 0, sizeof *out);
    MQ_TRY(mq_alloc(1, sizeof *r, "reader of a GGUF file", &r));
    r->path = path;
    r->file = fopen(path, "rb");
    mq_status status = r->file
                           ? read_open(r, out)
                           : mq_fail(MQ_E_IO, "%s: cannot open: %s", path, mq_errno_text(errno));
    if (r->file) fclose(r->file);
    mq_free(&r->hash);
    mq_free(&r);
    if (status != MQ_OK) mq_header_clear(out);
    return status;
}
