#ifndef MQ_STORE_H5_H
#define MQ_STORE_H5_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* The few HDF5 calls the program needs, serial, with our messages instead of the library's stack.
 * Not collective; call on one rank. */

typedef struct mq_h5 mq_h5;

enum { MQ_H5_MAX_DIMS = 32 }; /* HDF5's own limit */

/** Opens for reading. Errors: MQ_E_IO (cannot open), MQ_E_INPUT (not an HDF5 file). */
mq_status mq_h5_open(const char *path, mq_h5 **out);
void mq_h5_close(mq_h5 **file);

/** Attributes of the root group. A missing one gives MQ_E_INPUT naming it. Strings may be
 *  fixed-length or variable-length, ASCII or UTF-8; what is no UTF-8, and control characters, are
 *  replaced by question marks; free with mq_free. */
mq_status mq_h5_attribute_int(mq_h5 *file, const char *name, int64_t *out);
mq_status mq_h5_attribute_text(mq_h5 *file, const char *name, char **out);
/** True when the root group has that attribute. */
_Bool mq_h5_has_attribute(mq_h5 *file, const char *name);

/** Length of a one-dimensional integer dataset. Errors: MQ_E_INPUT when absent, not 1-d, not an
 *  integer type, or when its data would come from another file. */
mq_status mq_h5_length(mq_h5 *file, const char *dataset, int64_t *n);

/** Elements [begin, begin + n) of a 1-d integer dataset, any stored width; values outside int32
 *  are an MQ_E_INPUT for mq_h5_read_i32. */
mq_status mq_h5_read_i64(mq_h5 *file, const char *dataset, int64_t begin, int64_t n, int64_t *out);
mq_status mq_h5_read_i32(mq_h5 *file, const char *dataset, int64_t begin, int64_t n, int32_t *out);

/** Whether the root group has a member of that name. */
_Bool mq_h5_has_member(mq_h5 *file, const char *name);

/** Dimensions, 1 or 2, of an integer dataset; dim[1] is 1 of one dimension. Errors: as
 *  mq_h5_length. */
mq_status mq_h5_shape(mq_h5 *file, const char *dataset, int *n_dims, int64_t dim[2]);

/** Rows [begin, begin + n) of a dataset of two dimensions of uint16. Errors: MQ_E_INPUT for another
 *  type or rows that there are not; MQ_E_IO. */
mq_status mq_h5_read_rows_u16(mq_h5 *file, const char *dataset, int64_t begin, int64_t n,
                              uint16_t *out);

/** Entries [begin, begin + n) of a row of a dataset of two dimensions, or of one of one dimension,
 *  whose only row it is. Errors: as mq_h5_read_i64. */
mq_status mq_h5_read_row_i64(mq_h5 *file, const char *dataset, int64_t row, int64_t begin,
                             int64_t n, int64_t *out);

/** Something in the root group: an attribute, or a member (dataset, group, link). Names are made
 *  printable like texts of attributes. */
typedef struct mq_h5_entry {
    const char *name;
    const char *type; /* "int32", "uint8", "float64", "string", ..., "group", "link" */
    int n_dims;       /* 0: a single value, -1: no data */
    int64_t dim[MQ_H5_MAX_DIMS];
    enum { MQ_H5_NO_VALUE, MQ_H5_INTEGER, MQ_H5_REAL, MQ_H5_TEXT } kind; /* of an attribute */
    int64_t integer;
    double real;
    const char *text;
} mq_h5_entry;

/** Called for every entry; what it borrows is gone afterwards. A failure ends the listing. */
typedef mq_status (*mq_h5_visit)(void *context, const mq_h5_entry *entry);

/** All attributes, or all members, in order of their names. Attributes that are a single number or
 *  text come with their value; no data of members are read. Links are not followed.
 *  Errors: MQ_E_INPUT, MQ_E_MEMORY, those of `visit`. */
mq_status mq_h5_list_attributes(mq_h5 *file, mq_h5_visit visit, void *context);
mq_status mq_h5_list_members(mq_h5 *file, mq_h5_visit visit, void *context);

#endif
