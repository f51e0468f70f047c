#ifndef MQ_BASE_LOG_H
#define MQ_BASE_LOG_H

#include "base/status.h"

#include <stdbool.h>

/** Turns the log of this process on or off (rank 0 speaks, the others are silent). */
void mq_log_enable(bool on);

/** One line on stderr, flushed, with seconds since the first line in front. Thread-safe. */
void mq_log(const char *fmt, ...) MQ_PRINTF(1, 2);

/** The same, marked as a warning; the first 256 are kept, so that a report can repeat them. */
void mq_warn(const char *fmt, ...) MQ_PRINTF(1, 2);

/** While on, warnings of a process whose log is off are held back instead of dropped. */
void mq_warnings_divert(bool on);

/** Hands over what was held back, a line each; NULL when that is nothing. Free with mq_free. */
mq_status mq_warnings_take(char **out);

/** Forgets the warnings of an earlier run in this process. */
void mq_warnings_clear(void);

/** Warnings recorded so far; text of the i-th. Not while threads may warn. */
int mq_warning_count(void);
const char *mq_warning(int i);

/** Monotonic seconds since an arbitrary start. */
double mq_seconds(void);

#endif
