#ifndef MQ_PIPELINE_EXL2_CONFIG_H
#define MQ_PIPELINE_EXL2_CONFIG_H

#include "base/json.h"
#include "calib/calib.h"
#include "plan/scheme.h"

/** The "quantization_config" of EXL2: a description, since ExLlamaV2 finds packed layers by their
 *  tensors. Caller owns *out. Not collective. */
mq_status mq_exl2_config(const mq_scheme *scheme, const mq_calib *calib, cJSON **out);

#endif
