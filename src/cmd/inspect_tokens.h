#ifndef MQ_CMD_INSPECT_TOKENS_H
#define MQ_CMD_INSPECT_TOKENS_H

#include "base/status.h"

#include <stdbool.h>

/** Prints what a token file holds, as a table or as one JSON object. On one rank.
 *  Errors: MQ_E_IO; MQ_E_INPUT when it is not a token file as `quantize` takes it: nothing is
 * printed then. */
mq_status mq_inspect_tokens(const char *path, bool json);

#endif
