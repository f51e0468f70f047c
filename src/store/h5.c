#include "store/h5.h"

#include "base/checked.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "store/h5_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 1 << 16 }; /* elements converted at a time */

/* ---- the file -------------------------------------------------------------------------------- */

/* Without the lock that HDF5 takes also for reading: network file systems often refuse it. */
static hid_t open_unlocked(const char *path)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access < 0) return H5I_INVALID_HID;
    hid_t file = H5Pset_file_locking(access, false, true) < 0
                     ? H5I_INVALID_HID
                     : H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    return file;
}

/* Tells a file that cannot be read from one that is not HDF5. */
static mq_status check_readable(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char byte = 0;
    if (fd < 0) return mq_fail(MQ_E_IO, "%s: cannot open: %s", path, mq_errno_text(errno));
    ssize_t got = read(fd, &byte, 1);
    int reason = errno;
    close(fd);
    if (got >= 0) return MQ_OK;
    return mq_fail(MQ_E_IO, "%s: cannot read: %s", path, mq_errno_text(reason));
}

mq_status mq_h5_open(const char *path, mq_h5 **out)
{
    *out = NULL;
    MQ_TRY(check_readable(path));
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* our messages instead of its stack */
    hid_t file = open_unlocked(path);
    if (file < 0) {
        return mq_fail(MQ_E_INPUT, "%s: not an HDF5 file, or damaged: write it again", path);
    }
    size_t bytes = strlen(path) + 1;
    mq_h5 *h = NULL;
    mq_status status = mq_alloc(1, sizeof *h, "HDF5 file", &h);
    if (status == MQ_OK) status = mq_alloc((int64_t)bytes, 1, "path", &h->path);
    if (status != MQ_OK) {
        mq_free(&h);
        H5Fclose(file);
        return status;
    }
    memcpy(h->path, path, bytes);
    h->file = file;
    *out = h;
    return MQ_OK;
}

void mq_h5_close(mq_h5 **file)
{
    if (!*file) return;
    H5Fclose((*file)->file);
    mq_free(&(*file)->path);
    mq_free(file);
}

/* ---- attributes ------------------------------------------------------------------------------ */

/* An attribute of one value, open. */
typedef struct attribute {
    hid_t id, type;
} attribute;

static void close_attribute(attribute *a)
{
    if (a->type >= 0) H5Tclose(a->type);
    if (a->id >= 0) H5Aclose(a->id);
}

static mq_status open_attribute(const mq_h5 *h, const char *name, attribute *a)
{
    *a = (attribute){H5I_INVALID_HID, H5I_INVALID_HID};
    if (H5Aexists(h->file, name) <= 0) {
        return mq_fail(MQ_E_INPUT, "%s: the attribute \"%s\" is missing", h->path, name);
    }
    a->id = H5Aopen(h->file, name, H5P_DEFAULT);
    hid_t space = a->id < 0 ? H5I_INVALID_HID : H5Aget_space(a->id);
    hssize_t n = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    if (space >= 0) H5Sclose(space);
    if (a->id >= 0) a->type = H5Aget_type(a->id);
    if (n == 1 && a->type >= 0) return MQ_OK;
    close_attribute(a);
    return mq_fail(MQ_E_INPUT, "%s: the attribute \"%s\" must be a single value", h->path, name);
}

/* True for a type whose values past INT64_MAX the library would clip without a word. */
static bool is_unsigned_64(hid_t type)
{
    return H5Tget_size(type) == 8 && H5Tget_sign(type) == H5T_SGN_NONE;
}

static bool is_integer(hid_t type)
{
    return H5Tget_class(type) == H5T_INTEGER && H5Tget_size(type) <= 8;
}

static mq_status read_int(const mq_h5 *h, const char *name, const attribute *a, int64_t *out)
{
    uint64_t large = 0;
    if (!is_integer(a->type)) {
        return mq_fail(MQ_E_INPUT, "%s: the attribute \"%s\" must be an integer", h->path, name);
    }
    bool wide = is_unsigned_64(a->type);
    herr_t code =
        wide ? H5Aread(a->id, H5T_NATIVE_UINT64, &large) : H5Aread(a->id, H5T_NATIVE_INT64, out);
    if (code < 0) {
        return mq_fail(MQ_E_INPUT, "%s: cannot read the attribute \"%s\"", h->path, name);
    }
    if (wide && large > INT64_MAX) {
        return mq_fail(MQ_E_INPUT, "%s: the attribute \"%s\" = %" PRIu64 " is past 2^63 - 1",
                       h->path, name, large);
    }
    if (wide) *out = (int64_t)large;
    return MQ_OK;
}

mq_status mq_h5_attribute_int(mq_h5 *file, const char *name, int64_t *out)
{
    attribute a;
    MQ_TRY(open_attribute(file, name, &a));
    mq_status status = read_int(file, name, &a, out);
    close_attribute(&a);
    return status;
}

static mq_status unreadable_text(const mq_h5 *h, const char *name)
{
    return mq_fail(MQ_E_INPUT, "%s: cannot read the text of the attribute \"%s\"", h->path, name);
}

/* A variable-length string: the library allocates, we copy. `memory` has the file's character set,
 * for it does not convert between them. */
static mq_status read_variable(const mq_h5 *h, const char *name, hid_t id, hid_t memory, char **out)
{
    char *text = NULL;
    if (H5Aread(id, memory, (void *)&text) < 0) return unreadable_text(h, name);
    size_t length = text ? strlen(text) : 0;
    mq_status status = mq_alloc((int64_t)length + 1, 1, "text of an attribute", out);
    if (status == MQ_OK && length > 0) memcpy(*out, text, length);
    hid_t space = H5Screate(H5S_SCALAR);
    H5Dvlen_reclaim(memory, space, H5P_DEFAULT, (void *)&text);
    H5Sclose(space);
    return status;
}

/* A fixed-length string: up to its NUL, without the spaces of Fortran's padding. */
static mq_status read_fixed(const mq_h5 *h, const char *name, hid_t id, hid_t type, char **out)
{
    size_t bytes = H5Tget_size(type);
    MQ_TRY(mq_alloc((int64_t)bytes + 1, 1, "text of an attribute", out));
    if (H5Aread(id, type, *out) < 0) {
        mq_free(out);
        return unreadable_text(h, name);
    }
    size_t length = strlen(*out);
    if (H5Tget_strpad(type) == H5T_STR_SPACEPAD) {
        while (length > 0 && (*out)[length - 1] == ' ') (*out)[--length] = '\0';
    }
    return MQ_OK;
}

static mq_status read_text(const mq_h5 *h, const char *name, const attribute *a, char **out)
{
    if (H5Tget_class(a->type) != H5T_STRING) {
        return mq_fail(MQ_E_INPUT, "%s: the attribute \"%s\" must be a string", h->path, name);
    }
    if (H5Tis_variable_str(a->type) <= 0) return read_fixed(h, name, a->id, a->type, out);
    hid_t memory = H5Tcopy(H5T_C_S1);
    bool good = memory >= 0 && H5Tset_size(memory, H5T_VARIABLE) >= 0 &&
                H5Tset_cset(memory, H5Tget_cset(a->type)) >= 0;
    mq_status status = good ? read_variable(h, name, a->id, memory, out) : unreadable_text(h, name);
    if (memory >= 0) H5Tclose(memory);
    return status;
}

mq_status mq_h5_attribute_text(mq_h5 *file, const char *name, char **out)
{
    attribute a;
    *out = NULL;
    MQ_TRY(open_attribute(file, name, &a));
    mq_status status = read_text(file, name, &a, out);
    if (status == MQ_OK) mq_make_printable(*out);
    close_attribute(&a);
    return status;
}

_Bool mq_h5_has_attribute(mq_h5 *file, const char *name)
{
    return H5Aexists(file->file, name) > 0;
}

/* ---- datasets -------------------------------------------------------------------------------- */

void mq_h5_close_dataset(mq_h5_dataset *d)
{
    if (d->space >= 0) H5Sclose(d->space);
    if (d->id >= 0) H5Dclose(d->id);
}

static mq_status check_dataset(mq_h5_dataset *d, int most_dims)
{
    hid_t type = H5Dget_type(d->id);
    bool integer = type >= 0 && is_integer(type);
    d->unsigned_64 = integer && is_unsigned_64(type);
    d->unsigned_16 = integer && H5Tget_size(type) == 2 && H5Tget_sign(type) == H5T_SGN_NONE;
    if (type >= 0) H5Tclose(type);
    d->space = H5Dget_space(d->id);
    d->n_dims = d->space < 0 ? -1 : H5Sget_simple_extent_ndims(d->space);
    bool few = d->n_dims >= 1 && d->n_dims <= most_dims;
    if (few) H5Sget_simple_extent_dims(d->space, d->dim, NULL);
    if (integer && few && d->dim[0] <= INT64_MAX && d->dim[1] <= INT64_MAX) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: \"%s\" must have one dimension%s of integers", d->path, d->name,
                   most_dims > 1 ? " or two" : "");
}

/* True for data of the file itself: links, external storage and virtual datasets could have us read
 * any other file, and take it for tokens. */
static bool is_own_data(hid_t id)
{
    hid_t properties = H5Dget_create_plist(id);
    if (properties < 0) return false;
    bool own = H5Pget_layout(properties) != H5D_VIRTUAL && H5Pget_external_count(properties) == 0;
    H5Pclose(properties);
    return own;
}

static bool is_own_link(const mq_h5 *h, const char *name)
{
    H5L_info_t info;
    return H5Lget_info(h->file, name, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD;
}

mq_status mq_h5_open_dataset(const mq_h5 *h, const char *name, int most_dims, mq_h5_dataset *d)
{
    *d = (mq_h5_dataset){
        .path = h->path, .name = name, .id = H5I_INVALID_HID, .space = H5I_INVALID_HID};
    if (is_own_link(h, name)) d->id = H5Dopen2(h->file, name, H5P_DEFAULT);
    if (d->id < 0) {
        return mq_fail(MQ_E_INPUT, "%s: the dataset \"%s\" is missing", h->path, name);
    }
    mq_status status =
        is_own_data(d->id)
            ? check_dataset(d, most_dims)
            : mq_fail(MQ_E_INPUT, "%s: the data of \"%s\" lie in another file", h->path, name);
    if (status != MQ_OK) mq_h5_close_dataset(d);
    return status;
}

mq_status mq_h5_length(mq_h5 *file, const char *dataset_name, int64_t *n)
{
    mq_h5_dataset d;
    MQ_TRY(mq_h5_open_dataset(file, dataset_name, 1, &d));
    *n = (int64_t)d.dim[0];
    mq_h5_close_dataset(&d);
    return MQ_OK;
}

/* n > 0 elements from `begin`, as int64, or as uint64 when that is how they are stored. */
static mq_status read_slab(const mq_h5_dataset *d, int64_t begin, int64_t n, int64_t *out)
{
    hsize_t start = (hsize_t)begin, count = (hsize_t)n;
    hid_t memory = H5Screate_simple(1, &count, NULL);
    bool good = memory >= 0 &&
                H5Sselect_hyperslab(d->space, H5S_SELECT_SET, &start, NULL, &count, NULL) >= 0 &&
                H5Dread(d->id, d->unsigned_64 ? H5T_NATIVE_UINT64 : H5T_NATIVE_INT64, memory,
                        d->space, H5P_DEFAULT, out) >= 0;
    if (memory >= 0) H5Sclose(memory);
    if (good) return MQ_OK;
    return mq_fail(MQ_E_IO,
                   "%s: cannot read \"%s\" from element %" PRId64 ": damaged, or packed with a "
                   "filter that this HDF5 lacks",
                   d->path, d->name, begin);
}

/* Elements [begin, begin + n) must lie in [low, high]; as int64 an unsigned one past its range is
 * negative. */
static mq_status check_values(const mq_h5_dataset *d, int64_t begin, int64_t n,
                              const int64_t *value, int64_t low, int64_t high)
{
    for (int64_t i = 0; i < n; i++) {
        bool fits = value[i] >= low && value[i] <= high && (!d->unsigned_64 || value[i] >= 0);
        if (!fits) {
            return mq_fail(MQ_E_INPUT,
                           "%s: \"%s\"[%" PRId64 "] is outside [%" PRId64 ", %" PRId64 "]", d->path,
                           d->name, begin + i, low, high);
        }
    }
    return MQ_OK;
}

static mq_status check_range(const mq_h5_dataset *d, int64_t begin, int64_t n)
{
    int64_t length = (int64_t)d->dim[0];
    if (begin >= 0 && n >= 0 && begin <= length && n <= length - begin) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: \"%s\" has %" PRId64 " elements; %" PRId64 " from number %" PRId64
                   " were asked for",
                   d->path, d->name, length, n, begin);
}

static mq_status read_pieces_i64(const mq_h5_dataset *d, int64_t begin, int64_t n, int64_t *out)
{
    MQ_TRY(check_range(d, begin, n));
    for (int64_t done = 0; done < n; done += PIECE) {
        int64_t count = mq_min_i64(PIECE, n - done);
        MQ_TRY(read_slab(d, begin + done, count, out + done));
        MQ_TRY(check_values(d, begin + done, count, out + done, INT64_MIN, INT64_MAX));
    }
    return MQ_OK;
}

static mq_status read_pieces_i32(const mq_h5_dataset *d, int64_t begin, int64_t n, int64_t *piece,
                                 int32_t *out)
{
    MQ_TRY(check_range(d, begin, n));
    for (int64_t done = 0; done < n; done += PIECE) {
        int64_t count = mq_min_i64(PIECE, n - done);
        MQ_TRY(read_slab(d, begin + done, count, piece));
        MQ_TRY(check_values(d, begin + done, count, piece, INT32_MIN, INT32_MAX));
        for (int64_t i = 0; i < count; i++) out[done + i] = (int32_t)piece[i];
    }
    return MQ_OK;
}

mq_status mq_h5_read_i64(mq_h5 *file, const char *dataset_name, int64_t begin, int64_t n,
                         int64_t *out)
{
    mq_h5_dataset d;
    MQ_TRY(mq_h5_open_dataset(file, dataset_name, 1, &d));
    mq_status status = read_pieces_i64(&d, begin, n, out);
    mq_h5_close_dataset(&d);
    return status;
}

mq_status mq_h5_read_i32(mq_h5 *file, const char *dataset_name, int64_t begin, int64_t n,
                         int32_t *out)
{
    mq_h5_dataset d;
    int64_t *piece = NULL;
    MQ_TRY(mq_h5_open_dataset(file, dataset_name, 1, &d));
    mq_status status = mq_alloc(PIECE, sizeof *piece, "piece of a dataset", &piece);
    if (status == MQ_OK) status = read_pieces_i32(&d, begin, n, piece, out);
    mq_free(&piece);
    mq_h5_close_dataset(&d);
    return status;
}
