#ifndef MQ_PIPELINE_COMPLETE_H
#define MQ_PIPELINE_COMPLETE_H

#include "pipeline/output.h"
#include "pipeline/run.h"

/** SHA-256 of MODEL/tokenizer.json, "" when there is none. Collective. */
mq_status mq_tokenizer_sha256(const mq_comm *comm, const char *model, char sha[65]);

/** Ends a walk: config files and the small files of the source, then the shards (the index last),
 *  then mq_report.json, which marks the run as finished. Collective. */
mq_status mq_run_complete(mq_run *run, const mq_output *output, const cJSON *settings);

#endif
