#ifndef MQ_STORE_VIEW_H
#define MQ_STORE_VIEW_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A stretch of a file in memory without a copy, by mmap. Touching a mapped page that cannot be read
 * ends the process (SIGBUS), so a view's pages are read when it is opened, by a call that returns
 * an error instead (MADV_POPULATE_READ, Linux 5.14), and the file's length is looked at again when
 * it is closed: a page that a file lost in part reads as zeros. What remains is a file that loses
 * whole pages while a view of them is open: that ends the rank. */

typedef struct mq_view {
    const char *data; /* the first byte asked for; NULL: closed */
    size_t bytes;
    int64_t offset;
    void *base; /* of the mapping, at a page's start */
    int fd;     /* borrowed: stays open as long as the view */
} mq_view;

/** Whether this kernel can read mapped pages with a call. Not collective. */
bool mq_view_possible(void);

/** Bytes [offset, offset + bytes) of an open file; bytes > 0. `path` is for messages. Not
 *  collective.
 *  Errors: MQ_E_INPUT when the file ends early, MQ_E_IO when it cannot be read; *out is closed. */
mq_status mq_view_open(int fd, const char *path, int64_t offset, size_t bytes, mq_view *out);

/** Ends the view, which may be closed already. Errors: MQ_E_INPUT when the file has become too
 *  short for what was seen in it; the view is closed then, too. */
mq_status mq_view_close(mq_view *view, const char *path);

#endif
