#ifndef MQ_PIPELINE_COMPRESSED_CONFIG_H
#define MQ_PIPELINE_COMPRESSED_CONFIG_H

#include "base/json.h"
#include "plan/scheme.h"

/** The "quantization_config" of compressed-tensors ("pack-quantized"): one group of all Linear
 *  modules where the packed layers are alike, else a group by name for every kind; the modules that
 *  stay as they are under "ignore". Caller owns *out. Not collective. */
mq_status mq_compressed_config(const mq_scheme *scheme, cJSON **out);

#endif
