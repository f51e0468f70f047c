#include "base/log.h"

#include "base/memory.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LINE_BYTES = 2048, MAX_WARNINGS = 256 };

static bool enabled = true;
static char *warnings[MAX_WARNINGS];
static int n_warnings;
static bool diverted;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static double start_seconds = -1;

double mq_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void mq_log_enable(bool on)
{
    enabled = on;
}

static void print_line(const char *mark, const char *fmt, va_list args)
{
    char line[LINE_BYTES];
    vsnprintf(line, sizeof line, fmt, args);
    pthread_mutex_lock(&lock);
    if (start_seconds < 0) start_seconds = mq_seconds();
    fprintf(stderr, "[%8.2f] %s%s\n", mq_seconds() - start_seconds, mark, line);
    fflush(stderr);
    pthread_mutex_unlock(&lock);
}

void mq_log(const char *fmt, ...)
{
    if (!enabled) return;
    va_list args;
    va_start(args, fmt);
    print_line("", fmt, args);
    va_end(args);
}

static void keep_warning(const char *fmt, va_list args)
{
    char line[LINE_BYTES];
    vsnprintf(line, sizeof line, fmt, args);
    pthread_mutex_lock(&lock);
    if (n_warnings < MAX_WARNINGS) {
        char *copy = strdup(line);
        if (copy) warnings[n_warnings++] = copy;
    }
    pthread_mutex_unlock(&lock);
}

void mq_warn(const char *fmt, ...)
{
    if (!enabled && !diverted) return;
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    if (enabled) print_line("warning: ", fmt, args);
    keep_warning(fmt, again);
    va_end(again);
    va_end(args);
}

void mq_warnings_divert(bool on)
{
    diverted = on && !enabled;
    if (diverted) mq_warnings_clear();
}

mq_status mq_warnings_take(char **out)
{
    size_t bytes = 0, used = 0;
    *out = NULL;
    if (!diverted || n_warnings == 0) return MQ_OK;
    for (int i = 0; i < n_warnings; i++) bytes += strlen(warnings[i]) + 1;
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "warnings", out));
    for (int i = 0; i < n_warnings; i++) {
        used += (size_t)snprintf(*out + used, bytes - used, "%s%s", i ? "\n" : "", warnings[i]);
    }
    mq_warnings_clear();
    return MQ_OK;
}

void mq_warnings_clear(void)
{
    pthread_mutex_lock(&lock);
    while (n_warnings > 0) free(warnings[--n_warnings]);
    pthread_mutex_unlock(&lock);
}

int mq_warning_count(void)
{
    return n_warnings;
}

const char *mq_warning(int i)
{
    return warnings[i];
}
