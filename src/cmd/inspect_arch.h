#ifndef MQ_CMD_INSPECT_ARCH_H
#define MQ_CMD_INSPECT_ARCH_H

#include "base/status.h"

#include <stdbool.h>

/** Prints how a model folder is read, and all that stands in the way of quantising it, as text or
 *  as one JSON object. On one rank. Errors: MQ_E_IO; MQ_E_INPUT when the model cannot be quantised,
 *  after it has been printed why, and when there is no config.json to speak of. */
mq_status mq_inspect_arch(const char *model, bool json);

#endif
