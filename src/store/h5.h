#ifndef MQ_STORE_H5_H
#define MQ_STORE_H5_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* The few HDF5 calls the program needs, serial, with our messages instead of the library's stack.
 * Not collective; call on one rank. */

typedef struct mq_h5 mq_h5;

/** Opens for reading. Errors: MQ_E_IO (cannot open), MQ_E_INPUT (not an HDF5 file). */
mq_status mq_h5_open(const char *path, mq_h5 **out);
void mq_h5_close(mq_h5 **file);

/** Attributes of the root group. A missing one gives MQ_E_INPUT naming it. Strings may be
 *  fixed-length or variable-length, ASCII or UTF-8; free with mq_free. */
mq_status mq_h5_attribute_int(mq_h5 *file, const char *name, int64_t *out);
mq_status mq_h5_attribute_text(mq_h5 *file, const char *name, char **out);
/** True when the root group has that attribute. */
_Bool mq_h5_has_attribute(mq_h5 *file, const char *name);

/** Length of a one-dimensional integer dataset. Errors: MQ_E_INPUT when absent, not 1-d, or not an
 *  integer type. */
mq_status mq_h5_length(mq_h5 *file, const char *dataset, int64_t *n);

/** Elements [begin, begin + n) of a 1-d integer dataset, any stored width; values outside int32
 *  are an MQ_E_INPUT for mq_h5_read_i32. */
mq_status mq_h5_read_i64(mq_h5 *file, const char *dataset, int64_t begin, int64_t n, int64_t *out);
mq_status mq_h5_read_i32(mq_h5 *file, const char *dataset, int64_t begin, int64_t n, int32_t *out);

#endif
