#ifndef MQ_STORE_WRITER_H
#define MQ_STORE_WRITER_H

#include "base/dtype.h"
#include "format/gguf_pairs.h"
#include "par/comm.h"

#include <stdbool.h>

/* The parallel writer of safetensors shards and GGUF files. The whole layout (tensor, shard,
 * offset) is fixed before the first byte; disk space is reserved by rank 0; every rank then writes
 * its parts with independent 64-bit MPI-IO writes into files with temporary names. mq_writer_commit
 * fsyncs, reads everything back on another rank than wrote it, compares checksums, renames, and
 * writes the index last.
 *
 *     mq_writer_create(comm, folder, tensors, n, limit, &writer)      collective
 *     mq_writer_put(writer, name, begin, data, bytes) ...             each rank on its own
 *     mq_agree(comm, status of the puts)
 *     mq_writer_commit(writer)                                        collective
 *     mq_writer_destroy(&writer)                                      collective
 *
 * The files depend on the tensors and max_shard_bytes only, not on the number of ranks or on who
 * wrote what. Their modes honour the umask. */

typedef struct mq_out_tensor {
    const char *name;
    mq_dtype dtype;
    int n_dims;
    int64_t dim[8];
} mq_out_tensor;

typedef struct mq_writer mq_writer;

/** Lays the tensors out in the order given (which the caller keeps the same for any rank count):
 *  a new shard begins where the next tensor would pass max_shard_bytes; an oversize tensor gets its
 *  own. One shard is called model.safetensors (no index). Within a shard tensors are ordered by
 *  descending dtype alignment, then name. Rank 0 creates the files ("NAME.part") with the headers
 *  and reserves the space with fallocate, or checks statvfs where the file system has none.
 *  Collective; same arguments on every rank. Errors, the same on every rank: MQ_E_IO with path,
 *  bytes needed and free; MQ_E_INPUT for a duplicate name or a size past 2^63. */
mq_status mq_writer_create(const mq_comm *comm, const char *folder, const mq_out_tensor *tensors,
                           int64_t n_tensors, uint64_t max_shard_bytes, mq_writer **out);

/** The same into one file, model.gguf, in the order given: every tensor at a multiple of 32 bytes,
 *  `pairs` before the tensors' names and places. stored (n_tensors): their names in the file. Both
 *  are used in this call only. Errors also: MQ_E_INPUT for a type that this program does not write
 *  to GGUF, or a name of 64 bytes and more. */
mq_status mq_writer_create_gguf(const mq_comm *comm, const char *folder, const mq_gguf_pairs *pairs,
                                const mq_out_tensor *tensors, const char *const *stored,
                                int64_t n_tensors, mq_writer **out);

/** Writes bytes [begin, begin + bytes) of a tensor. Not collective: any rank, any order, one thread
 *  at a time, each byte written exactly once by one rank. Writes in parts of comm->chunk_bytes,
 *  checks return code and count of each, and keeps the XXH3 of the piece.
 *  Errors: MQ_E_IO naming file, tensor and offset; MQ_E_INTERNAL for a range that is not there. */
mq_status mq_writer_put(mq_writer *writer, const char *name, uint64_t begin, const void *data,
                        size_t bytes);

/** Completes the output: every rank fsyncs and closes; pieces are checked to cover every tensor
 *  once; each is re-read by another rank than wrote it and compared; files are renamed, the folder
 *  is fsynced, and model.safetensors.index.json comes last. With one shard its rename comes last.
 *  Collective, once. Cost: reads the output once, and again the part of a tensor that its reader
 *  itself wrote. Errors, the same everywhere: MQ_E_IO naming the file; MQ_E_INTERNAL for bytes that
 *  nobody wrote or that were written twice. No final name is left then. */
mq_status mq_writer_commit(mq_writer *writer);

/** Number of tensors; name in its file of the i-th in layout order (by shard, then by offset). */
int64_t mq_writer_count(const mq_writer *writer);
const char *mq_writer_name(const mq_writer *writer, int64_t i);
/** After commit, on every rank: the XXH3-64 of the i-th tensor's bytes, read back from the file. */
uint64_t mq_writer_checksum(const mq_writer *writer, int64_t i);
/** Bytes of all tensors and number of files. */
uint64_t mq_writer_total_bytes(const mq_writer *writer);
int32_t mq_writer_shards(const mq_writer *writer);

/** Closes; without a commit the temporary files are removed by rank 0. Collective. *writer may be
 *  NULL (on every rank) and becomes NULL. */
void mq_writer_destroy(mq_writer **writer);

#endif
