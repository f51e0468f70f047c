#ifndef MQ_PIPELINE_MEMORY_SETTINGS_H
#define MQ_PIPELINE_MEMORY_SETTINGS_H

#include "pipeline/settings.h"
#include "plan/memory.h"

/** What the memory plan has to know of a run with these options. Not collective.
 *  Errors: MQ_E_INPUT when a size does not fit 64 bits. */
mq_status mq_memory_settings_make(const mq_scheme *scheme, const mq_quantize_options *options,
                                  const mq_solver_settings *solver, mq_memory_settings *out);

#endif
