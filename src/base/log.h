#ifndef MQ_BASE_LOG_H
#define MQ_BASE_LOG_H

#include "base/status.h"

#include <stdbool.h>

/** Turns the log of this process on or off (rank 0 speaks, the others are silent). */
void mq_log_enable(bool on);

/** One line on stderr, flushed, with seconds since start in front. */
void mq_log(const char *fmt, ...) MQ_PRINTF(1, 2);

/** The same, marked as a warning; kept, so that mq_warnings can repeat it at the end. */
void mq_warn(const char *fmt, ...) MQ_PRINTF(1, 2);

/** Warnings recorded so far in this process; text of the i-th. */
int mq_warning_count(void);
const char *mq_warning(int i);

/** Monotonic seconds since an arbitrary start. */
double mq_seconds(void);

#endif
