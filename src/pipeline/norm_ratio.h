#ifndef MQ_PIPELINE_NORM_RATIO_H
#define MQ_PIPELINE_NORM_RATIO_H

#include "model/arch.h"
#include "store/folder.h"

/** What the columns of a layer were divided by when its model was quantised: the weights of the
 *  norm before it over those of the source's. *ratio (n_in), powers of two, NULL for a layer that
 *  no norm feeds; free with mq_free. Not collective. Errors: MQ_E_INPUT where a ratio is no power
 *  of two, MQ_E_MEMORY, those of mq_folder_read_rows. */
mq_status mq_norm_ratio(mq_folder *folder, mq_folder *source, const mq_arch *arch, int64_t block,
                        mq_linear_id linear, float **ratio);

#endif
