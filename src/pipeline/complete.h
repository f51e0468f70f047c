#ifndef MQ_PIPELINE_COMPLETE_H
#define MQ_PIPELINE_COMPLETE_H

#include "pipeline/output.h"
#include "pipeline/run.h"

/** Writes config.json, quantize_config.json and the small files of the source. Collective. */
mq_status mq_run_write_configs(const mq_run *run, const mq_output *output);

/** Ends a walk: the model card, the shards (the index last), then mq_report.json, which marks the
 *  run as finished. Collective. */
mq_status mq_run_complete(mq_run *run, const mq_output *output, const cJSON *settings);

#endif
