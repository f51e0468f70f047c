#include "base/checked.h"
#include "store/h5_private.h"

#include <inttypes.h>

/* Datasets of one or two dimensions, read in parts. */

_Bool mq_h5_has_member(mq_h5 *file, const char *name)
{
    return H5Lexists(file->file, name, H5P_DEFAULT) > 0;
}

mq_status mq_h5_shape(mq_h5 *file, const char *name, int *n_dims, int64_t dim[2])
{
    mq_h5_dataset d;
    MQ_TRY(mq_h5_open_dataset(file, name, 2, &d));
    *n_dims = d.n_dims;
    dim[0] = (int64_t)d.dim[0];
    dim[1] = d.n_dims == 2 ? (int64_t)d.dim[1] : 1;
    mq_h5_close_dataset(&d);
    return MQ_OK;
}

/* Elements [start, start + count) of each dimension, as `type`. */
static mq_status read_part(const mq_h5_dataset *d, const hsize_t start[2], const hsize_t count[2],
                           hid_t type, void *out)
{
    hid_t memory = H5Screate_simple(d->n_dims, count, NULL);
    bool good = memory >= 0 &&
                H5Sselect_hyperslab(d->space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
                H5Dread(d->id, type, memory, d->space, H5P_DEFAULT, out) >= 0;
    if (memory >= 0) H5Sclose(memory);
    if (good) return MQ_OK;
    return mq_fail(MQ_E_IO,
                   "%s: cannot read \"%s\" from element %" PRIu64 ": damaged, or packed with a "
                   "filter that this HDF5 lacks",
                   d->path, d->name, (uint64_t)start[d->n_dims - 1]);
}

/* [begin, begin + n) of a dimension. */
static mq_status check_part(const mq_h5_dataset *d, int dim, int64_t begin, int64_t n)
{
    int64_t length = dim < d->n_dims ? (int64_t)d->dim[dim] : 0;
    if (begin >= 0 && n > 0 && begin <= length && n <= length - begin) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: dimension %d of \"%s\" has %" PRId64 " entries; %" PRId64
                   " from number %" PRId64 " were asked for",
                   d->path, dim, d->name, length, n, begin);
}

static mq_status read_rows(const mq_h5_dataset *d, int64_t begin, int64_t n, uint16_t *out)
{
    const hsize_t start[2] = {(hsize_t)begin, 0}, count[2] = {(hsize_t)n, d->dim[1]};
    if (!d->unsigned_16 || d->n_dims != 2) {
        return mq_fail(MQ_E_INPUT, "%s: \"%s\" must have two dimensions of uint16", d->path,
                       d->name);
    }
    MQ_TRY(check_part(d, 0, begin, n));
    return read_part(d, start, count, H5T_NATIVE_UINT16, out);
}

mq_status mq_h5_read_rows_u16(mq_h5 *file, const char *name, int64_t begin, int64_t n,
                              uint16_t *out)
{
    mq_h5_dataset d;
    MQ_TRY(mq_h5_open_dataset(file, name, 2, &d));
    mq_status status = read_rows(&d, begin, n, out);
    mq_h5_close_dataset(&d);
    return status;
}

static mq_status read_row(const mq_h5_dataset *d, int64_t row, int64_t begin, int64_t n,
                          int64_t *out)
{
    bool one = d->n_dims == 1;
    const hsize_t start[2] = {(hsize_t)(one ? begin : row), (hsize_t)begin};
    const hsize_t count[2] = {one ? (hsize_t)n : 1, (hsize_t)n};
    if (!one) MQ_TRY(check_part(d, 0, row, 1));
    MQ_TRY(check_part(d, one ? 0 : 1, begin, n));
    MQ_TRY(read_part(d, start, count, d->unsigned_64 ? H5T_NATIVE_UINT64 : H5T_NATIVE_INT64, out));
    for (int64_t i = 0; i < n && d->unsigned_64; i++) {
        if (out[i] >= 0) continue;
        return mq_fail(MQ_E_INPUT, "%s: \"%s\"[%" PRId64 "] is past 2^63 - 1", d->path, d->name,
                       begin + i);
    }
    return MQ_OK;
}

mq_status mq_h5_read_row_i64(mq_h5 *file, const char *name, int64_t row, int64_t begin, int64_t n,
                             int64_t *out)
{
    mq_h5_dataset d;
    MQ_TRY(mq_h5_open_dataset(file, name, 2, &d));
    mq_status status = read_row(&d, row, begin, n, out);
    mq_h5_close_dataset(&d);
    return status;
}
