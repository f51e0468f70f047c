#ifndef MQ_BASE_MEMORY_H
#define MQ_BASE_MEMORY_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/** *out = count zeroed elements of elem bytes, aligned to 64 bytes; `purpose` names them in the
 *  message and in the accounting. A count of 0 gives a valid pointer. Not collective.
 *  Errors: MQ_E_MEMORY with the bytes asked for; MQ_E_INPUT when they pass 64 bits. Thread-safe.
 */
mq_status mq_alloc(int64_t count, size_t elem, const char *purpose, void *out);

/** Frees what mq_alloc gave and sets *p to NULL; NULL is fine. `p` is the address of the pointer.
 */
void mq_free(void *p);

/** Bytes held through mq_alloc now and at most so far, in this process. */
void mq_memory_use(size_t *now, size_t *peak);

/** Physical memory of this node that a job may use, in bytes (the smallest of RAM and the limits
 *  of its control groups), or 0 when unknown. */
size_t mq_memory_of_node(void);

/** Peak resident set of this process in bytes. */
size_t mq_memory_peak_rss(void);

#endif
