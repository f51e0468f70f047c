#ifndef MQ_PIPELINE_TIED_HEAD_H
#define MQ_PIPELINE_TIED_HEAD_H

#include "model/arch.h"
#include "store/folder.h"

/** Warns where config.json says that the head is the embedding (tie_word_embeddings), and the
 *  folder has a head of its own with other values: programs differ in which of the two they take.
 *  Collective; rank 0 reads both tables to the first difference. The folder has passed
 *  mq_model_check. Memory: two pieces of 4 MiB. Errors, same everywhere: MQ_E_IO, MQ_E_MEMORY,
 *  MQ_E_NUMERIC. */
mq_status mq_warn_about_tied_head(const mq_comm *comm, mq_folder *folder, const mq_arch *arch);

#endif
