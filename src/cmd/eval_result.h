#ifndef MQ_CMD_EVAL_RESULT_H
#define MQ_CMD_EVAL_RESULT_H

#include "base/json.h"
#include "mpiquant/mpiquant.h"

/* How `mpiquant eval` shows its result. Nothing here is collective. */

/** The object of --json; caller frees with cJSON_Delete, also on failure. Errors: MQ_E_MEMORY. */
mq_status mq_eval_json(const mq_evaluation *r, bool has_reference, bool per_document, cJSON **out);

/** The text on stdout. */
void mq_eval_print(const mq_evaluation *r, bool has_reference);

#endif
