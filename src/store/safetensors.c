#include "store/safetensors.h"

#include "base/checked.h"
#include "base/file.h"
#include "base/memory.h"
#include "store/json_scan.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is collected while the text is walked. Names go one after the other into an arena as long
 * as the text, which cannot overflow: a decoded name is shorter than its quoted source. */
typedef struct parse {
    mq_scan scan;
    char *arena;
    size_t used;
    mq_tensor *tensor;
    int64_t n, capacity;
    bool seen_metadata;
} parse;

/* ---- grammar --------------------------------------------------------------------------------- */

static mq_status metadata(parse *p)
{
    bool more = false;
    if (p->seen_metadata) return mq_scan_fail(&p->scan, "__metadata__ twice");
    p->seen_metadata = true;
    if (mq_scan_null(&p->scan)) return MQ_OK;
    MQ_TRY(mq_scan_open(&p->scan, '{', &more));
    while (more) {
        MQ_TRY(mq_scan_string(&p->scan, NULL, NULL));
        MQ_TRY(mq_scan_colon(&p->scan));
        MQ_TRY(mq_scan_string(&p->scan, NULL, NULL));
        MQ_TRY(mq_scan_more(&p->scan, '}', &more));
    }
    return MQ_OK;
}

static mq_status dtype_field(parse *p, mq_tensor *t)
{
    char *text = p->arena + p->used;
    size_t length = 0;
    MQ_TRY(mq_scan_string(&p->scan, text, &length));
    if (mq_dtype_parse(text, length, &t->dtype)) return MQ_OK;
    return mq_scan_fail(&p->scan, "unknown dtype");
}

static mq_status shape_field(parse *p, mq_tensor *t)
{
    bool more = false;
    MQ_TRY(mq_scan_open(&p->scan, '[', &more));
    for (t->n_dims = 0; more;) {
        uint64_t dim = 0;
        if (t->n_dims == MQ_MAX_DIMS) return mq_scan_fail(&p->scan, "more than 8 dimensions");
        MQ_TRY(mq_scan_u64(&p->scan, &dim));
        if (dim > INT64_MAX) return mq_scan_fail(&p->scan, "a dimension past 2^63 - 1");
        t->dim[t->n_dims++] = (int64_t)dim;
        MQ_TRY(mq_scan_more(&p->scan, ']', &more));
    }
    return MQ_OK;
}

static mq_status offsets_field(parse *p, mq_tensor *t)
{
    uint64_t *offset[2] = {&t->begin, &t->end};
    bool more = false;
    int n = 0;
    MQ_TRY(mq_scan_open(&p->scan, '[', &more));
    for (; more; n++) {
        if (n == 2) return mq_scan_fail(&p->scan, "more than two data_offsets");
        MQ_TRY(mq_scan_u64(&p->scan, offset[n]));
        MQ_TRY(mq_scan_more(&p->scan, ']', &more));
    }
    return n == 2 ? MQ_OK : mq_scan_fail(&p->scan, "fewer than two data_offsets");
}

/* One member of a tensor entry; a bit of *seen per known field. */
static mq_status entry_field(parse *p, mq_tensor *t, unsigned *seen)
{
    static const char *const known[] = {"dtype", "shape", "data_offsets"};
    char *key = p->arena + p->used;
    size_t length = 0;
    MQ_TRY(mq_scan_string(&p->scan, key, &length));
    unsigned which = 0;
    while (which < 3 && (strlen(known[which]) != length || memcmp(known[which], key, length) != 0))
        which++;
    MQ_TRY(mq_scan_colon(&p->scan));
    if (which == 3) return mq_scan_skip(&p->scan);
    if (*seen & 1u << which) return mq_scan_fail(&p->scan, "a field of a tensor twice");
    *seen |= 1u << which;
    if (which == 0) return dtype_field(p, t);
    return which == 1 ? shape_field(p, t) : offsets_field(p, t);
}

static mq_status entry(parse *p, mq_tensor *t)
{
    bool more = false;
    unsigned seen = 0;
    MQ_TRY(mq_scan_open(&p->scan, '{', &more));
    while (more) {
        MQ_TRY(entry_field(p, t, &seen));
        MQ_TRY(mq_scan_more(&p->scan, '}', &more));
    }
    if (seen != 7) return mq_scan_fail(&p->scan, "a tensor lacks dtype, shape or data_offsets");
    return MQ_OK;
}

static mq_status room_for_one(parse *p)
{
    if (p->n < p->capacity) return MQ_OK;
    int64_t capacity = p->capacity ? 2 * p->capacity : 256;
    mq_tensor *larger = NULL;
    MQ_TRY(mq_alloc(capacity, sizeof *larger, "safetensors header", &larger));
    if (p->n > 0) memcpy(larger, p->tensor, (size_t)p->n * sizeof *larger);
    mq_free(&p->tensor);
    p->tensor = larger;
    p->capacity = capacity;
    return MQ_OK;
}

static mq_status top_member(parse *p)
{
    char *name = p->arena + p->used;
    size_t length = 0;
    MQ_TRY(mq_scan_string(&p->scan, name, &length));
    MQ_TRY(mq_scan_colon(&p->scan));
    if (strcmp(name, "__metadata__") == 0 && length == 12) return metadata(p);
    if (strlen(name) != length) return mq_scan_fail(&p->scan, "a tensor name holds U+0000");
    MQ_TRY(room_for_one(p));
    mq_tensor *t = &p->tensor[p->n];
    t->name = name;
    p->used += length + 1;
    mq_status status = entry(p, t);
    if (status != MQ_OK) return mq_fail_in(status, "tensor \"%.200s\"", name);
    p->n++;
    return MQ_OK;
}

static mq_status whole_text(parse *p)
{
    bool more = false;
    mq_scan_space(&p->scan);
    MQ_TRY(mq_scan_open(&p->scan, '{', &more));
    while (more) {
        MQ_TRY(top_member(p));
        MQ_TRY(mq_scan_more(&p->scan, '}', &more));
    }
    mq_scan_space(&p->scan);
    if (p->scan.at != p->scan.length) return mq_scan_fail(&p->scan, "text after the header");
    return MQ_OK;
}

/* ---- order and layout ------------------------------------------------------------------------ */

/* By name, then by place in the text (both point into the same array). */
static int compare_names(const void *a, const void *b)
{
    const mq_tensor *x = *(const mq_tensor *const *)a, *y = *(const mq_tensor *const *)b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : (x > y) - (x < y);
}

static int compare_offsets(const void *a, const void *b)
{
    const mq_tensor *x = *(const mq_tensor *const *)a, *y = *(const mq_tensor *const *)b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Moves the tensors into *out sorted by name; of a name given twice the last one counts. */
static mq_status sort_by_name(const parse *p, const mq_tensor **order, mq_header *out)
{
    for (int64_t i = 0; i < p->n; i++) order[i] = &p->tensor[i];
    qsort(order, (size_t)p->n, sizeof(*order), compare_names);
    MQ_TRY(mq_alloc(p->n, sizeof *out->tensor, "safetensors header", &out->tensor));
    for (int64_t i = 0; i < p->n; i++) {
        bool last = i + 1 == p->n || strcmp(order[i]->name, order[i + 1]->name) != 0;
        if (last) out->tensor[out->n_tensors++] = *order[i];
    }
    return MQ_OK;
}

/* shape x dtype in bytes as the reference counts: left to right, so that an overflow before a zero
 * is an error and one after a zero is not. */
static mq_status shape_bytes(const char *path, const mq_tensor *t, uint64_t *bytes)
{
    char text[128];
    size_t bits = 1;
    mq_status status = MQ_OK;
    for (int i = 0; i < t->n_dims && status == MQ_OK; i++) {
        status = mq_mul_size(bits, (size_t)t->dim[i], &bits);
    }
    if (status == MQ_OK) status = mq_mul_size(bits, (size_t)mq_dtype_bits(t->dtype), &bits);
    if (status != MQ_OK) {
        return mq_fail(MQ_E_INPUT, "%s: tensor \"%.200s\": %s has more than 2^64 bits", path,
                       t->name, mq_tensor_describe(t, text, sizeof text));
    }
    if (bits % 8 != 0) {
        return mq_fail(MQ_E_INPUT, "%s: tensor \"%.200s\": %s does not fill whole bytes", path,
                       t->name, mq_tensor_describe(t, text, sizeof text));
    }
    *bytes = bits / 8;
    return MQ_OK;
}

static mq_status check_range(const char *path, const mq_tensor *t, uint64_t expected_begin)
{
    char text[128];
    uint64_t bytes = 0;
    if (t->begin != expected_begin || t->end < t->begin) {
        return mq_fail(MQ_E_INPUT,
                       "%s: tensor \"%.200s\": data_offsets [%" PRIu64 ", %" PRIu64
                       "] %s; expected to begin at %" PRIu64,
                       path, t->name, t->begin, t->end,
                       t->end < t->begin           ? "run backwards"
                       : t->begin < expected_begin ? "overlap the tensor before"
                                                   : "leave a hole",
                       expected_begin);
    }
    MQ_TRY(shape_bytes(path, t, &bytes));
    if (t->end - t->begin == bytes) return MQ_OK;
    return mq_fail(
        MQ_E_INPUT,
        "%s: tensor \"%.200s\": %s takes %" PRIu64 " bytes, but its data_offsets hold %" PRIu64,
        path, t->name, mq_tensor_describe(t, text, sizeof text), bytes, t->end - t->begin);
}

/* In order of offset every tensor must begin where the one before ended, and the last one end
 * where the file does. */
static mq_status check_layout(const char *path, const mq_header *h, uint64_t data_bytes,
                              const mq_tensor **order)
{
    uint64_t at = 0;
    for (int64_t i = 0; i < h->n_tensors; i++) order[i] = &h->tensor[i];
    qsort(order, (size_t)h->n_tensors, sizeof(*order), compare_offsets);
    for (int64_t i = 0; i < h->n_tensors; i++) {
        MQ_TRY(check_range(path, order[i], at));
        at = order[i]->end;
    }
    if (at == data_bytes) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: the tensors end at byte %" PRIu64
                   " of the data, but the file holds %" PRIu64 " bytes of data: %s, copy it again",
                   path, at, data_bytes, at > data_bytes ? "truncated" : "bytes too many");
}

mq_status mq_header_scan(const char *path, const char *text, size_t length, uint64_t data_bytes,
                         mq_header *out)
{
    parse p = {.scan = {.path = path, .text = text, .length = length}};
    const mq_tensor **order = NULL;
    memset(out, 0, sizeof *out);
    out->data_start = 8 + (uint64_t)length;
    mq_status status = mq_alloc((int64_t)length + 1, 1, "safetensors names", &p.arena);
    if (status == MQ_OK) status = whole_text(&p);
    if (status == MQ_OK) {
        status = mq_alloc(p.n, sizeof *order, "order of safetensors names", (void *)&order);
    }
    if (status == MQ_OK) status = sort_by_name(&p, order, out);
    if (status == MQ_OK) status = check_layout(path, out, data_bytes, order);
    out->names = p.arena;
    if (status != MQ_OK) mq_header_clear(out);
    mq_free((void *)&order);
    mq_free(&p.tensor);
    return status;
}

/* ---- files ----------------------------------------------------------------------------------- */

static mq_status read_length_word(int fd, const char *path, uint64_t file_bytes, uint64_t *n)
{
    unsigned char word[8];
    if (file_bytes < 8) {
        return mq_fail(MQ_E_INPUT, "%s: %" PRIu64 " bytes are too few for a safetensors file", path,
                       file_bytes);
    }
    MQ_TRY(mq_pread_all(fd, path, word, sizeof word, 0));
    *n = 0;
    for (int i = 7; i >= 0; i--) *n = *n << 8 | word[i];
    if (*n > MQ_HEADER_LIMIT) {
        return mq_fail(MQ_E_INPUT,
                       "%s: header of %" PRIu64 " bytes; at most %" PRIu64
                       " are allowed: is this a safetensors file?",
                       path, *n, MQ_HEADER_LIMIT);
    }
    if (*n > file_bytes - 8) {
        return mq_fail(MQ_E_INPUT,
                       "%s: header of %" PRIu64 " bytes, but the file ends after %" PRIu64
                       ": truncated, copy it again",
                       path, *n, file_bytes - 8);
    }
    return MQ_OK;
}

static mq_status read_open_file(int fd, const char *path, mq_header *out)
{
    struct stat s;
    uint64_t n = 0;
    char *text = NULL;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        return mq_fail(MQ_E_IO, "%s: not a regular file", path);
    }
    MQ_TRY(read_length_word(fd, path, (uint64_t)s.st_size, &n));
    MQ_TRY(mq_alloc((int64_t)n, 1, "safetensors header", &text));
    mq_status status = mq_pread_all(fd, path, text, (size_t)n, 8);
    if (status == MQ_OK) {
        status = mq_header_scan(path, text, (size_t)n, (uint64_t)s.st_size - 8 - n, out);
    }
    mq_free(&text);
    return status;
}

mq_status mq_header_read(const char *path, mq_header *out)
{
    memset(out, 0, sizeof *out);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mq_fail(MQ_E_IO, "%s: cannot open: %s", path, mq_errno_text(errno));
    mq_status status = read_open_file(fd, path, out);
    close(fd);
    return status;
}

void mq_header_clear(mq_header *header)
{
    mq_free(&header->tensor);
    mq_free(&header->names);
    memset(header, 0, sizeof *header);
}

/* ---- lookups --------------------------------------------------------------------------------- */

static int compare_name_with_tensor(const void *name, const void *tensor)
{
    return strcmp(name, ((const mq_tensor *)tensor)->name);
}

const mq_tensor *mq_tensor_find(const mq_tensor *sorted, int64_t n, const char *name)
{
    return n == 0 ? NULL
                  : bsearch(name, sorted, (size_t)n, sizeof *sorted, compare_name_with_tensor);
}

const mq_tensor *mq_header_find(const mq_header *header, const char *name)
{
    return mq_tensor_find(header->tensor, header->n_tensors, name);
}

mq_status mq_tensor_count(const mq_tensor *tensor, int64_t *count)
{
    for (int i = 0; i < tensor->n_dims; i++) {
        if (tensor->dim[i] == 0) {
            *count = 0;
            return MQ_OK;
        }
    }
    mq_status status = mq_count(tensor->dim, tensor->n_dims, count);
    return status == MQ_OK ? MQ_OK : mq_fail_in(status, "tensor \"%.200s\"", tensor->name);
}

const char *mq_tensor_describe(const mq_tensor *tensor, char *text, size_t bytes)
{
    int used = snprintf(text, bytes, "%s [", mq_dtype_name(tensor->dtype));
    for (int i = 0; i < tensor->n_dims && used > 0 && (size_t)used < bytes; i++) {
        used += snprintf(text + used, bytes - (size_t)used, "%s%" PRId64, i ? ", " : "",
                         tensor->dim[i]);
    }
    if (used > 0 && (size_t)used < bytes) snprintf(text + used, bytes - (size_t)used, "]");
    return text;
}
