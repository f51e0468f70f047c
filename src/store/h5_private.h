#ifndef MQ_STORE_H5_PRIVATE_H
#define MQ_STORE_H5_PRIVATE_H

#include "store/h5.h"

#include <hdf5.h>
#include <stdbool.h>

/* Inside of an open HDF5 file. Private to store. */

struct mq_h5 {
    hid_t file;
    char *path;
};

/* A dataset of integers in the file itself, open. */
typedef struct mq_h5_dataset {
    const char *path, *name; /* for messages */
    hid_t id, space;
    int n_dims;
    hsize_t dim[2];
    bool unsigned_64, unsigned_16;
} mq_h5_dataset;

/** Opens one of at most so many dimensions, 1 or 2. Errors: as mq_h5_length. */
mq_status mq_h5_open_dataset(const mq_h5 *file, const char *name, int most_dims,
                             mq_h5_dataset *out);
void mq_h5_close_dataset(mq_h5_dataset *dataset);

#endif
