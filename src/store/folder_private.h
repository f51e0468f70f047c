#ifndef MQ_STORE_FOLDER_PRIVATE_H
#define MQ_STORE_FOLDER_PRIVATE_H

#include "store/folder.h"
#include "store/view.h"

/** Elements [first, first + n) of a tensor whose shard is mapped there. Errors: as mq_view_open,
 *  naming the tensor. */
mq_status mq_folder_view_open(mq_folder *folder, const mq_tensor *tensor, int64_t first, int64_t n,
                              mq_view *view);

/** Errors: as mq_view_close, naming the tensor; the view is closed then, too. */
mq_status mq_folder_view_close(const mq_folder *folder, const mq_tensor *tensor, mq_view *view);

#endif
