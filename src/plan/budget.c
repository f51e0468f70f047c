#include "plan/budget.h"

#include "base/checked.h"
#include "base/memory.h"

#include <inttypes.h>
#include <math.h>

static const int64_t largest_table = INT64_C(1) << 26;

typedef struct knapsack {
    const mq_budget_item *item;
    int64_t n_items;
    const int *width;
    int n_widths;
    int64_t step;  /* bits */
    int64_t steps; /* that may be spent beyond the narrowest width */
    double *least; /* (steps + 1) harm of the items so far */
    uint8_t *best; /* (n_items, steps + 1) the width that reaches it */
} knapsack;

static int64_t divisor(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static int64_t beyond(const knapsack *k, int64_t i, int j)
{
    return k->item[i].weights * (k->width[j] - k->width[0]);
}

static mq_status check_items(const knapsack *k)
{
    for (int64_t i = 0; i < k->n_items; i++) {
        int64_t unused = 0;
        MQ_TRY(mq_mul_i64(k->item[i].weights, k->width[k->n_widths - 1], &unused));
        for (int j = 0; j < k->n_widths; j++) {
            double harm = k->item[i].harm[j];
            if (isfinite(harm) && harm >= 0) continue;
            return mq_fail(MQ_E_INTERNAL, "budget: harm %g of item %" PRId64 " at %d bits", harm, i,
                           k->width[j]);
        }
    }
    return MQ_OK;
}

/* Step and number of steps for `bits` in all. */
static mq_status set_steps(knapsack *k, int64_t bits)
{
    int64_t narrowest = 0, most = 0, step = 0;
    for (int64_t i = 0; i < k->n_items; i++) {
        narrowest += k->item[i].weights * k->width[0];
        most += beyond(k, i, k->n_widths - 1);
        for (int j = 1; j < k->n_widths; j++) step = divisor(step, beyond(k, i, j));
    }
    if (narrowest > bits) {
        return mq_fail(MQ_E_USAGE,
                       "%" PRId64 " bits are too few: the narrowest width takes %" PRId64, bits,
                       narrowest);
    }
    int64_t spend = mq_min_i64(bits - narrowest, most);
    int64_t room = mq_max_i64(largest_table / mq_max_i64(k->n_items, 1) - 1, 1);
    k->step = mq_max_i64(mq_max_i64(step, 1), mq_ceil_div(spend, room));
    k->steps = spend / k->step;
    return MQ_OK;
}

/* least[c] for one more item; from high c to low, so that what is read is still of those before. */
static void add_item(knapsack *k, int64_t i)
{
    uint8_t *best = k->best + i * (k->steps + 1);
    for (int64_t c = k->steps; c >= 0; c--) {
        double least = k->least[c] + k->item[i].harm[0];
        best[c] = 0;
        for (int j = 1; j < k->n_widths; j++) {
            int64_t cost = mq_ceil_div(beyond(k, i, j), k->step);
            if (cost > c) break;
            double harm = k->least[c - cost] + k->item[i].harm[j];
            if (harm < least) {
                least = harm;
                best[c] = (uint8_t)j;
            }
        }
        k->least[c] = least;
    }
}

mq_status mq_budget_choose(const mq_budget_item *item, int64_t n_items, const int *width,
                           int n_widths, int64_t bits, int *choice)
{
    knapsack k = {.item = item, .n_items = n_items, .width = width, .n_widths = n_widths};
    int64_t table = 0;
    MQ_TRY(check_items(&k));
    MQ_TRY(set_steps(&k, bits));
    MQ_TRY(mq_mul_i64(n_items, k.steps + 1, &table));
    mq_status status = mq_alloc(k.steps + 1, sizeof *k.least, "budget", &k.least);
    if (status == MQ_OK) status = mq_alloc(table, sizeof *k.best, "budget", &k.best);
    if (status == MQ_OK) {
        for (int64_t i = 0; i < n_items; i++) add_item(&k, i);
        int64_t c = k.steps;
        for (int64_t i = n_items - 1; i >= 0; i--) {
            choice[i] = k.best[i * (k.steps + 1) + c];
            c -= mq_ceil_div(beyond(&k, i, choice[i]), k.step);
        }
    }
    mq_free(&k.least);
    mq_free(&k.best);
    return status;
}
