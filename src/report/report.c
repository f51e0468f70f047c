#include "report/report.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

mq_status mq_report_create(int64_t capacity, mq_report **out)
{
    MQ_TRY(mq_alloc(1, sizeof **out, "report", out));
    mq_status status = mq_alloc(capacity, sizeof(mq_layer_result), "report", &(*out)->layer);
    if (status != MQ_OK) mq_report_destroy(out);
    if (status == MQ_OK) (*out)->capacity = capacity;
    return status;
}

void mq_report_destroy(mq_report **report)
{
    if (*report) mq_free(&(*report)->layer);
    mq_free(report);
}

mq_status mq_report_add(mq_report *report, const mq_layer_result *result)
{
    if (report->n_layers == report->capacity) {
        return mq_fail(MQ_E_INTERNAL, "more layers than the scheme has");
    }
    report->layer[report->n_layers++] = *result;
    return MQ_OK;
}

int64_t mq_report_fallbacks(const mq_report *report)
{
    int64_t n = 0;
    for (int64_t i = 0; i < report->n_layers; i++) n += strcmp(report->layer[i].method, "rtn") == 0;
    return n;
}

void mq_report_summary(const mq_report *report, double *mean, double *largest,
                       const mq_layer_result **worst)
{
    double sum = 0;
    int64_t n = 0;
    *largest = NAN;
    if (worst) *worst = NULL;
    for (int64_t i = 0; i < report->n_layers; i++) {
        const mq_layer_result *r = &report->layer[i];
        if (!isfinite(r->relative_loss)) continue;
        sum += r->relative_loss;
        n++;
        if (!(r->relative_loss <= *largest)) {
            *largest = r->relative_loss;
            if (worst) *worst = r;
        }
    }
    *mean = n ? sum / (double)n : NAN;
}

/* To first order in n_in / tokens the loss on new samples is 1 + c / N of what it would be with
 * endless data, that on the samples used 1 - c / N. */
double mq_report_more_samples(const mq_report *report)
{
    double half = 0, held_out = 0;
    for (int64_t i = 0; i < report->n_layers; i++) {
        const mq_layer_result *r = &report->layer[i];
        if (!isfinite(r->held_out_loss)) continue;
        half += r->half_loss;
        held_out += r->held_out_loss;
    }
    if (!(held_out > 0)) return NAN;
    double excess = fmax(held_out - half, 0) / (held_out + half); /* c / N of half the samples */
    return (excess / 4) / (1 + excess / 2);
}

static mq_status fill_layer(cJSON *o, const mq_layer_result *r, const mq_arch *arch)
{
    char name[256];
    int64_t n_out = 0, n_in = 0;
    mq_arch_linear_name(arch, r->linear, r->block, name, sizeof name);
    mq_arch_linear_shape(arch, r->block, r->linear, &n_out, &n_in);
    MQ_TRY(mq_json_add_string(o, "name", name));
    if (r->linear != MQ_HEAD) MQ_TRY(mq_json_add_int(o, "block", r->block));
    MQ_TRY(mq_json_add_int(o, "n_out", n_out));
    MQ_TRY(mq_json_add_int(o, "n_in", n_in));
    MQ_TRY(mq_json_add_int(o, "bits", r->quant.bits));
    MQ_TRY(mq_json_add_int(o, "group_size", r->quant.group));
    MQ_TRY(mq_json_add_bool(o, "zero_points", r->quant.zero_points));
    MQ_TRY(mq_json_add_string(o, "method", r->method));
    MQ_TRY(mq_json_add_double(o, "relative_loss", r->relative_loss));
    MQ_TRY(mq_json_add_double(o, "rtn_loss", r->nearest_loss));
    MQ_TRY(mq_json_add_int(o, "rtn_rows", r->nearest_rows));
    MQ_TRY(mq_json_add_double(o, "relative_error", r->relative_error));
    MQ_TRY(mq_json_add_double(o, "damping", r->damping));
    MQ_TRY(mq_json_add_double(o, "shrinkage", r->shrinkage));
    MQ_TRY(mq_json_add_double(o, "alpha", r->alpha));
    MQ_TRY(mq_json_add_double(o, "half_loss", r->half_loss));
    MQ_TRY(mq_json_add_double(o, "held_out_loss", r->held_out_loss));
    MQ_TRY(mq_json_add_int(o, "attempts", r->attempts));
    MQ_TRY(mq_json_add_string(o, "trouble", r->trouble));
    MQ_TRY(mq_json_add_int(o, "samples_left_out", r->samples_left_out));
    MQ_TRY(mq_json_add_int(o, "tokens", r->tokens));
    if (r->routed_tokens >= 0) {
        MQ_TRY(mq_json_add_int(o, "expert", mq_linear_expert(r->linear)));
        MQ_TRY(mq_json_add_int(o, "routed_tokens", r->routed_tokens));
    }
    MQ_TRY(mq_json_add_int(o, "rank_bound", r->rank_bound));
    MQ_TRY(mq_json_add_bool(o, "rank_deficient", r->rank_bound < n_in));
    MQ_TRY(mq_json_add_int(o, "dead_columns", r->dead));
    MQ_TRY(mq_json_add_int(o, "scaled_columns", r->scaled));
    return mq_json_add_double(o, "seconds", r->seconds);
}

mq_status mq_report_layers(const mq_report *report, const mq_arch *arch, cJSON **out)
{
    *out = cJSON_CreateArray();
    mq_status status = *out ? MQ_OK : mq_fail(MQ_E_MEMORY, "no memory for the report");
    for (int64_t i = 0; i < report->n_layers && status == MQ_OK; i++) {
        cJSON *o = cJSON_CreateObject();
        status = o && cJSON_AddItemToArray(*out, o) ? fill_layer(o, &report->layer[i], arch)
                                                    : mq_fail(MQ_E_MEMORY, "no memory");
    }
    if (status != MQ_OK) {
        cJSON_Delete(*out);
        *out = NULL;
    }
    return status;
}
