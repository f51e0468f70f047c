#ifndef MQ_BASE_PARALLEL_H
#define MQ_BASE_PARALLEL_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* The threads of a rank: one pool per process. Work is cut into tasks whose boundaries do not
 * depend on the number of threads, so that results do not either. */

/** Task i of a loop. Runs on any thread of the pool; tasks of one loop run in any order. */
typedef mq_status (*mq_task)(void *context, int64_t i);

/** Starts n_threads - 1 worker threads (the caller is the first). `on_start` runs once in every
 *  thread, the caller's included; may be NULL. Errors: MQ_E_INTERNAL, no threads left running. */
mq_status mq_threads_start(int n_threads, void (*on_start)(void));

/** Ends the workers. Safe when none were started. */
void mq_threads_stop(void);

/** Threads in the pool, 1 when it was not started. */
int mq_threads(void);

/** Runs task(context, i) for i in [0, n_tasks) and waits for all of them. Returns the failure of
 *  the lowest i, with its message in the calling thread. Not to be nested: a loop inside a task
 *  runs serially. Not collective. */
mq_status mq_parallel_for(int64_t n_tasks, mq_task task, void *context);

/** Scratch memory of the calling thread, at least `bytes`, 64-byte aligned, contents undefined,
 *  valid until the next call with the same slot in the same thread; kept for the thread's life.
 *  slot < MQ_SCRATCH_SLOTS lets nested kernels keep theirs apart. NULL when memory is out. */
enum { MQ_SCRATCH_SLOTS = 8 };
void *mq_scratch(int slot, size_t bytes);

/** Frees the calling thread's scratch (workers free theirs when they end). */
void mq_scratch_free(void);

#endif
