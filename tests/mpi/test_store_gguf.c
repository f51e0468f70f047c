#include "gguf_by_hand.h"
#include "mpi/test_store_files.h"

#include "base/hash.h"
#include "format/gguf_pairs.h"
#include "par/collectives.h"
#include "store/gguf.h"
#include "store/writer.h"

#include <fcntl.h>
#include <sys/statvfs.h>

/* GGUF files: the bytes of the one made up by hand, whoever writes which part. */

static mq_comm *comm;

static const mq_out_tensor tensors[N] = {{"model.embed.weight", MQ_BF16, 2, {3, 64}},
                                         {"layers.0.q.weight", MQ_Q4_0, 2, {2, 2}},
                                         {"layers.0.k.weight", MQ_Q8_0, 2, {3, 1}},
                                         {"norm.weight", MQ_F32, 1, {5}}};
static void add_pairs(mq_gguf_pairs *pairs)
{
    mq_gguf_add_string(pairs, "general.architecture", "llama");
    mq_gguf_add_u32(pairs, "llama.block_count", 7);
    mq_gguf_add_array(pairs, "tokens", MQ_GGUF_STRING, 2);
    mq_gguf_put_string(pairs, "a");
    mq_gguf_put_string(pairs, "");
    CHECK(pairs->status == MQ_OK);
}

/* Pieces of 50 bytes, dealt out. */
static mq_status put_all(mq_writer *w)
{
    char data[512];
    int piece = 0;
    for (int t = 0; t < N; t++) {
        for (size_t i = 0; i < bytes_of(t); i++) data[i] = data_byte(t, i);
        for (size_t at = 0; at < bytes_of(t); at += 50, piece++) {
            size_t n = bytes_of(t) - at < 50 ? bytes_of(t) - at : 50;
            if (piece % comm->size != comm->rank) continue;
            MQ_TRY(mq_writer_put(w, tensors[t].name, at, data + at, n));
        }
    }
    return MQ_OK;
}

static void test_the_bytes_themselves(void)
{
    mq_gguf_pairs pairs = {.n_bytes = 0};
    mq_writer *w = NULL;
    by_hand expected = make_by_hand();
    static char found[FILE_ROOM];
    add_pairs(&pairs);
    CHECK(mq_writer_create_gguf(comm, test_folder, &pairs, tensors, stored, N, &w) == MQ_OK);
    mq_gguf_pairs_clear(&pairs);
    if (!w) return;
    CHECK(mq_agree(comm, put_all(w)) == MQ_OK);
    CHECK_MSG(mq_writer_commit(w) == MQ_OK, "%s", mq_message());
    CHECK(mq_writer_shards(w) == 1 && folder_count() == 1);
    for (int i = 0; i < N; i++) {
        const char *data = expected.bytes + expected.data + (const int[]){0, 384, 480, 608}[i];
        CHECK(strcmp(mq_writer_name(w, i), stored[i]) == 0);
        CHECK(mq_writer_checksum(w, i) == mq_hash(data, bytes_of(i)));
    }
    int fd = open(in_folder("model.gguf"), O_RDONLY);
    CHECK(fd >= 0 && read(fd, found, sizeof found) == (ssize_t)expected.n);
    CHECK(memcmp(found, expected.bytes, expected.n) == 0);
    close(fd);
    mq_writer_destroy(&w);
    folder_empty();
}

static void test_what_it_cannot_hold(void)
{
    static const mq_out_tensor wide = {"a", MQ_F64, 1, {1}}, plain = {"a", MQ_F32, 1, {1}},
                               scalar = {"a", MQ_F32, 0, {0}};
    char name[65];
    memset(name, 'n', sizeof name);
    name[64] = '\0';
    const char *const short_name = "a", *const long_name = name;
    mq_gguf_pairs none = {.n_bytes = 0};
    mq_writer *w = NULL;
    check_failure(mq_writer_create_gguf(comm, test_folder, &none, &wide, &short_name, 1, &w),
                  MQ_E_INPUT, "\"a\": F64 is not written to GGUF");
    check_failure(mq_writer_create_gguf(comm, test_folder, &none, &plain, &long_name, 1, &w),
                  MQ_E_INPUT, "less than 64 bytes");
    check_failure(mq_writer_create_gguf(comm, test_folder, &none, &scalar, &short_name, 1, &w),
                  MQ_E_INPUT, "1 to 4 dimensions");
    CHECK(folder_count() == 0);
}

/* Offsets past 4 GiB, in the header and of the bytes. The space is reserved, not written. */
static void test_offsets_past_4_gib(void)
{
    const mq_out_tensor list[] = {{"e", MQ_BF16, 2, {256000, 12288}}, {"f", MQ_F32, 1, {2}}};
    const char *const names[] = {"token_embd.weight", "output_norm.weight"};
    const uint64_t large = UINT64_C(6291456000);
    mq_gguf_pairs none = {.n_bytes = 0};
    struct statvfs v;
    mq_writer *w = NULL;
    CHECK(statvfs(test_folder, &v) == 0);
    int64_t room = (int64_t)(v.f_bavail * v.f_frsize);
    if (!CHECK_ALL(mq_lowest_i64(comm, &room, 1) == MQ_OK)) return;
    if (room < (int64_t)large + (1 << 30)) {
        if (harness.rank == 0) printf("skip past 4 GiB: %lld bytes free\n", (long long)room);
        return;
    }
    mq_status status = mq_writer_create_gguf(comm, test_folder, &none, list, names, 2, &w);
    if (!CHECK_ALL(status == MQ_OK)) return;
    if (harness.rank == comm->size - 1) {
        mq_header h;
        char found[8];
        const char *path = in_folder("model.gguf.part");
        CHECK(mq_writer_put(w, "f", 0, "12345678", 8) == MQ_OK);
        CHECK_MSG(mq_gguf_read(path, &h) == MQ_OK, "%s", mq_message());
        const mq_tensor *f = mq_header_find(&h, names[1]);
        CHECK(f && f->begin == large && f->end == large + 8);
        int fd = open(path, O_RDONLY);
        CHECK(pread(fd, found, 8, (off_t)(h.data_start + large)) == 8);
        CHECK(memcmp(found, "12345678", 8) == 0);
        close(fd);
        mq_header_clear(&h);
    }
    mq_writer_destroy(&w);
    CHECK(folder_count() == 0);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    folder_start();
    if (mq_comm_create(MPI_COMM_WORLD, &comm) != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    RUN(test_the_bytes_themselves);
    RUN(test_what_it_cannot_hold);
    RUN(test_offsets_past_4_gib);
    mq_comm_destroy(&comm);
    folder_end();
    return harness_finish();
}
