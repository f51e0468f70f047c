#ifndef MQ_FORMAT_STORED_H
#define MQ_FORMAT_STORED_H

#include "format/compressed.h"
#include "format/exl2.h"
#include "format/fp8.h"
#include "format/gptq.h"
#include "format/mxfp4.h"

/** Forms of packed linears that are read. */
typedef enum mq_packed_form {
    MQ_PACKED_NONE,
    MQ_PACKED_GPTQ,       /* qweight, qzeros, scales, g_idx */
    MQ_PACKED_COMPRESSED, /* weight_packed, weight_zero_point, weight_scale, weight_shape */
    MQ_PACKED_MXFP4,      /* weight_packed, weight_scale */
    MQ_PACKED_EXL2,       /* q_weight, q_invperm, q_groups, q_scale_max, q_scale */
    MQ_PACKED_FP8         /* weight, and weight_scale_inv or weight_scale */
} mq_packed_form;

/** A packed layer as read from a checkpoint, in whichever form. */
typedef struct mq_stored_layer {
    mq_packed_form form;
    union {
        mq_gptq_layer gptq;
        mq_compressed_layer compressed;
        mq_mxfp4_layer mxfp4;
        mq_exl2_layer exl2;
        mq_fp8_layer fp8;
    };
} mq_stored_layer;

/** "GPTQ", "compressed-tensors", "MXFP4", "EXL2" or "FP8". */
const char *mq_packed_form_name(mq_packed_form form);

/** Rows [n0, n1) of w to f32: dst (n1 - n0, n_in). Errors: those of the form's function. */
mq_status mq_stored_dequantise(const mq_stored_layer *layer, const char *name, int64_t n0,
                               int64_t n1, float *dst);

/** What dequantising all rows of a layer would refuse; the codes are not read, and need not be
 * there. Errors: those of the form's function; MQ_E_INPUT for FP8, in which nothing is written. */
mq_status mq_stored_check(const mq_stored_layer *layer, const char *name);

/** True when every zero point is 2^(bits-1), or there are none. Cost: may read all zero points. */
bool mq_stored_is_symmetric(const mq_stored_layer *layer);

#endif
