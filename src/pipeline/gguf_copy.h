#ifndef MQ_PIPELINE_GGUF_COPY_H
#define MQ_PIPELINE_GGUF_COPY_H

#include "model/gguf.h"
#include "store/folder.h"
#include "store/writer.h"

/* Tensors of the source that stay, as GGUF has them: norms and biases in F32, rows of q and k where
 * llama.cpp wants them. */

/** The type a tensor of the source gets. */
mq_dtype mq_gguf_copied_type(const mq_gguf_place *place, const mq_tensor *tensor);

/** This rank's pieces of a tensor: of all pieces, counted on in *piece from tensor to tensor,
 * number c goes to rank c mod P. Nothing happens for a tensor without a place. Not collective. */
mq_status mq_gguf_copy_tensor(const mq_comm *comm, mq_folder *source, const mq_arch *arch,
                              const mq_tensor *tensor, mq_writer *writer, int64_t *piece);

/** True where the model has a tensor of factors for rope, which the source does not. */
bool mq_gguf_has_rope_factors(const mq_arch *arch);
extern const char mq_gguf_rope_factors[]; /* its name; (head_dim / 2) F32 */

/** Writes it. On one rank. */
mq_status mq_gguf_write_rope_factors(const mq_arch *arch, mq_writer *writer);

#endif
