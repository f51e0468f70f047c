#ifndef MQ_STORE_FOLDER_SCAN_H
#define MQ_STORE_FOLDER_SCAN_H

#include "store/safetensors.h"

/* Rank 0's part of opening a model folder, without MPI. Private to store. */

enum { MQ_INDEX_LIMIT = 1 << 28 }; /* bytes of an index: 256 MiB is a few million tensors */

/** What the files of a folder say. Owned by the caller, cleared with mq_folder_scan_clear. */
typedef struct mq_folder_scan {
    char **shard; /* file names; storage in `names` or in the index */
    int32_t n_shards;
    mq_header *header; /* (n_shards) */
    mq_tensor *tensor; /* all of them, sorted by name, shard filled; names live in the headers */
    int64_t n_tensors;
} mq_folder_scan;

/** Reads model.safetensors, or the index and the headers of its shards, and checks that index and
 *  shards agree. Errors: see mq_folder_open. *out is to be cleared also on failure. */
mq_status mq_folder_scan_files(const char *path, mq_folder_scan *out);

/** Reads the header of model.gguf instead. */
mq_status mq_folder_scan_gguf(const char *path, mq_folder_scan *out);

/** Reads model.gguf where there are no safetensors, else those. */
mq_status mq_folder_scan_any(const char *path, mq_folder_scan *out);

void mq_folder_scan_clear(mq_folder_scan *scan);

#endif
