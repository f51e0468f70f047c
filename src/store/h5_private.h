#ifndef MQ_STORE_H5_PRIVATE_H
#define MQ_STORE_H5_PRIVATE_H

#include "store/h5.h"

#include <hdf5.h>

/* Inside of an open HDF5 file. Private to store. */

struct mq_h5 {
    hid_t file;
    char *path;
};

#endif
