#ifndef MQ_CMD_INSPECT_ARCH_TEXT_H
#define MQ_CMD_INSPECT_ARCH_TEXT_H

#include "base/json.h"

/** Prints for a terminal what `inspect --arch --json` says: names of tensors that differ in numbers
 *  only are one line, with how many they are. Errors: MQ_E_MEMORY. */
mq_status mq_inspect_arch_text(const cJSON *o);

#endif
