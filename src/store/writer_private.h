#ifndef MQ_STORE_WRITER_PRIVATE_H
#define MQ_STORE_WRITER_PRIVATE_H

#include "store/safetensors.h"
#include "store/writer.h"

/* Inside of the writer: layout (no MPI, no I/O), files of rank 0, commit. Private to store. */

/** One tensor of the output. */
typedef struct mq_slot {
    const char *name;   /* by which the program knows it */
    const char *stored; /* in its file */
    mq_dtype dtype;
    int n_dims;
    int64_t dim[8];
    int64_t place; /* ascending in its shard, then by name */
    int32_t shard;
    uint64_t begin, bytes; /* in its shard's data */
} mq_slot;

typedef struct mq_shard {
    char name[40];       /* final name, no folder */
    char *path, *part;   /* final and temporary path */
    char *header;        /* everything before the data; freed once it is written */
    uint64_t data_start; /* its length */
    uint64_t data_bytes; /* with what fills up to the alignment: zeros */
    int64_t first, n;    /* its slots */
    int fd;              /* own descriptor: fsync, then reading back; -1 when closed */
    MPI_File file;       /* MPI_FILE_NULL when closed */
} mq_shard;

/** What a rank wrote with one call. Travels between ranks as bytes. */
typedef struct mq_piece {
    int64_t slot, rank;
    uint64_t begin, bytes, hash;
} mq_piece;

/** A kind of file that holds tensors: how they lie in it, and what stands before them. */
typedef struct mq_container {
    const char *extension;
    uint64_t alignment; /* of a tensor in the data, bytes */
    bool widest_first;  /* tensors by falling size of their elements, then by name; else as given */
    /** All bytes before the data, mq_alloc'ed. Errors: MQ_E_INPUT for what the file cannot hold. */
    mq_status (*header)(const mq_writer *w, const mq_shard *shard, char **bytes, size_t *length);
    /** Reads and checks them. */
    mq_status (*read)(const char *path, mq_header *out);
} mq_container;

extern const mq_container mq_container_safetensors, mq_container_gguf;

struct mq_writer {
    const mq_comm *comm; /* borrowed */
    const mq_container *container;
    const mq_gguf_pairs *pairs; /* of GGUF, as are the names; borrowed until all is laid out */
    const char *const *stored;  /* names in the files; NULL: those given with the tensors */
    char *folder;
    mq_slot *slot; /* in layout order: by shard, then by offset */
    int64_t n_slots;
    const mq_slot **by_name;
    char *names;
    mq_shard *shard;
    int32_t n_shards;
    uint64_t total_bytes;
    mq_piece *piece; /* of this rank */
    int64_t n_pieces, room;
    uint64_t *checksum; /* (n_slots), after commit */
    bool committed;
};

/** Fills slots, shards, headers and the index of names of a zeroed writer with folder and
 * container. Not collective. Errors: MQ_E_INPUT: a name twice or not UTF-8, a size past 2^63,
 * sub-byte values that do not fill bytes, a header past its limit. */
mq_status mq_writer_lay_out(mq_writer *w, const mq_out_tensor *tensors, int64_t n,
                            uint64_t max_shard_bytes);

/** Creates the temporary files with their headers and reserves their space. On failure none is
 *  left. On rank 0. Errors: MQ_E_IO with path, bytes needed and bytes free. */
mq_status mq_writer_create_files(const mq_writer *w);

/** Removes the temporary files. On rank 0. */
void mq_writer_remove_files(const mq_writer *w);

/** Gives the files their final names and writes the index; on failure the names are taken back.
 *  On rank 0. Errors: MQ_E_IO. */
mq_status mq_writer_publish(const mq_writer *w);

/** Closes what this rank has open, without fsync. */
void mq_writer_close_files(mq_writer *w);

#endif
