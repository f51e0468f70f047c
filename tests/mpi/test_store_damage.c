#include "mpi/test_store_files.h"

#include "store/folder.h"

#include <fcntl.h>

/* A folder of two shards and its index, cut short at every byte and with every bit of headers and
 * index turned: an error that is the same on all ranks and names the file, or, where only what
 * nothing reads has changed, the same tensors. Never a crash, never other tensors. */

static mq_comm *comm;

static const char *const shards[] = {"x-1.safetensors", "x-2.safetensors"};
static const char index_name[] = "model.safetensors.index.json";

static const char header_1[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"model.norm\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64]},"
    "\"model.q\":{\"dtype\":\"BF16\",\"shape\":[16,32],\"data_offsets\":[64,1088]}} ";
static const char header_2[] =
    "{\"lm_head\":{\"dtype\":\"F16\",\"shape\":[24,16],\"data_offsets\":[0,768]},"
    "\"z\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[768,772]}}";
static const char index_text[] =
    "{\"metadata\":{\"total_size\":1860},\"weight_map\":{"
    "\"lm_head\":\"x-2.safetensors\",\"model.norm\":\"x-1.safetensors\","
    "\"model.q\":\"x-1.safetensors\",\"z\":\"x-2.safetensors\"}}";

enum { DATA_1 = 1088, DATA_2 = 772 };

static void put_folder(void)
{
    static const char data[DATA_1];
    put_safetensors(shards[0], header_1, data, DATA_1);
    put_safetensors(shards[1], header_2, data, DATA_2);
    put_file(index_name, index_text, sizeof index_text - 1);
}

static bool same_tensors(const mq_folder *a, const mq_folder *b)
{
    bool same = a->n_tensors == b->n_tensors && a->n_shards == b->n_shards;
    for (int64_t i = 0; i < a->n_tensors && same; i++) {
        const mq_tensor *x = &a->tensor[i], *y = &b->tensor[i];
        same = strcmp(x->name, y->name) == 0 && x->dtype == y->dtype && x->n_dims == y->n_dims &&
               memcmp(x->dim, y->dim, (size_t)x->n_dims * sizeof *x->dim) == 0 &&
               x->begin == y->begin && x->end == y->end && x->shard == y->shard;
    }
    return same;
}

/* Opens the damaged folder; whether it was refused. */
static bool check_damage(const mq_folder *whole, const char *file, const char *what, int64_t at)
{
    mq_folder *f = NULL;
    MPI_Barrier(MPI_COMM_WORLD);
    mq_status status = mq_folder_open(comm, test_folder, &f);
    int code = (int)status;
    MPI_Bcast(&code, 1, MPI_INT, 0, MPI_COMM_WORLD);
    CHECK_MSG(code == (int)status, "%s, %s %ld: %d on rank 0, %d here", file, what, (long)at, code,
              (int)status);
    if (status == MQ_OK) {
        CHECK_MSG(same_tensors(f, whole), "%s, %s %ld: other tensors", file, what, (long)at);
    } else {
        CHECK_MSG(status == MQ_E_INPUT || status == MQ_E_IO, "%s, %s %ld: %s", file, what, (long)at,
                  mq_message());
        CHECK_MSG(strstr(mq_message(), test_folder) != NULL, "%s, %s %ld: no place in \"%s\"", file,
                  what, (long)at, mq_message());
    }
    mq_folder_close(&f);
    MPI_Barrier(MPI_COMM_WORLD);
    return status != MQ_OK;
}

static void set_byte(const char *file, int64_t at, unsigned char value)
{
    if (harness.rank != 0) return;
    int fd = open(in_folder(file), O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, &value, 1, at) == 1);
    close(fd);
}

/* One rank turns all bits; more of them, which take turns on few cores, some. */
static int64_t stride(void)
{
    return harness.size == 1 ? 1 : 13;
}

/* Bits of the first `bytes` bytes of a file that holds `data`. */
static void turn_bits(const mq_folder *whole, const char *file, const char *data, int64_t bytes,
                      int64_t *refused)
{
    for (int64_t bit = 0; bit < 8 * bytes; bit += stride()) {
        unsigned char was = (unsigned char)data[bit / 8];
        set_byte(file, bit / 8, (unsigned char)(was ^ (1u << (bit % 8))));
        *refused += check_damage(whole, file, "bit", bit);
        set_byte(file, bit / 8, was);
    }
}

static void test_turned_bits(void)
{
    mq_folder *whole = NULL;
    const char *const headers[] = {header_1, header_2};
    char file[512];
    int64_t refused = 0, all = 0;
    put_folder();
    MPI_Barrier(MPI_COMM_WORLD);
    if (!CHECK_ALL(mq_folder_open(comm, test_folder, &whole) == MQ_OK)) return;
    for (int s = 0; s < 2; s++) {
        uint64_t length = strlen(headers[s]);
        memcpy(file, &length, 8);
        memcpy(file + 8, headers[s], length);
        turn_bits(whole, shards[s], file, 8 + (int64_t)length, &refused);
        all += 8 * (8 + (int64_t)length) / stride();
    }
    turn_bits(whole, index_name, index_text, sizeof index_text - 1, &refused);
    all += 8 * (int64_t)(sizeof index_text - 1) / stride();
    /* What is not refused is in the metadata, white space, or a case that JSON does not mind. */
    CHECK_MSG(refused > all * 3 / 4, "%ld of %ld refused", (long)refused, (long)all);
    mq_folder_close(&whole);
    folder_empty();
}

static void cut(const char *file, int64_t bytes)
{
    if (harness.rank == 0) CHECK(truncate(in_folder(file), bytes) == 0);
}

static void test_cut_files(void)
{
    mq_folder *whole = NULL;
    put_folder();
    MPI_Barrier(MPI_COMM_WORLD);
    if (!CHECK_ALL(mq_folder_open(comm, test_folder, &whole) == MQ_OK)) return;
    const char *const files[] = {shards[0], shards[1], index_name};
    const int64_t sizes[] = {8 + (int64_t)sizeof header_1 - 1 + DATA_1,
                             8 + (int64_t)sizeof header_2 - 1 + DATA_2, sizeof index_text - 1};
    for (int i = 0; i < 3; i++) {
        for (int64_t bytes = sizes[i] - 1; bytes >= 0; bytes -= stride()) {
            cut(files[i], bytes);
            CHECK_MSG(check_damage(whole, files[i], "cut at", bytes), "%s cut at %ld is taken",
                      files[i], (long)bytes);
        }
        put_folder();
    }
    mq_folder_close(&whole);
    folder_empty();
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    folder_start();
    if (mq_comm_create(MPI_COMM_WORLD, &comm) != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    RUN(test_turned_bits);
    RUN(test_cut_files);
    mq_comm_destroy(&comm);
    folder_end();
    return harness_finish();
}
