#include "base/checked.h"
#include "base/memory.h"
#include "store/folder_private.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

/* What a piece is read into, and what it is converted to, stay in the core's own cache until they
 * are tested. */
enum { PIECE_BYTES = 1 << 20 };

/* Mapped at a time: enough for the cost of mapping not to count. */
enum { VIEW_BYTES = 8 << 20 };

/* One call's constants, and its buffers. */
typedef struct row_read {
    mq_folder *folder;
    const mq_tensor *tensor;
    mq_dtype dtype; /* wanted */
    char *raw;      /* a piece as stored; NULL when it is read straight to its place, or mapped */
    float *wide;    /* a piece as f32; NULL when one conversion is enough */
    mq_view view;   /* of elements from view_first on; closed: nothing is mapped */
    int64_t view_first;
} row_read;

/* Whether an exponent of all ones is among n values: adding one to the lowest bit of such an
 * exponent carries into the sign's place, which masking has cleared. No early exit, and sums no
 * wider than the values, so that the loops vectorise. */
static bool holds_non_finite_16(const uint16_t *x, uint16_t exponent, uint16_t lowest, int64_t n)
{
    uint16_t bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= (uint16_t)((x[i] & exponent) + lowest);
    return bad >> 15 != 0;
}

static bool holds_non_finite_32(const char *x, int64_t n)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = 0;
        memcpy(&bits, x + i * 4, sizeof bits);
        bad |= (bits & 0x7F800000u) + 0x00800000u;
    }
    return bad >> 31 != 0;
}

static bool holds_non_finite(const void *data, mq_dtype dtype, int64_t n)
{
    if (dtype == MQ_F32) return holds_non_finite_32(data, n);
    if (dtype == MQ_F16) return holds_non_finite_16(data, 0x7C00, 0x0400, n);
    return holds_non_finite_16(data, 0x7F80, 0x0080, n);
}

mq_status mq_folder_check_finite(const mq_folder *folder, const mq_tensor *tensor, mq_dtype dtype,
                                 int64_t first, const void *data, int64_t n)
{
    bool floats = dtype == MQ_F32 || dtype == MQ_BF16 || dtype == MQ_F16;
    if (!floats || !holds_non_finite(data, dtype, n)) return MQ_OK;
    size_t size = mq_dtype_size(dtype);
    int64_t at = 0, columns = tensor->n_dims > 0 ? tensor->dim[tensor->n_dims - 1] : 1;
    while (!holds_non_finite((const char *)data + (size_t)at * size, dtype, 1)) at++;
    return mq_fail(MQ_E_NUMERIC,
                   "tensor \"%.200s\" in %s: row %" PRId64 ", column %" PRId64
                   " is NaN, inf, or too large for %s (stored as %s): the checkpoint is damaged",
                   tensor->name, folder->shard[tensor->shard], (first + at) / columns,
                   (first + at) % columns, mq_dtype_name(dtype), mq_dtype_name(tensor->dtype));
}

/* Elements [first, first + n) as stored: mapped, or read. */
static mq_status fetch(const row_read *r, int64_t first, int64_t n, void *dst, const void **stored)
{
    size_t size = mq_dtype_size(r->tensor->dtype);
    void *to = r->raw ? r->raw : dst;
    if (r->view.data) {
        *stored = r->view.data + (size_t)(first - r->view_first) * size;
        return MQ_OK;
    }
    *stored = to;
    return mq_folder_read(r->folder, r->tensor, (uint64_t)first * size, (size_t)n * size, to);
}

/* Elements [first, first + n) of the tensor to dst. What has 16 bits stays finite when it is
 * converted, and is looked at as it is stored; the rest may be too large for its new type. */
static mq_status read_piece(const row_read *r, int64_t first, int64_t n, void *dst)
{
    mq_dtype type = r->tensor->dtype;
    float *wide = r->wide ? r->wide : dst;
    bool narrow = type == MQ_BF16 || type == MQ_F16;
    const void *stored = NULL;
    MQ_TRY(fetch(r, first, n, dst, &stored));
    if (narrow) MQ_TRY(mq_folder_check_finite(r->folder, r->tensor, type, first, stored, n));
    if (stored != dst) MQ_TRY(mq_to_f32(stored, type, n, wide));
    if (r->wide) MQ_TRY(mq_from_f32(wide, n, r->dtype, dst));
    if (narrow) return MQ_OK;
    return mq_folder_check_finite(r->folder, r->tensor, r->dtype, first, dst, n);
}

/* Elements in a piece, whose stored and widened forms are at most so many bytes. */
static int64_t elements_of(const row_read *r, int64_t bytes)
{
    int64_t size = (int64_t)mq_dtype_size(r->tensor->dtype);
    return bytes / (size > 4 ? size : 4);
}

static mq_status read_pieces(const row_read *r, int64_t first, int64_t n, char *dst)
{
    int64_t piece = elements_of(r, PIECE_BYTES), size = (int64_t)mq_dtype_size(r->dtype);
    for (int64_t done = 0; done < n; done += piece) {
        MQ_TRY(read_piece(r, first + done, mq_min_i64(piece, n - done), dst + done * size));
    }
    return MQ_OK;
}

static mq_status read_views(row_read *r, int64_t first, int64_t n, char *dst)
{
    int64_t window = elements_of(r, VIEW_BYTES), size = (int64_t)mq_dtype_size(r->dtype);
    for (int64_t done = 0; done < n; done += window) {
        int64_t m = mq_min_i64(window, n - done);
        r->view_first = first + done;
        MQ_TRY(mq_folder_view_open(r->folder, r->tensor, r->view_first, m, &r->view));
        mq_status status = read_pieces(r, r->view_first, m, dst + done * size);
        mq_status after = mq_folder_view_close(r->folder, r->tensor, &r->view);
        if (status == MQ_OK) status = after;
        if (status != MQ_OK) return status;
    }
    return MQ_OK;
}

/* A view pays where it takes the place of a copy: where numbers are converted. */
static bool reads_mapped(const row_read *r)
{
    const mq_tensor *t = r->tensor;
    uint64_t at = r->folder->data_start[t->shard] + t->begin;
    return r->folder->mapped && t->dtype != r->dtype && at % mq_dtype_size(t->dtype) == 0;
}

static mq_status read_elements(row_read *r, int64_t first, int64_t n, void *dst)
{
    bool mapped = reads_mapped(r), converts = r->tensor->dtype != r->dtype;
    int64_t piece = mq_min_i64(n, elements_of(r, PIECE_BYTES));
    mq_status status = MQ_OK;
    if (converts && !mapped) {
        status = mq_alloc(piece, mq_dtype_size(r->tensor->dtype), "piece of a tensor", &r->raw);
    }
    if (status == MQ_OK && converts && r->dtype != MQ_F32) {
        status = mq_alloc(piece, sizeof(float), "piece of a tensor", &r->wide);
    }
    if (status == MQ_OK) {
        status = mapped ? read_views(r, first, n, dst) : read_pieces(r, first, n, dst);
    }
    mq_free(&r->raw);
    mq_free(&r->wide);
    return status;
}

static bool is_float(mq_dtype dtype)
{
    return dtype == MQ_F32 || dtype == MQ_F16 || dtype == MQ_BF16 || dtype == MQ_F64;
}

mq_status mq_folder_read_rows(mq_folder *folder, const mq_tensor *tensor, int64_t r0, int64_t r1,
                              mq_dtype dtype, void *dst)
{
    char text[128];
    int64_t first = 0, n = 0;
    int64_t n_columns = 1;
    row_read r = {.folder = folder, .tensor = tensor, .dtype = dtype};
    if (!is_float(tensor->dtype) || tensor->n_dims < 1 || tensor->n_dims > 3) {
        return mq_fail(
            MQ_E_INPUT,
            "tensor \"%.200s\" is %s; expected 1 to 3 dimensions of F32, F16, BF16 or F64",
            tensor->name, mq_tensor_describe(tensor, text, sizeof text));
    }
    if (dtype != MQ_F32 && dtype != MQ_BF16) {
        return mq_fail(MQ_E_INTERNAL, "rows are read as F32 or BF16, not %s", mq_dtype_name(dtype));
    }
    if (r0 < 0 || r1 < r0 || r1 > tensor->dim[0]) {
        return mq_fail(MQ_E_INTERNAL,
                       "tensor \"%.200s\" is %s; asked for rows %" PRId64 " to %" PRId64,
                       tensor->name, mq_tensor_describe(tensor, text, sizeof text), r0, r1);
    }
    for (int d = 1; d < tensor->n_dims; d++) {
        MQ_TRY(mq_mul_i64(n_columns, tensor->dim[d], &n_columns));
    }
    MQ_TRY(mq_mul_i64(r0, n_columns, &first));
    MQ_TRY(mq_mul_i64(r1 - r0, n_columns, &n));
    return read_elements(&r, first, n, dst);
}
