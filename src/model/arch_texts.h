#ifndef MQ_MODEL_ARCH_TEXTS_H
#define MQ_MODEL_ARCH_TEXTS_H

#include "base/json.h"

/* The files behind an arch. All on one rank. Private to src/model. */

/** MODEL/config.json, with the settings of a quantize_config.json beside it, and its path in
 *  *where. Free both with mq_free, also after a failure. Errors: MQ_E_IO, MQ_E_INPUT. */
mq_status mq_arch_read_config(const char *model, char **where, char **config);

/** Text of configs/arch/common.json; free with mq_free. Errors: MQ_E_IO. */
mq_status mq_arch_read_common(char **text);

/** What is done with a descriptor: its text, and the same parsed. */
typedef mq_status mq_descriptor_visit(void *context, const char *text, const cJSON *descriptor);

/** Calls `visit` for every descriptor of the data folder, by name, until it fails.
 *  Errors: MQ_E_IO; MQ_E_INPUT for one that is not JSON; those of visit. */
mq_status mq_arch_each_descriptor(mq_descriptor_visit *visit, void *context);

/** Whether a descriptor lists the model type. */
bool mq_descriptor_lists(const cJSON *descriptor, const char *model_type);

#endif
