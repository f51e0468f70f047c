#ifndef MQ_PIPELINE_LAYOUT_H
#define MQ_PIPELINE_LAYOUT_H

#include "plan/scheme.h"
#include "store/folder.h"
#include "store/writer.h"

/* Which tensors the output has: the packed ones of every quantised layer, one in BF16 of every
 * layer that is packed in the source and kept, and the others of the source as they are, in GGUF as
 * gguf_copy.h says. The program knows all by the source's names; GGUF has others. */

/** "MODULE.suffix". */
void mq_layout_part_name(const char *module, const char *suffix, char *out, size_t bytes);

/** False where the output has no head beside the embedding. A tied model's may hold one that
 * nothing reads: GGUF has no place for it. */
bool mq_layout_has_head(const mq_folder *source, const mq_scheme *scheme);

/** Creates the writer for the whole output. pairs: of GGUF; else max_shard_bytes counts.
 *  Collective. */
mq_status mq_layout_create_writer(const mq_comm *comm, const char *output, const mq_folder *source,
                                  const mq_scheme *scheme, const mq_gguf_pairs *pairs,
                                  uint64_t max_shard_bytes, mq_writer **out);

/** Copies the tensors that stay, chunks dealt to ranks. Collective. */
mq_status mq_layout_copy_rest(const mq_comm *comm, mq_folder *source, const mq_scheme *scheme,
                              mq_writer *writer);

#endif
