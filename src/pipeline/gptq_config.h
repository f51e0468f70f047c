#ifndef MQ_PIPELINE_GPTQ_CONFIG_H
#define MQ_PIPELINE_GPTQ_CONFIG_H

#include "base/json.h"
#include "plan/scheme.h"

/** The object that goes into config.json as "quantization_config" and is quantize_config.json.
 *  Layers that deviate from the run's bits and group size, or stay as they are, become `dynamic`
 *  rules. Caller owns *out. Not collective. */
mq_status mq_gptq_config(const mq_scheme *scheme, const mq_quantize_options *options, cJSON **out);

/** The source's config.json text with "quantization_config" added at its end, every other byte
 *  kept; free with mq_free. Errors: MQ_E_INPUT when it is not an object or has one already. */
mq_status mq_config_with_quantization(const char *source_text, const char *where,
                                      const cJSON *quantization, char **out);

#endif
