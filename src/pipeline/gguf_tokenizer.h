#ifndef MQ_PIPELINE_GGUF_TOKENIZER_H
#define MQ_PIPELINE_GGUF_TOKENIZER_H

#include "base/json.h"
#include "format/gguf_pairs.h"
#include "model/arch.h"

/* A Hugging Face tokenizer as llama.cpp has it: byte-level BPE, its "gpt2" tokenizer, or made from
 * a SentencePiece model, its "llama". */

/** The pairs tokenizer.* from tokenizer.json, tokenizer_config.json, config.json,
 *  chat_template.jinja and tokenizer.model of a model folder. Not collective.
 *  Errors: MQ_E_USAGE for a tokenizer that llama.cpp does not have, or of which this program does
 *  not know what it is called there; MQ_E_INPUT for files that make no sense; MQ_E_IO. */
mq_status mq_gguf_add_tokenizer(const char *model, const mq_arch *arch, mq_gguf_pairs *pairs);

/** What llama.cpp calls the way this tokenizer.json cuts texts before BPE. architecture:
 * llama.cpp's, where names differ by it. Errors: MQ_E_USAGE saying what is not known. */
mq_status mq_gguf_pre_tokenizer(const cJSON *tokenizer, const char *architecture, const char *where,
                                const char **out);

/** Refuses: what of a tokenizer has no form, and what to do. */
mq_status mq_gguf_refuse_tokenizer(const char *where, const char *what);

#endif
