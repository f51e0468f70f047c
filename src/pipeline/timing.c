#include "pipeline/timing.h"

#include "base/log.h"
#include "par/collectives.h"

#include <string.h>

static const char *const names[MQ_N_SECTIONS] = {
    [MQ_T_SETUP] = "set-up",    [MQ_T_READ] = "read weights",
    [MQ_T_FORWARD] = "forward", [MQ_T_HESSIAN] = "hessian",
    [MQ_T_REDUCE] = "reduce",   [MQ_T_DAMPING] = "damping",
    [MQ_T_FACTOR] = "factor",   [MQ_T_CORRECTION] = "correction",
    [MQ_T_SCALES] = "scales",   [MQ_T_HEADS] = "heads",
    [MQ_T_LDLQ] = "ldlq",       [MQ_T_PACK] = "pack",
    [MQ_T_WRITE] = "write",
};

void mq_timing_start(mq_timing *timing)
{
    memset(timing, 0, sizeof *timing);
    timing->started = timing->lap = mq_seconds();
}

void mq_timing_lap(mq_timing *timing, mq_section section)
{
    double now = mq_seconds();
    timing->seconds[section] += now - timing->lap;
    timing->lap = now;
}

static mq_status add_section(cJSON *table, int s, double low, double mean, double high)
{
    cJSON *row = cJSON_CreateObject();
    mq_status status = mq_json_add_double(row, "min", low);
    if (status == MQ_OK) status = mq_json_add_double(row, "average", mean);
    if (status == MQ_OK) status = mq_json_add_double(row, "max", high);
    if (status != MQ_OK) {
        cJSON_Delete(row);
        return status;
    }
    return mq_json_add(table, names[s], row);
}

static mq_status print_table(const double *low, const double *sum, const double *high, double total,
                             int size, cJSON *report)
{
    cJSON *table = report ? cJSON_CreateObject() : NULL;
    mq_status status = MQ_OK;
    mq_log("time (s)          min   average       max   share");
    for (int s = 0; s < MQ_N_SECTIONS && status == MQ_OK; s++) {
        double mean = sum[s] / size;
        mq_log("  %-12s %8.2f  %8.2f  %8.2f  %5.1f %%", names[s], low[s], mean, high[s],
               total > 0 ? 100 * mean / total : 0);
        if (table) status = add_section(table, s, low[s], mean, high[s]);
    }
    if (!table) return MQ_OK;
    if (status != MQ_OK) {
        cJSON_Delete(table);
        return status;
    }
    return mq_json_add(report, "timing", table);
}

mq_status mq_timing_report(const mq_timing *timing, const mq_comm *comm, cJSON *report)
{
    double low[MQ_N_SECTIONS], sum[MQ_N_SECTIONS], high[MQ_N_SECTIONS];
    for (int s = 0; s < MQ_N_SECTIONS; s++) {
        low[s] = -timing->seconds[s];
        sum[s] = high[s] = timing->seconds[s];
    }
    MQ_TRY(mq_max_f64(comm, low, MQ_N_SECTIONS));
    MQ_TRY(mq_sum_f64(comm, sum, MQ_N_SECTIONS));
    MQ_TRY(mq_max_f64(comm, high, MQ_N_SECTIONS));
    double total = 0;
    for (int s = 0; s < MQ_N_SECTIONS; s++) {
        low[s] = -low[s];
        total += sum[s] / comm->size;
    }
    return mq_agree(
        comm, print_table(low, sum, high, total, comm->size, comm->rank == 0 ? report : NULL));
}
