#ifndef MQ_TEST_STORE_OUTPUT_H
#define MQ_TEST_STORE_OUTPUT_H

#include "mpi/test_store_files.h"

#include "base/hash.h"
#include "store/writer.h"

/* An output of all kinds of tensors, dealt to the ranks in pieces. */

static mq_comm *comm;

static const mq_out_tensor tensors[] = {
    {"model.embed.weight", MQ_BF16, 2, {37, 24}},
    {"layer.0.qweight", MQ_I32, 2, {16, 40}},
    {"layer.0.scales", MQ_F16, 2, {3, 41}},
    {"layer.0.empty", MQ_F32, 2, {0, 5}},
    {"layer.0.g_idx", MQ_I32, 1, {77}},
    {"odd", MQ_U8, 1, {13}},
    {"scalar", MQ_F64, 0, {0}},
    {"quo\"te\\back\nline\xC3\xA9", MQ_U8, 1, {5}},
    {"layer.1.qweight", MQ_I32, 2, {30, 40}},
    {"layer.1.scales", MQ_F16, 2, {3, 41}},
    {"norm", MQ_F32, 1, {24}},
    {"half bytes", MQ_F4, 1, {6}},
};
enum { N = sizeof tensors / sizeof *tensors };

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static inline size_t bytes_of(int t)
{
    size_t bits = (size_t)mq_dtype_bits(tensors[t].dtype);
    for (int d = 0; d < tensors[t].n_dims; d++) bits *= (size_t)tensors[t].dim[d];
    return bits / 8;
}

/* The data of a tensor, made up from its number; `out` holds 8192 bytes. */
static inline const char *data_of(int t, char *out)
{
    for (size_t i = 0; i < bytes_of(t); i++) out[i] = (char)mix((uint64_t)t * 100000 + i + 1);
    return out;
}

/* Cuts every tensor into pieces of pseudo-random lengths and gives them to pseudo-random ranks;
 * every rank writes its own from the last tensor to the first. `skip`: a tensor whose piece number
 * 1 nobody writes; -1: none. */
static inline mq_status put_all(const mq_comm *c, mq_writer *w, uint64_t seed, int skip)
{
    char data[8192];
    mq_status status = MQ_OK;
    for (int t = N - 1; t >= 0; t--) {
        size_t at = 0, size = bytes_of(t);
        data_of(t, data);
        for (uint64_t piece = 0; at < size; piece++) {
            uint64_t r = mix(seed * 1000003 + (uint64_t)t * 977 + piece);
            size_t n = size > 200 ? 1 + r % 700 : size;
            if (n > size - at) n = size - at;
            bool mine = (int)((r >> 32) % (uint64_t)c->size) == c->rank;
            if (mine && !(t == skip && piece == 1)) {
                mq_status put = mq_writer_put(w, tensors[t].name, at, data + at, n);
                if (status == MQ_OK) status = put;
            }
            at += n;
        }
    }
    return status;
}

/* Writes everything with that communicator; true when all went well on it. */
static inline bool write_all(const mq_comm *c, const char *folder, uint64_t limit, uint64_t seed)
{
    mq_writer *w = NULL;
    bool good =
        CHECK_MSG(mq_writer_create(c, folder, tensors, N, limit, &w) == MQ_OK, "%s", mq_message());
    if (!good) return false;
    good = CHECK(mq_agree(c, put_all(c, w, seed, -1)) == MQ_OK);
    good = CHECK_MSG(mq_writer_commit(w) == MQ_OK, "%s", mq_message()) && good;
    char data[8192];
    for (int t = 0; t < N; t++) {
        bool found = false;
        for (int64_t i = 0; i < mq_writer_count(w); i++) {
            if (strcmp(mq_writer_name(w, i), tensors[t].name) != 0) continue;
            found = mq_writer_checksum(w, i) == mq_hash(data_of(t, data), bytes_of(t));
        }
        CHECK_MSG(found, "checksum of %s", tensors[t].name);
    }
    mq_writer_destroy(&w);
    CHECK(w == NULL);
    return good;
}

#endif
