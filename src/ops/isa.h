#ifndef MQ_OPS_ISA_H
#define MQ_OPS_ISA_H

#include "base/status.h"

/* Private to src/ops. */

/** Keeps oneDNN to instruction sets up to `isa` ("": no limit). Works before its first use only.
 *  Errors: MQ_E_USAGE for an unknown name; MQ_E_INTERNAL when wider ones are in use already. */
mq_status mq_isa_limit(const char *isa);

#endif
