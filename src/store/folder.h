#ifndef MQ_STORE_FOLDER_H
#define MQ_STORE_FOLDER_H

#include "par/comm.h"
#include "store/safetensors.h"

#include <stdbool.h>

/* A Hugging Face model folder: one model.safetensors, or shards under model.safetensors.index.json.
 * Rank 0 reads and checks headers and index and broadcasts them; data is read by whoever needs it
 * with large preads, a row range at a time. */

typedef struct mq_folder {
    char *path;
    char **shard; /* file names, no folder, sorted */
    int32_t n_shards;
    uint64_t *data_start; /* (n_shards) */
    int *fd;              /* (n_shards) opened on first use, -1 before */
    bool mapped;          /* mq_folder_map was called */
    mq_tensor *tensor;    /* of all shards, sorted by name */
    int64_t n_tensors;
    char *storage; /* what rank 0 sent: behind shard[] and tensor[].name */
} mq_folder;

/** Opens a folder. Where both model.safetensors and an index exist the single file is taken, as
 *  transformers does, with a warning.
 *  Collective on comm. Errors (same on every rank): MQ_E_IO, MQ_E_INPUT: no such folder, no
 *  safetensors in it, a shard of the index missing, a tensor missing from its shard, present in two
 *  or unknown to the index, a weight_map entry that points outside the folder, any error of a
 *  header. */
mq_status mq_folder_open(const mq_comm *comm, const char *path, mq_folder **out);

/** Opens a folder that holds model.gguf. Collective on comm. Errors as those of mq_gguf_read. */
mq_status mq_folder_open_gguf(const mq_comm *comm, const char *path, mq_folder **out);

/** Opens a folder that holds safetensors, or else model.gguf. Collective on comm. Errors as above.
 */
mq_status mq_folder_open_any(const mq_comm *comm, const char *path, mq_folder **out);

/** Closes the files of this rank. Not collective. *folder may be NULL and becomes NULL. */
void mq_folder_close(mq_folder **folder);

/** The tensor of that name, or NULL. Not collective. */
const mq_tensor *mq_folder_find(const mq_folder *folder, const char *name);

/** Raw bytes [begin, begin + bytes) of a tensor's data. Not collective; one thread at a time.
 *  Errors: MQ_E_IO, MQ_E_INPUT (file shrank), naming file and tensor. */
mq_status mq_folder_read(mq_folder *folder, const mq_tensor *tensor, uint64_t begin, size_t bytes,
                         void *dst);

/** From here on rows that are converted are read through mmap, which saves a copy: it pays where
 *  the file is in the cache already, and not where it comes from a disk (docs/storage.md). Same
 *  values and same errors as without, but a file that loses whole pages while they are being read
 *  ends the process (store/view.h). Not collective. Errors: MQ_E_INPUT on a kernel that cannot read
 *  mapped pages with a call; the folder is read with pread then. */
mq_status mq_folder_map(mq_folder *folder);

/** Rows [r0, r1) of an F32, F16, BF16 or F64 tensor of 1 to 3 dimensions, converted to `dtype`
 *  (MQ_F32 or MQ_BF16), to nearest even. For a 1-d tensor rows are elements, of a 3-d one all that
 *  the first dimension counts. Not collective; one thread at a
 *  time. Bounded scratch: at most 2 pieces of 1 MiB.
 *  Errors: as mq_folder_read; MQ_E_INPUT for another dtype or number of dimensions; MQ_E_INTERNAL
 *  for rows that are not there; MQ_E_NUMERIC naming the first value that is NaN, inf, or too large
 *  for `dtype` (tensor, row, column). */
mq_status mq_folder_read_rows(mq_folder *folder, const mq_tensor *tensor, int64_t r0, int64_t r1,
                              mq_dtype dtype, void *dst);

/** Refuses NaN and inf among n values of type dtype that came from a tensor, the first of them
 * being its element `first`. Types other than F32, BF16 and F16 pass. Not collective. Errors:
 * MQ_E_NUMERIC naming tensor, file, row and column. */
mq_status mq_folder_check_finite(const mq_folder *folder, const mq_tensor *tensor, mq_dtype dtype,
                                 int64_t first, const void *data, int64_t n);

#endif
