#include "mpi/test_store_files.h"

#include "store/folder.h"

#include <fcntl.h>
#include <math.h>

/* Model folders opened by all ranks: what is in them, and every way in which they can be broken. */

static mq_comm *comm;

static const char index_of_two[] =
    "{\"metadata\":{\"total_size\":12},\"weight_map\":{"
    "\"a\":\"x-1.safetensors\",\"b\":\"x-2.safetensors\",\"c\":\"x-1.safetensors\"}}";
static const char header_1[] = "{\"c\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                               "\"a\":{\"dtype\":\"I16\",\"shape\":[2],\"data_offsets\":[4,8]}}";
static const char header_2[] = "{\"b\":{\"dtype\":\"U8\",\"shape\":[2,2],\"data_offsets\":[0,4]}}";

static void put_two_shards(void)
{
    put_safetensors("x-1.safetensors", header_1,
                    "\0\0\x80\x3F"
                    "wxyz",
                    8);
    put_safetensors("x-2.safetensors", header_2, "1234", 4);
    put_file("model.safetensors.index.json", index_of_two, sizeof index_of_two - 1);
}

static mq_status open_folder(mq_folder **f)
{
    MPI_Barrier(MPI_COMM_WORLD);
    return mq_folder_open(comm, test_folder, f);
}

static void check_opens_not(mq_status expected, const char *part)
{
    mq_folder *f = NULL;
    check_failure(open_folder(&f), expected, part);
    CHECK(f == NULL);
    mq_folder_close(&f);
    folder_empty();
}

static void test_two_shards(void)
{
    mq_folder *f = NULL;
    char bytes[5] = "";
    float one = 0;
    put_two_shards();
    if (!CHECK_ALL(open_folder(&f) == MQ_OK)) return;
    CHECK(f->n_shards == 2 && f->n_tensors == 3);
    CHECK(strcmp(f->shard[0], "x-1.safetensors") == 0);
    CHECK(strcmp(f->tensor[0].name, "a") == 0 && strcmp(f->tensor[2].name, "c") == 0);
    const mq_tensor *a = mq_folder_find(f, "a"), *b = mq_folder_find(f, "b");
    CHECK(mq_folder_find(f, "d") == NULL && mq_folder_find(f, "") == NULL);
    if (CHECK(a && b)) {
        CHECK(a->dtype == MQ_I16 && a->shard == 0 && b->shard == 1 && b->n_dims == 2);
        CHECK(b->dim[0] == 2 && b->dim[1] == 2 && a->begin == 4 && a->end == 8);
        CHECK(mq_folder_read(f, a, 0, 4, bytes) == MQ_OK && strcmp(bytes, "wxyz") == 0);
        CHECK(mq_folder_read(f, a, 1, 2, bytes) == MQ_OK && strcmp(bytes, "xyyz") == 0);
        CHECK(mq_folder_read(f, b, 0, 4, bytes) == MQ_OK && strcmp(bytes, "1234") == 0);
        CHECK(mq_folder_read(f, b, 4, 0, bytes) == MQ_OK);
        CHECK(mq_folder_read(f, b, 1, 4, bytes) == MQ_E_INTERNAL);
        CHECK(mq_folder_read(f, b, UINT64_MAX, 2, bytes) == MQ_E_INTERNAL);
        CHECK(mq_folder_read_rows(f, a, 0, 1, MQ_F32, &one) == MQ_E_INPUT); /* I16 */
    }
    CHECK(mq_folder_read_rows(f, mq_folder_find(f, "c"), 0, 1, MQ_F32, &one) == MQ_OK);
    CHECK(one == 1.0f);
    mq_folder_close(&f);
    CHECK(f == NULL);
    folder_empty();
}

static void test_single_file(void)
{
    mq_folder *f = NULL;
    put_safetensors("model.safetensors", header_1, "01234567", 8);
    if (!CHECK_ALL(open_folder(&f) == MQ_OK)) return;
    CHECK(f->n_shards == 1 && f->n_tensors == 2);
    CHECK(strcmp(f->shard[0], "model.safetensors") == 0);
    mq_folder_close(&f);
    /* Beside an index the single file still counts. */
    put_file("model.safetensors.index.json", index_of_two, sizeof index_of_two - 1);
    if (!CHECK_ALL(open_folder(&f) == MQ_OK)) return;
    CHECK(f->n_shards == 1 && f->n_tensors == 2);
    mq_folder_close(&f);
    folder_empty();
}

static void test_broken_folders(void)
{
    mq_folder *f = NULL;
    check_failure(mq_folder_open(comm, "/nowhere/at/all", &f), MQ_E_INPUT, "/nowhere/at/all");
    check_opens_not(MQ_E_INPUT, "model.safetensors");

    put_two_shards();
    if (harness.rank == 0) unlink(in_folder("x-2.safetensors"));
    check_opens_not(MQ_E_INPUT, "x-2.safetensors: this shard is missing (shard 2 of 2");

    put_two_shards();
    put_safetensors("x-2.safetensors", header_2, "123", 3);
    check_opens_not(MQ_E_INPUT, "x-2.safetensors: the tensors end at byte 4");

    put_two_shards();
    put_file("x-1.safetensors", "\x90\0\0\0\0\0\0\0{\"a\":", 13);
    check_opens_not(MQ_E_INPUT, "x-1.safetensors: header of 144 bytes");

    put_two_shards();
    put_file("x-1.safetensors", "\x90\0", 2);
    check_opens_not(MQ_E_INPUT, "x-1.safetensors: 2 bytes");
}

/* The index in another spelling of its weight_map. */
static void put_map(const char *map)
{
    char text[512];
    int n = snprintf(text, sizeof text, "{\"weight_map\":{%s}}", map);
    put_file("model.safetensors.index.json", text, (size_t)n);
}

#define SHARD_1 "\"x-1.safetensors\""
#define SHARD_2 "\"x-2.safetensors\""

static void test_broken_maps(void)
{
    put_two_shards();
    put_map("\"a\":" SHARD_1 ",\"b\":" SHARD_2 ",\"c\":" SHARD_1 ",\"d\":" SHARD_2);
    check_opens_not(MQ_E_INPUT, "tensor \"d\" is missing from x-2.safetensors");

    put_two_shards();
    put_map("\"a\":" SHARD_1 ",\"b\":" SHARD_2 ",\"c\":" SHARD_2);
    check_opens_not(MQ_E_INPUT, "tensor \"c\" is in x-1.safetensors, but");

    put_two_shards();
    put_map("\"b\":" SHARD_2 ",\"c\":" SHARD_1);
    check_opens_not(MQ_E_INPUT, "x-1.safetensors holds tensor \"a\", of which");

    put_two_shards();
    put_safetensors("x-2.safetensors", header_1, "01234567", 8);
    check_opens_not(MQ_E_INPUT,
                    "tensor \"a\" is in two shards, x-1.safetensors and x-2.safetensors");

    put_two_shards();
    put_map("\"a\":" SHARD_1 ",\"a\":" SHARD_1 ",\"b\":" SHARD_2 ",\"c\":" SHARD_1);
    check_opens_not(MQ_E_INPUT, "names tensor \"a\" twice");

    put_two_shards();
    put_map("");
    check_opens_not(MQ_E_INPUT, "weight_map is empty");

    put_two_shards();
    put_map("\"a\":7");
    check_opens_not(MQ_E_INPUT, "sends tensor \"a\" to");

    put_file("model.safetensors.index.json", "{\"weight_map\":[]}", 17);
    check_opens_not(MQ_E_INPUT, "\"weight_map\" is missing or not an object");

    put_file("model.safetensors.index.json", "{\"weight_map\":", 14);
    check_opens_not(MQ_E_INPUT, "not valid JSON");
}

/* An index must not reach outside its folder, whatever lies there. */
static void test_paths_that_lead_out(void)
{
    static const char *const names[] = {"../x-1.safetensors", "/etc/passwd",      "..", ".", "",
                                        "sub/x.safetensors",  "./x-1.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char map[128];
        snprintf(map, sizeof map, "\"a\":\"%s\"", names[i]);
        put_two_shards();
        put_map(map);
        check_opens_not(MQ_E_INPUT, "expected the name of a file in the same folder");
    }
}

static void test_many_tensors(void)
{
    enum { N = 3000 };
    char *text = malloc((size_t)N * 80), *at = text, *data = calloc(N, 1);
    mq_folder *f = NULL;
    if (!CHECK_ALL(text && data)) return;
    *at++ = '{';
    for (int i = 0; i < N; i++) {
        int k = (int)((int64_t)i * 1009 % N);
        at +=
            sprintf(at, "%s\"layer.%d\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                    i ? "," : "", k, k, k + 1);
        data[i] = (char)(i % 100);
    }
    strcpy(at, "}");
    put_safetensors("model.safetensors", text, data, N);
    size_t chunk = comm->chunk_bytes;
    comm->chunk_bytes = 1000; /* the headers travel in many messages */
    if (CHECK_ALL(open_folder(&f) == MQ_OK)) {
        for (int i = 0; i < N; i++) {
            char name[32], byte = -1;
            snprintf(name, sizeof name, "layer.%d", i);
            const mq_tensor *t = mq_folder_find(f, name);
            CHECK_MSG(t && mq_folder_read(f, t, 0, 1, &byte) == MQ_OK && byte == i % 100, "%s",
                      name);
        }
    }
    comm->chunk_bytes = chunk;
    mq_folder_close(&f);
    free(text);
    free(data);
    folder_empty();
}

/* ---- rows -------------------------------------------------------------------------------- */

/* Numbers that bf16 and f16 hold, and f32 and f64 numbers that need rounding. */
static float value_at(int64_t i)
{
    return ldexpf((float)(i * 37 % 255 - 127), (int)(i % 7) - 6);
}

enum { ROWS = 700, COLUMNS = 3001 }; /* f64: many pieces of 1 MiB, none at a row's end */

static void fill(void *data, mq_dtype dtype, float extra)
{
    float *wide = malloc((size_t)ROWS * COLUMNS * sizeof *wide);
    if (!CHECK(wide != NULL)) return;
    for (int64_t i = 0; i < ROWS * COLUMNS; i++) wide[i] = value_at(i) * extra;
    if (dtype == MQ_F64) {
        double *d = data;
        for (int64_t i = 0; i < ROWS * COLUMNS; i++) d[i] = (double)wide[i];
    } else {
        CHECK(mq_from_f32(wide, ROWS * COLUMNS, dtype, data) == MQ_OK);
    }
    free(wide);
}

/* Where the data begins in its file: at an odd byte, or at a multiple of 8. */
typedef enum place { ANYWHERE, ALIGNED } place;

static void put_matrix(mq_dtype dtype, const void *data, place where)
{
    char header[160];
    size_t bytes = (size_t)ROWS * COLUMNS * mq_dtype_size(dtype);
    int n = snprintf(header, sizeof header - 8,
                     "{\"w\":{\"dtype\":\"%s\",\"shape\":[%d,%d],\"data_offsets\":[0,%zu]}}",
                     mq_dtype_name(dtype), ROWS, COLUMNS, bytes);
    int wanted = where == ALIGNED ? (n + 7) / 8 * 8 : n | 1;
    snprintf(header + n, sizeof header - (size_t)n, "%*s", wanted - n, "");
    put_safetensors("model.safetensors", header, data, bytes);
}

/* Every rank reads its own range of rows, as f32 and as bf16. */
static void check_rows(mq_folder *f, float extra)
{
    const mq_tensor *t = mq_folder_find(f, "w");
    int64_t r0 = ROWS * comm->rank / comm->size, r1 = ROWS * (comm->rank + 1) / comm->size;
    int64_t n = (r1 - r0) * COLUMNS, wrong = 0;
    float *wide = malloc((size_t)n * 4);
    uint16_t *half = malloc((size_t)n * 2);
    if (CHECK(t && wide && half)) {
        CHECK(mq_folder_read_rows(f, t, r0, r1, MQ_F32, wide) == MQ_OK);
        CHECK(mq_folder_read_rows(f, t, r0, r1, MQ_BF16, half) == MQ_OK);
        for (int64_t i = 0; i < n; i++) {
            float expected = value_at(r0 * COLUMNS + i) * extra;
            wrong += wide[i] != expected || half[i] != mq_f32_to_bf16(expected);
        }
        CHECK_MSG(wrong == 0, "%d of %d wrong as %s", (int)wrong, (int)n, mq_dtype_name(t->dtype));
        CHECK(mq_folder_read_rows(f, t, ROWS, ROWS, MQ_F32, wide) == MQ_OK);
        CHECK(mq_folder_read_rows(f, t, 0, ROWS + 1, MQ_F32, wide) == MQ_E_INTERNAL);
        CHECK(mq_folder_read_rows(f, t, -1, 1, MQ_F32, wide) == MQ_E_INTERNAL);
        CHECK(mq_folder_read_rows(f, t, 0, 1, MQ_F16, wide) == MQ_E_INTERNAL);
    }
    free(wide);
    free(half);
}

/* Each type with pread, through mmap, and through mmap at an odd offset, where it has to be read.
 */
static void test_rows(void)
{
    static const mq_dtype types[] = {MQ_F32, MQ_F16, MQ_BF16, MQ_F64};
    void *data = malloc((size_t)ROWS * COLUMNS * 8);
    if (!CHECK_ALL(data != NULL)) return;
    for (int i = 0; i < 4; i++) {
        mq_folder *f = NULL;
        float extra = types[i] == MQ_F32 || types[i] == MQ_F64 ? 1.0009765625f : 1.0f;
        fill(data, types[i], extra);
        for (int way = 0; way < 3; way++) {
            put_matrix(types[i], data, way == 1 ? ALIGNED : ANYWHERE);
            if (CHECK_ALL(open_folder(&f) == MQ_OK)) {
                if (way > 0) CHECK(mq_folder_map(f) == MQ_OK);
                check_rows(f, extra);
            }
            mq_folder_close(&f);
            folder_empty();
        }
    }
    free(data);
}

/* One bad value at a time; the first of its range is named. */
static void check_bad(mq_dtype dtype, const void *bits, mq_dtype wanted, bool mapped)
{
    static const int64_t bad_row = 517, bad_column = 2999;
    static const char part[] = "tensor \"w\" in model.safetensors: row 517, column 2999";
    size_t size = mq_dtype_size(dtype);
    int64_t at = bad_row * COLUMNS + bad_column;
    mq_folder *f = NULL;
    char *data = calloc((size_t)ROWS * COLUMNS, 8);
    float *out = malloc((size_t)ROWS * COLUMNS * 4);
    if (!CHECK_ALL(data && out)) return;
    memcpy(data + (size_t)at * size, bits, size);
    memcpy(data + (size_t)(at + 4) * size, bits, size);
    put_matrix(dtype, data, ALIGNED);
    if (CHECK_ALL(open_folder(&f) == MQ_OK)) {
        const mq_tensor *t = mq_folder_find(f, "w");
        if (mapped) CHECK(mq_folder_map(f) == MQ_OK);
        check_failure(mq_folder_read_rows(f, t, 400, 600, wanted, out), MQ_E_NUMERIC, part);
        check_failure(mq_folder_read_rows(f, t, 518, ROWS, wanted, out), MQ_E_NUMERIC,
                      "row 518, column 2");
        CHECK(mq_folder_read_rows(f, t, 0, 517, wanted, out) == MQ_OK);
        CHECK(mq_folder_read_rows(f, t, 519, ROWS, wanted, out) == MQ_OK);
    }
    mq_folder_close(&f);
    folder_empty();
    free(data);
    free(out);
}

static void test_values_that_are_not_finite(void)
{
    for (int mapped = 0; mapped < 2; mapped++) {
        check_bad(MQ_BF16, &(uint16_t){0x7F80}, MQ_F32, mapped);
        check_bad(MQ_BF16, &(uint16_t){0xFFC1}, MQ_BF16, mapped);
        check_bad(MQ_F16, &(uint16_t){0xFC00}, MQ_F32, mapped);
        check_bad(MQ_F32, &(float){-INFINITY}, MQ_F32, mapped);
        check_bad(MQ_F32, &(float){NAN}, MQ_BF16, mapped);
        check_bad(MQ_F32, &(float){3.4e38f}, MQ_BF16, mapped); /* rounds to inf */
        check_bad(MQ_F64, &(double){1e39}, MQ_F32, mapped);
    }
}

/* Zeros of both signs, subnormals and the largest numbers are finite. */
static void test_edge_values(void)
{
    static const float edge[] = {0.0f, -0.0f, 0x1p-149f, -0x1p-149f, 0x1.fffffep127f, 1.0f};
    static const char header[] =
        "{\"w\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,24]},"
        "\"z\":{\"dtype\":\"F32\",\"shape\":[4,0],\"data_offsets\":[24,24]},"
        "\"more\":{\"dtype\":\"F32\",\"shape\":[1,1,1,0],\"data_offsets\":[24,24]}}";
    float out[6] = {0};
    mq_folder *f = NULL;
    put_safetensors("model.safetensors", header, edge, sizeof edge);
    if (!CHECK_ALL(open_folder(&f) == MQ_OK)) return;
    CHECK(mq_folder_read_rows(f, mq_folder_find(f, "w"), 0, 6, MQ_F32, out) == MQ_OK);
    CHECK(memcmp(out, edge, sizeof edge) == 0);
    CHECK(mq_folder_read_rows(f, mq_folder_find(f, "z"), 0, 4, MQ_F32, out) == MQ_OK);
    CHECK(mq_folder_read_rows(f, mq_folder_find(f, "more"), 0, 1, MQ_F32, out) == MQ_E_INPUT);
    CHECK(strstr(mq_message(), "F32 [1, 1, 1, 0]") != NULL);
    mq_folder_close(&f);
    folder_empty();
}

/* Of three dimensions a row is all that the first one counts. */
static void test_cube(void)
{
    static const float values[] = {1, 2, 3, 4, 5, 6};
    static const char header[] =
        "{\"cube\":{\"dtype\":\"F32\",\"shape\":[3,1,2],\"data_offsets\":[0,24]}}";
    float out[4] = {0};
    mq_folder *f = NULL;
    put_safetensors("model.safetensors", header, values, sizeof values);
    if (!CHECK_ALL(open_folder(&f) == MQ_OK)) return;
    CHECK(mq_folder_read_rows(f, mq_folder_find(f, "cube"), 1, 3, MQ_F32, out) == MQ_OK);
    CHECK(memcmp(out, values + 2, sizeof out) == 0);
    mq_folder_close(&f);
    folder_empty();
}

/* ---- size -------------------------------------------------------------------------------- */

/* 256000 x 12288 bf16, sparse, with numbers in its last rows: past 4 GiB in bytes, past 2^31 in
 * elements. */
static void test_rows_past_4_gib(void)
{
    static const char header[] =
        "{\"e\":{\"dtype\":\"BF16\",\"shape\":[256000,12288],\"data_offsets\":[0,6291456000]},"
        "\"f\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[6291456000,6291456004]}}";
    const uint64_t start = 8 + sizeof header - 1;
    uint16_t last[2] = {mq_f32_to_bf16(3.0f), mq_f32_to_bf16(-5.0f)};
    float tail = 7.0f, *row = malloc(2 * 12288 * sizeof *row), one = 0;
    mq_folder *f = NULL;
    put_safetensors("model.safetensors", header, NULL, 0);
    if (harness.rank == 0) {
        int fd = open(in_folder("model.safetensors"), O_WRONLY);
        CHECK(pwrite(fd, last, 4, (off_t)(start + 6291456000u - 4)) == 4);
        CHECK(pwrite(fd, &tail, 4, (off_t)(start + 6291456000u)) == 4);
        close(fd);
    }
    if (CHECK_ALL(row && open_folder(&f) == MQ_OK)) {
        const mq_tensor *e = mq_folder_find(f, "e");
        CHECK(mq_folder_read_rows(f, e, 255998, 256000, MQ_F32, row) == MQ_OK);
        CHECK(row[0] == 0 && row[12287] == 0);
        CHECK(row[2 * 12288 - 2] == 3.0f && row[2 * 12288 - 1] == -5.0f);
        CHECK(mq_folder_read_rows(f, mq_folder_find(f, "f"), 0, 1, MQ_F32, &one) == MQ_OK);
        CHECK(one == 7.0f);
        memset(last, 0, sizeof last);
        CHECK(mq_folder_read(f, e, 6291456000u - 2, 2, last) == MQ_OK);
        CHECK(last[0] == mq_f32_to_bf16(-5.0f));
    }
    mq_folder_close(&f);
    free(row);
    folder_empty();
}

/* A file that shrinks while it is open gives an error, not a short read or a crash. */
static void test_file_that_shrinks(void)
{
    mq_folder *f = NULL;
    char bytes[8];
    put_safetensors("model.safetensors", header_1, "01234567", 8);
    if (!CHECK_ALL(open_folder(&f) == MQ_OK)) return;
    const mq_tensor *a = mq_folder_find(f, "a");
    CHECK(mq_folder_read(f, a, 0, 4, bytes) == MQ_OK);
    MPI_Barrier(MPI_COMM_WORLD);
    if (harness.rank == 0) {
        CHECK(truncate(in_folder("model.safetensors"), (off_t)(8 + strlen(header_1) + 6)) == 0);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    check_failure(mq_folder_read(f, a, 0, 4, bytes), MQ_E_INPUT, "tensor \"a\"");
    mq_folder_close(&f);
    folder_empty();
}

/* The same through mmap: by whole pages, and within the last page, where a mapping would show
 * zeros. */
static void test_mapped_file_that_shrinks(void)
{
    static const char header[] =
        "{\"w\":{\"dtype\":\"BF16\",\"shape\":[100000],\"data_offsets\":[0,200000]}} ";
    const off_t end = 8 + (off_t)(sizeof header - 1) + 200000;
    static const off_t cut[] = {2, 8192, 150000};
    static float out[100000];
    static const char zeros[200000];
    for (int i = 0; i < 3; i++) {
        mq_folder *f = NULL;
        put_safetensors("model.safetensors", header, zeros, sizeof zeros);
        if (!CHECK_ALL(open_folder(&f) == MQ_OK)) return;
        const mq_tensor *w = mq_folder_find(f, "w");
        CHECK(mq_folder_map(f) == MQ_OK);
        CHECK(mq_folder_read_rows(f, w, 0, 100000, MQ_F32, out) == MQ_OK);
        MPI_Barrier(MPI_COMM_WORLD);
        if (harness.rank == 0) CHECK(truncate(in_folder("model.safetensors"), end - cut[i]) == 0);
        MPI_Barrier(MPI_COMM_WORLD);
        check_failure(mq_folder_read_rows(f, w, 0, 100000, MQ_F32, out), MQ_E_INPUT,
                      "tensor \"w\"");
        CHECK(mq_folder_read_rows(f, w, 0, 20000, MQ_F32, out) == MQ_OK);
        mq_folder_close(&f);
        folder_empty();
    }
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    folder_start();
    if (mq_comm_create(MPI_COMM_WORLD, &comm) != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    RUN(test_two_shards);
    RUN(test_single_file);
    RUN(test_broken_folders);
    RUN(test_broken_maps);
    RUN(test_paths_that_lead_out);
    RUN(test_many_tensors);
    RUN(test_rows);
    RUN(test_values_that_are_not_finite);
    RUN(test_edge_values);
    RUN(test_cube);
    RUN(test_rows_past_4_gib);
    RUN(test_file_that_shrinks);
    RUN(test_mapped_file_that_shrinks);
    mq_comm_destroy(&comm);
    folder_end();
    return harness_finish();
}
