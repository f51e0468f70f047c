#ifndef MQ_STORE_H5_PRIVATE_H
#define MQ_STORE_H5_PRIVATE_H

#include "store/h5.h"

#include <hdf5.h>

/* Inside of an open HDF5 file. Private to store. */

struct mq_h5 {
    hid_t file;
    char *path;
};

/** Names and texts of a file may be any bytes, and may end up on a terminal or in JSON: question
 *  marks for what is not UTF-8, and for control characters. */
void mq_h5_make_printable(char *text);

#endif
