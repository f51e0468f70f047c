/* Token files: sound HDF5 with anything in it. */
#include "base/memory.h"
#include "calib/calib.h"
#include "fuzz.h"
#include "store/h5.h"

#include <hdf5.h>
#include <mpi.h>
#include <sanitizer/lsan_interface.h>

static mq_comm *comm;
static char path[64];

/* MPI stays up: what MPI_Finalize loses would count as leaks. */
static void end(void)
{
    unlink(path);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    __lsan_disable(); /* what Open MPI keeps is not ours */
    FUZZ_CHECK(MPI_Init(argc, argv) == MPI_SUCCESS);
    FUZZ_CHECK(mq_comm_create(MPI_COMM_WORLD, &comm) == MQ_OK);
    __lsan_enable();
    fuzz_scratch_name(path);
    int fd = mkstemp(path);
    FUZZ_CHECK(fd >= 0);
    close(fd);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    /* The cache of an open file is half a megabyte, past what HDF5 keeps for the next: mapping and
     * clearing it anew was most of the time. The rest are its defaults. */
    H5set_free_list_limits(-1, -1, 4 << 20, 256 << 10, 16 << 20, 1 << 20);
    atexit(end);
    return 0;
}

static void put_text(hid_t file, const char *name, const char *value, size_t size)
{
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, size);
    hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, value);
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
}

/* A text whose length HDF5 keeps elsewhere: the next 15 bytes at most, up to a NUL byte. */
static void put_variable_text(hid_t file, const char *name, fuzz_input *in)
{
    char text[16] = {0};
    const char *value = text;
    for (size_t i = 0; i + 1 < sizeof text; i++) text[i] = (char)fuzz_take(in, 1);
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, H5T_VARIABLE);
    hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, &value);
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
}

static void put_number(hid_t file, const char *name, int64_t value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(file, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, H5T_NATIVE_INT64, &value);
    H5Aclose(attribute);
    H5Sclose(space);
}

/* n numbers, each of a byte, of two or of eight from the input, in a dataset of some type and
 * number of dimensions. */
static void put_data(hid_t file, const char *name, fuzz_input *in, size_t bytes, bool ascending)
{
    const hid_t types[] = {H5T_STD_I64LE, H5T_STD_I32LE, H5T_STD_U16BE, H5T_IEEE_F32LE};
    uint64_t shape = fuzz_take(in, 1);
    hsize_t n = fuzz_take(in, 1) % 60, dims[2] = {n, 1};
    int64_t value[60] = {0}, sum = 0;
    for (hsize_t i = 0; i < n; i++) {
        sum = ascending ? (int64_t)((uint64_t)sum + fuzz_take(in, bytes))
                        : (int64_t)fuzz_take(in, bytes);
        value[i] = sum;
    }
    if (shape % 16 == 15) return; /* no such dataset */
    hid_t space = H5Screate_simple(shape % 16 == 14 ? 2 : 1, dims, NULL);
    hid_t set = H5Dcreate2(file, name, types[shape / 16 % 16 < 12 ? 0 : shape / 16 % 4], space,
                           H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (n > 0) H5Dwrite(set, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, value);
    H5Dclose(set);
    H5Sclose(space);
}

/* A dataset of up to two small dimensions, its numbers of 16 bits from the input. */
static void put_matrix(hid_t file, const char *name, fuzz_input *in)
{
    const hid_t types[] = {H5T_STD_U16LE, H5T_STD_I32LE, H5T_STD_I64BE, H5T_IEEE_F32LE};
    uint64_t shape = fuzz_take(in, 1);
    hsize_t dims[2] = {fuzz_take(in, 1) % 40, 1 + fuzz_take(in, 1) % 40}, n = dims[0] * dims[1];
    uint16_t value[40 * 40] = {0};
    if (shape % 8 == 7) return;
    if (shape % 8 == 6) n = dims[0];
    for (hsize_t i = 0; i < n; i++) value[i] = (uint16_t)fuzz_take(in, 2);
    hid_t space = H5Screate_simple(shape % 8 == 6 ? 1 : 2, dims, NULL);
    hid_t set =
        H5Dcreate2(file, name, types[shape / 8 % 4], space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (n > 0) H5Dwrite(set, H5T_NATIVE_UINT16, H5S_ALL, H5S_ALL, H5P_DEFAULT, value);
    H5Dclose(set);
    H5Sclose(space);
}

static void write_file(fuzz_input *in)
{
    uint64_t kind = fuzz_take(in, 1);
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    FUZZ_CHECK(file >= 0);
    if (kind & 1) {
        put_text(file, "format", (const char *)&in->data[0], in->size > 3 ? 3 : 1);
    } else {
        put_text(file, "format", "mpiquant-calib", 15);
    }
    if (kind & 64) {
        put_variable_text(file, "source", in);
    } else {
        put_text(file, "source", "fuzz", 5);
    }
    put_number(file, "version", kind & 2 ? (int64_t)fuzz_take(in, 8) : 1);
    put_number(file, "vocab_size", kind & 4 ? (int64_t)fuzz_take(in, 8) : 200);
    put_data(file, "offsets", in, kind & 8 ? 8 : 1, !(kind & 16));
    put_data(file, "tokens", in, kind & 32 ? 8 : 1, false);
    if (kind & 128) {
        put_matrix(file, "inputs_embeds", in);
        put_matrix(file, "position_ids", in);
        if (in->size > 0) put_matrix(file, "deepstack_embeds_0", in);
    }
    H5Fclose(file);
}

/* An mq_take_rows. */
static mq_status take(void *context, int64_t token, int64_t n, void *rows)
{
    const mq_calib *c = context;
    const uint16_t *row = rows;
    FUZZ_CHECK(token >= 0 && n > 0 && n <= c->n_local_tokens - token);
    for (int64_t i = 0; i < n * c->hidden; i++) FUZZ_CHECK((row[i] & 0x7f80) != 0x7f80);
    return MQ_OK;
}

static void check(const mq_calib *c)
{
    int32_t lowest = c->hidden > 0 ? -1 : 0;
    int64_t tokens = 0, samples = 0;
    for (int64_t u = 0; u < c->n_local_units; u++) {
        tokens += c->unit[u].n_tokens;
        samples += c->unit[u].n_samples;
    }
    FUZZ_CHECK(tokens == c->n_tokens && samples == c->n_samples && samples > 0);
    for (int64_t t = 0; t < tokens; t++) FUZZ_CHECK(c->token[t] >= lowest && c->token[t] < 200);
    for (int64_t i = 0; i < tokens * c->n_axes; i++) {
        FUZZ_CHECK(c->rope_positions[i] >= 0 && c->rope_positions[i] < c->n_positions);
    }
}

/* An mq_h5_visit. */
static mq_status count(void *context, const mq_h5_entry *entry)
{
    FUZZ_CHECK(entry->name && entry->type && entry->n_dims <= MQ_H5_MAX_DIMS);
    (*(int *)context)++;
    return MQ_OK;
}

/* What inspect does, which has to agree with the loader where both know the same vocabulary. */
static void inspect(const mq_calib *calib)
{
    int n_attributes = 0, n_members = 0;
    mq_calib_summary s;
    mq_h5 *file = NULL;
    bool good = mq_calib_summarise(path, &s) == MQ_OK;
    if (s.vocab_size == 200) FUZZ_CHECK(good == (calib != NULL));
    if (good && calib) {
        FUZZ_CHECK(s.n_samples == calib->n_samples && s.n_tokens == calib->n_tokens);
        FUZZ_CHECK(s.shortest == calib->shortest && s.longest == calib->longest);
    }
    mq_free(&s.source);
    FUZZ_CHECK(mq_h5_open(path, &file) == MQ_OK);
    FUZZ_CHECK(mq_h5_list_attributes(file, count, &n_attributes) == MQ_OK && n_attributes == 4);
    FUZZ_CHECK(mq_h5_list_members(file, count, &n_members) == MQ_OK && n_members <= 5);
    mq_h5_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4) return 0;
    fuzz_input in = {data, size};
    mq_calib_options options = {.unit_tokens = 16, .vocab_size = 200, .tokenizer_sha256 = ""};
    mq_calib *calib = NULL;
    write_file(&in);
    if (mq_calib_load(comm, path, &options, &calib) == MQ_OK) check(calib);
    for (int l = MQ_ROWS_EMBEDDED; calib && calib->hidden > 0 && l < calib->n_deep; l++) {
        if (mq_calib_spread_rows(comm, calib, l, take, calib) != MQ_OK) mq_calib_destroy(&calib);
    }
    inspect(calib);
    mq_calib_destroy(&calib);
    return 0;
}
