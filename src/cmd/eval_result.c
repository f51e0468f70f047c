#include "cmd/eval_result.h"

#include "base/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* ---- JSON ----------------------------------------------------------------------------------- */

/* "KEY": value, "KEY_interval": [low, high] or null. */
static mq_status add_estimate(cJSON *o, const char *key, const mq_estimate *e)
{
    char interval[64];
    const double ends[] = {e->low, e->high};
    snprintf(interval, sizeof interval, "%s_interval", key);
    MQ_TRY(mq_json_add_double(o, key, e->value));
    if (isnan(e->low)) return mq_json_add_double(o, interval, NAN);
    return mq_json_add_doubles(o, interval, ends, 2);
}

static mq_status add_figures(cJSON *o, const mq_figures *f, bool has_reference)
{
    MQ_TRY(add_estimate(o, "perplexity", &f->perplexity));
    if (has_reference) {
        MQ_TRY(add_estimate(o, "reference_perplexity", &f->reference_perplexity));
        MQ_TRY(add_estimate(o, "log_perplexity_difference", &f->log_perplexity_difference));
        MQ_TRY(add_estimate(o, "kl", &f->kl));
        MQ_TRY(add_estimate(o, "top1", &f->top1));
    }
    MQ_TRY(mq_json_add_int(o, "tokens", f->tokens));
    return mq_json_add_int(o, "documents", f->documents);
}

/* Adds a new object to an array; it belongs to the array. */
static mq_status append_object(cJSON *array, cJSON **out)
{
    *out = cJSON_CreateObject();
    if (*out && cJSON_AddItemToArray(array, *out)) return MQ_OK;
    cJSON_Delete(*out);
    return mq_fail(MQ_E_MEMORY, "no memory for the JSON of an evaluation");
}

static mq_status add_positions(cJSON *o, const mq_evaluation *r, bool has_reference)
{
    cJSON *array = cJSON_CreateArray(), *bin = NULL;
    MQ_TRY(mq_json_add(o, "by_position", array));
    for (int64_t b = 0; b < r->n_bins; b++) {
        const mq_position_figures *p = &r->by_position[b];
        MQ_TRY(append_object(array, &bin));
        MQ_TRY(mq_json_add_int(bin, "position_begin", p->begin));
        MQ_TRY(mq_json_add_int(bin, "position_end", p->end));
        MQ_TRY(add_figures(bin, &p->figures, has_reference));
    }
    return MQ_OK;
}

/* One array over the documents for each of their sums; integer, number: (samples) to work in. */
static mq_status add_columns(cJSON *o, const mq_evaluation *r, bool has_reference, int64_t *integer,
                             double *number)
{
    const mq_document *d = r->document;
    int64_t n = r->samples;
    for (int64_t i = 0; i < n; i++) integer[i] = d[i].tokens;
    MQ_TRY(mq_json_add_ints(o, "tokens", integer, n));
    for (int64_t i = 0; i < n; i++) number[i] = d[i].nll;
    MQ_TRY(mq_json_add_doubles(o, "nll_sum", number, n));
    if (!has_reference) return MQ_OK;
    for (int64_t i = 0; i < n; i++) number[i] = d[i].reference_nll;
    MQ_TRY(mq_json_add_doubles(o, "reference_nll_sum", number, n));
    for (int64_t i = 0; i < n; i++) number[i] = d[i].kl;
    MQ_TRY(mq_json_add_doubles(o, "kl_sum", number, n));
    for (int64_t i = 0; i < n; i++) integer[i] = d[i].top1;
    return mq_json_add_ints(o, "top1_sum", integer, n);
}

static mq_status add_documents(cJSON *o, const mq_evaluation *r, bool has_reference)
{
    cJSON *columns = cJSON_CreateObject();
    int64_t *integer = NULL;
    double *number = NULL;
    MQ_TRY(mq_json_add(o, "per_document", columns));
    mq_status status = mq_alloc(r->samples, sizeof *integer, "column of documents", &integer);
    if (status == MQ_OK) {
        status = mq_alloc(r->samples, sizeof *number, "column of documents", &number);
    }
    if (status == MQ_OK) status = add_columns(columns, r, has_reference, integer, number);
    mq_free(&number);
    mq_free(&integer);
    return status;
}

mq_status mq_eval_json(const mq_evaluation *r, bool has_reference, bool per_document, cJSON **out)
{
    cJSON *o = *out = cJSON_CreateObject();
    MQ_TRY(add_figures(o, &r->figures, has_reference));
    MQ_TRY(mq_json_add_int(o, "samples", r->samples));
    if (r->n_bins > 0) MQ_TRY(add_positions(o, r, has_reference));
    if (per_document) MQ_TRY(add_documents(o, r, has_reference));
    return mq_json_add_double(o, "seconds", r->seconds);
}

/* ---- text ----------------------------------------------------------------------------------- */

enum { CELL = 96 };

/* "1.234 [1.200, 1.300] unit"; the brackets only where there is an interval. */
static void format(const mq_estimate *e, double factor, int digits, char text[CELL])
{
    if (isnan(e->value)) {
        snprintf(text, CELL, "-");
    } else if (isnan(e->low)) {
        snprintf(text, CELL, "%.*f", digits, factor * e->value);
    } else {
        snprintf(text, CELL, "%.*f [%.*f, %.*f]", digits, factor * e->value, digits,
                 factor * e->low, digits, factor * e->high);
    }
}

static void print_line(const char *name, const mq_estimate *e, double factor, int digits,
                       const char *unit)
{
    char text[CELL];
    format(e, factor, digits, text);
    printf("%-21s %s%s\n", name, text, unit);
}

static void print_positions(const mq_evaluation *r, bool has_reference)
{
    char cell[CELL];
    printf("\n%-13s %9s  %-*s%s\n", "positions", "tokens", has_reference ? 28 : 0, "perplexity",
           has_reference ? "  KL                            top-1 %" : "");
    for (int64_t b = 0; b < r->n_bins; b++) {
        const mq_position_figures *p = &r->by_position[b];
        snprintf(cell, CELL, "%" PRId64 "-%" PRId64, p->begin, p->end - 1);
        printf("%-13s %9" PRId64, p->end > p->begin ? cell : "none", p->figures.tokens);
        format(&p->figures.perplexity, 1, 3, cell);
        printf("  %-*s", has_reference ? 28 : 0, cell);
        if (has_reference) {
            format(&p->figures.kl, 1, 5, cell);
            printf("  %-28s", cell);
            format(&p->figures.top1, 100, 2, cell);
            printf("  %s", cell);
        }
        printf("\n");
    }
}

void mq_eval_print(const mq_evaluation *r, bool has_reference)
{
    const mq_figures *f = &r->figures;
    print_line("perplexity", &f->perplexity, 1, 6, "");
    if (has_reference) {
        print_line("reference perplexity", &f->reference_perplexity, 1, 6, "");
        print_line("log of their ratio", &f->log_perplexity_difference, 1, 6, "");
        print_line("KL to the reference", &f->kl, 1, 6, " nats");
        print_line("top-1 agreement", &f->top1, 100, 3, " %");
    }
    printf("tokens predicted      %" PRId64 " in %" PRId64 " samples\n", f->tokens, r->samples);
    if (f->documents > 1) {
        printf("in brackets           95 %% confidence, over %" PRId64 " samples\n", f->documents);
    }
    printf("time                  %.1f s\n", r->seconds);
    if (r->n_bins > 0) print_positions(r, has_reference);
}
