#ifndef MQ_PIPELINE_GGUF_HEADER_H
#define MQ_PIPELINE_GGUF_HEADER_H

#include "format/gguf_pairs.h"
#include "plan/scheme.h"

/** The key-value pairs of model.gguf: what the model is, and its tokenizer, from the files beside
 *  the weights. Collective: rank 0 reads, all get the pairs. Caller clears *out.
 *  Errors, same everywhere: MQ_E_IO; MQ_E_INPUT; MQ_E_USAGE for a tokenizer that llama.cpp does not
 *  have, naming what of it. */
mq_status mq_gguf_header(const mq_comm *comm, const mq_quantize_options *options,
                         const mq_scheme *scheme, mq_gguf_pairs *out);

#endif
