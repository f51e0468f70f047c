#include "base/memory.h"
#include "calib/calib.h"

#include <inttypes.h>
#include <stdlib.h>

mq_status mq_units_form(const int64_t *offsets, int64_t n_samples, int64_t unit_tokens,
                        int64_t **first, int64_t *n_units)
{
    *first = NULL;
    *n_units = 0;
    if (unit_tokens < 1) {
        return mq_fail(MQ_E_USAGE, "units of %" PRId64 " tokens: expected 1 or more", unit_tokens);
    }
    int64_t *begin = NULL, n = 0;
    MQ_TRY(mq_alloc(n_samples + 1, sizeof *begin, "calibration units", &begin));
    for (int64_t s = 0; s < n_samples; s++) {
        /* A sample opens a unit when it is the first, or does not fit the one before it. */
        if (s == 0 || offsets[s + 1] - offsets[begin[n - 1]] > unit_tokens) begin[n++] = s;
    }
    begin[n] = n_samples;
    *first = begin;
    *n_units = n;
    return MQ_OK;
}

typedef struct load {
    int64_t tokens, unit;
} load;

static int longest_first(const void *a, const void *b)
{
    const load *x = a, *y = b;
    if (x->tokens != y->tokens) return x->tokens > y->tokens ? -1 : 1;
    return (x->unit > y->unit) - (x->unit < y->unit);
}

mq_status mq_units_deal(const int64_t *unit_tokens, int64_t n_units, int size, int *owner)
{
    load *units = NULL;
    int64_t *held = NULL;
    mq_status status = mq_alloc(n_units, sizeof *units, "dealing of units", &units);
    if (status == MQ_OK) status = mq_alloc(size, sizeof *held, "dealing of units", &held);
    for (int64_t u = 0; u < n_units && status == MQ_OK; u++) {
        units[u] = (load){unit_tokens[u], u};
    }
    if (status == MQ_OK) qsort(units, (size_t)n_units, sizeof *units, longest_first);
    for (int64_t i = 0; i < n_units && status == MQ_OK; i++) {
        int least = 0;
        for (int r = 1; r < size; r++) {
            if (held[r] < held[least]) least = r;
        }
        owner[units[i].unit] = least;
        held[least] += units[i].tokens;
    }
    mq_free(&held);
    mq_free(&units);
    return status;
}
