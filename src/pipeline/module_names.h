#ifndef MQ_PIPELINE_MODULE_NAMES_H
#define MQ_PIPELINE_MODULE_NAMES_H

#include "model/arch.h"

/* Modules as readers of a folder name them, as regular expressions that begin where names do. A
 * model of one part has the names of its checkpoint. Of one with towers each reader has names of
 * its own, which differ in how they begin: "model.layers.0.mlp.up_proj" is
 * "model.language_model.layers.0.mlp.up_proj" in transformers, and vLLM has a third. */

enum { MQ_PATTERN_BYTES = 1024 };

/** Appends the pattern of a module's name, or of its beginning up to some dot. */
void mq_module_pattern(const mq_arch *arch, const char *name, char out[MQ_PATTERN_BYTES]);

/** Parts of a model whose modules are only copied: those of arch->copied, and each expert that text
 *  does not go to. */
int64_t mq_n_other_patterns(const mq_arch *arch);

/** Appends the pattern of all modules of the i-th of them. */
void mq_other_pattern(const mq_arch *arch, int64_t i, char out[MQ_PATTERN_BYTES]);

/** Appends a part of a name that all readers share. */
void mq_pattern_escape(char out[MQ_PATTERN_BYTES], const char *text);

/** Appends text as it is. */
void mq_pattern_append(char out[MQ_PATTERN_BYTES], const char *text);

#endif
