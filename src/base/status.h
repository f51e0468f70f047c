#ifndef MQ_BASE_STATUS_H
#define MQ_BASE_STATUS_H

#include "mpiquant/status.h"

#if defined(__GNUC__)
#define MQ_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define MQ_PRINTF(fmt, args)
#endif

/** Records a message for this thread and returns `status`, so that a failure is one statement:
 *  `return mq_fail(MQ_E_INPUT, "%s: ...", path);` */
mq_status mq_fail(mq_status status, const char *fmt, ...) MQ_PRINTF(2, 3);

/** Puts context in front of the message of a failure already recorded ("context: message"). */
mq_status mq_fail_in(mq_status status, const char *fmt, ...) MQ_PRINTF(2, 3);

/** Replaces this thread's message, e.g. by the one another rank or thread recorded. */
void mq_set_message(const char *text);

/** The errno of a failed system call as text, thread-safe. */
const char *mq_errno_text(int errnum);

/** Returns from the enclosing function when `call` fails. Not for collective code. */
#define MQ_TRY(call)                                      \
    do {                                                  \
        mq_status mq_try_status = (call);                 \
        if (mq_try_status != MQ_OK) return mq_try_status; \
    } while (0)

#endif
