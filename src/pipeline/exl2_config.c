#include "pipeline/exl2_config.h"

#include "plan/mix.h"

/* The release of ExLlamaV2 whose layout this is. */
static const char *const version = "0.3.2";

enum { UNPACKED_HEAD = 16 };

static mq_status fill(cJSON *config, const mq_scheme *scheme, const mq_calib *calib)
{
    const mq_layer_plan *head = &scheme->head;
    bool head_alone = scheme->n_quantised == head->quantise;
    double bits = head_alone ? scheme->bits : mq_mix_average(scheme);
    MQ_TRY(mq_json_add_string(config, "quant_method", "exl2"));
    MQ_TRY(mq_json_add_string(config, "version", version));
    MQ_TRY(mq_json_add_double(config, "bits", bits));
    MQ_TRY(mq_json_add_int(config, "head_bits", head->quantise ? head->quant.bits : UNPACKED_HEAD));
    cJSON *calibration = cJSON_AddObjectToObject(config, "calibration");
    if (!calibration) return mq_fail(MQ_E_MEMORY, "no memory for the quantisation config");
    MQ_TRY(mq_json_add_int(calibration, "rows", calib->n_samples));
    MQ_TRY(mq_json_add_int(calibration, "length", calib->longest));
    return mq_json_add_string(calibration, "dataset", calib->source);
}

mq_status mq_exl2_config(const mq_scheme *scheme, const mq_calib *calib, cJSON **out)
{
    *out = cJSON_CreateObject();
    if (!*out) return mq_fail(MQ_E_MEMORY, "no memory for the quantisation config");
    mq_status status = fill(*out, scheme, calib);
    if (status != MQ_OK) {
        cJSON_Delete(*out);
        *out = NULL;
    }
    return status;
}
