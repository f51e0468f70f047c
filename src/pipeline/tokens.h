#ifndef MQ_PIPELINE_TOKENS_H
#define MQ_PIPELINE_TOKENS_H

#include "calib/calib.h"
#include "model/arch.h"

/** Loads and shards a token file for a model: checks it against the model's vocabulary and
 *  tokenizer, and warns about samples longer than the model's positions. samples 0: all.
 *  Collective. Errors: those of mq_calib_load; MQ_E_INPUT: several positions for each
 *  token where the model's rope has one, rows to add where it adds none. */
mq_status mq_tokens_load(const mq_comm *comm, const char *path, const char *model,
                         const mq_arch *arch, int64_t unit_tokens, int64_t samples, mq_calib **out);

#endif
