#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 2048 };

static _Thread_local char message[MESSAGE_BYTES];

int mq_exit_code(mq_status status)
{
    switch (status) {
    case MQ_OK:
        return 0;
    case MQ_E_USAGE:
        return 2;
    case MQ_E_INPUT:
        return 3;
    case MQ_E_IO:
        return 4;
    case MQ_E_NUMERIC:
    case MQ_E_NOT_PD:
        return 5;
    case MQ_E_MEMORY:
        return 6;
    case MQ_E_BUSY:
        return 73;
    case MQ_E_REQUEUE:
        return 75;
    case MQ_E_INTERNAL:
        break;
    }
    return 70;
}

const char *mq_status_name(mq_status status)
{
    switch (status) {
    case MQ_OK:
        return "ok";
    case MQ_E_NOT_PD:
        return "not positive definite";
    case MQ_E_REQUEUE:
        return "stopped with a checkpoint";
    case MQ_E_USAGE:
        return "usage";
    case MQ_E_INPUT:
        return "bad input";
    case MQ_E_BUSY:
        return "output in use";
    case MQ_E_NUMERIC:
        return "numerical failure";
    case MQ_E_MEMORY:
        return "out of memory";
    case MQ_E_IO:
        return "input/output error";
    case MQ_E_INTERNAL:
        break;
    }
    return "internal error";
}

const char *mq_message(void)
{
    return message;
}

/* Names out of a file may hold anything; a terminal must not be told to do it. */
void mq_set_message(const char *text)
{
    snprintf(message, sizeof message, "%s", text);
    for (char *c = message; *c; c++) {
        if (((unsigned char)*c < 0x20 && *c != '\n') || *c == 0x7F) *c = '?';
    }
}

mq_status mq_fail(mq_status status, const char *fmt, ...)
{
    /* Formatted aside first: an argument may be the old message itself. */
    char text[MESSAGE_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    mq_set_message(text);
    return status;
}

mq_status mq_fail_in(mq_status status, const char *fmt, ...)
{
    char text[MESSAGE_BYTES];
    va_list args;
    va_start(args, fmt);
    int used = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof text) {
        snprintf(text + used, sizeof text - (size_t)used, ": %s", message);
    }
    mq_set_message(text);
    return status;
}

const char *mq_errno_text(int errnum)
{
    static _Thread_local char text[128];
    return strerror_r(errnum, text, sizeof text) == 0 ? text : "unknown error";
}
