#include "base/log.h"
#include "calib/calib.h"
#include "harness.h"
#include "par/collectives.h"

#include <hdf5.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Token files are written with HDF5 by rank 0 into a folder of its own, in the layout that h5py
 * gives them, and loaded by all ranks. */

enum { VOCAB = 1000, MOST_SAMPLES = 64, MOST_TOKENS = 4096 };

static mq_comm *comm;
static char folder[] = "/tmp/mpiquant-calib-XXXXXX";

/* A token file; what is NULL or negative is left out. */
typedef struct content {
    const char *format, *sha;
    int64_t version;
    int64_t n_samples, offsets[MOST_SAMPLES + 1];
    int64_t n_tokens;
    int32_t tokens[MOST_TOKENS];
} content;

static int32_t token_at(int64_t sample, int64_t position)
{
    return (int32_t)((sample * 131 + position * 7 + 3) % VOCAB);
}

/* A good file of samples of the given lengths. */
static content file_of(const int64_t *lengths, int64_t n)
{
    content c = {.format = "mpiquant-calib", .sha = "ab12", .version = 1, .n_samples = n};
    for (int64_t s = 0; s < n; s++) {
        for (int64_t p = 0; p < lengths[s]; p++) c.tokens[c.n_tokens++] = token_at(s, p);
        c.offsets[s + 1] = c.n_tokens;
    }
    return c;
}

static void put_text(hid_t file, const char *name, const char *value)
{
    if (!value) return;
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, &value);
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
}

static void put_number(hid_t file, const char *name, int64_t value)
{
    if (value < 0) return;
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(file, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, H5T_NATIVE_INT64, &value);
    H5Aclose(attribute);
    H5Sclose(space);
}

static void put_data(hid_t file, const char *name, hid_t type, int64_t n, const void *data)
{
    if (n < 0) return;
    hsize_t size = (hsize_t)n;
    hid_t space = H5Screate_simple(1, &size, NULL);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (n > 0) H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Dclose(set);
    H5Sclose(space);
}

/* The path of the file under test; rank 0 writes it. */
static const char *write_file(const content *c)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/calib.h5", folder);
    if (comm->rank == 0) {
        hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
        put_text(file, "format", c->format);
        put_text(file, "tokenizer_sha256", c->sha);
        put_text(file, "source", "a test");
        put_number(file, "version", c->version);
        put_number(file, "vocab_size", VOCAB);
        put_data(file, "offsets", H5T_NATIVE_INT64, c->n_samples + 1, c->offsets);
        put_data(file, "tokens", H5T_NATIVE_INT32, c->n_tokens, c->tokens);
        H5Fclose(file);
    }
    return path;
}

static mq_calib_options options_of(int64_t unit_tokens, int64_t max_samples)
{
    return (mq_calib_options){.unit_tokens = unit_tokens,
                              .max_samples = max_samples,
                              .vocab_size = VOCAB,
                              .tokenizer_sha256 = "AB12"};
}

/* Every unit of every rank holds the samples it says, and all samples are somewhere once. */
static void check_units(const mq_calib *calib, const int64_t *lengths, int64_t n_samples,
                        int64_t unit_tokens)
{
    int64_t seen[MOST_SAMPLES] = {0}, total[3] = {calib->n_local_units, calib->n_local_tokens, 0};
    int64_t tokens = 0;
    for (int64_t u = 0; u < calib->n_local_units; u++) {
        const mq_unit *unit = &calib->unit[u];
        CHECK(unit->token_begin == tokens && unit->offset[0] == 0);
        CHECK(u == 0 || unit->id > calib->unit[u - 1].id);
        CHECK(unit->n_tokens <= unit_tokens || unit->n_samples == 1);
        CHECK(unit->n_tokens <= calib->max_unit_tokens);
        CHECK(unit->offset[unit->n_samples] == unit->n_tokens);
        for (int64_t s = 0; s < unit->n_samples; s++) {
            int64_t sample = unit->first_sample + s, begin = unit->offset[s];
            CHECK(unit->offset[s + 1] - begin == lengths[sample]);
            seen[sample]++;
            for (int64_t p = 0; p < lengths[sample]; p++) {
                CHECK(calib->token[tokens + begin + p] == token_at(sample, p));
                CHECK(unit->position[begin + p] == p);
            }
        }
        tokens += unit->n_tokens;
    }
    CHECK(mq_sum_i64(comm, seen, MOST_SAMPLES) == MQ_OK);
    CHECK(mq_sum_i64(comm, total, 2) == MQ_OK);
    for (int64_t s = 0; s < n_samples; s++) CHECK_MSG(seen[s] == 1, "sample %d", (int)s);
    CHECK(total[0] == calib->n_units && total[1] == calib->n_tokens);
    CHECK(tokens == calib->n_local_tokens);
}

static const int64_t ragged[] = {5, 1, 30, 7, 7, 90, 2, 2, 16, 31, 1, 8, 8, 8};
enum { N_RAGGED = sizeof ragged / sizeof *ragged };

static void test_ragged(void)
{
    content c = file_of(ragged, N_RAGGED);
    mq_calib_options options = options_of(32, 0);
    mq_calib *calib = NULL;
    if (!CHECK_ALL(mq_calib_load(comm, write_file(&c), &options, &calib) == MQ_OK)) return;
    CHECK(calib->n_samples == N_RAGGED && calib->n_tokens == c.n_tokens);
    CHECK(calib->longest == 90 && calib->shortest == 1 && calib->max_unit_tokens == 90);
    CHECK(strcmp(calib->source, "a test") == 0);
    check_units(calib, ragged, N_RAGGED, 32);
    mq_calib_destroy(&calib);
    CHECK(calib == NULL);
}

static void test_max_samples(void)
{
    content c = file_of(ragged, N_RAGGED);
    const int64_t limits[] = {1, 3, N_RAGGED, N_RAGGED + 5};
    for (int i = 0; i < 4; i++) {
        mq_calib_options options = options_of(MQ_UNIT_TOKENS, limits[i]);
        mq_calib *calib = NULL;
        if (!CHECK_ALL(mq_calib_load(comm, write_file(&c), &options, &calib) == MQ_OK)) return;
        int64_t n = limits[i] < N_RAGGED ? limits[i] : N_RAGGED;
        CHECK(calib->n_samples == n && calib->n_units == 1); /* other ranks have none */
        CHECK(calib->n_local_units == (comm->rank == 0));
        check_units(calib, ragged, n, MQ_UNIT_TOKENS);
        mq_calib_destroy(&calib);
    }
}

/* Equal lengths go round; messages of 32 bytes cut every transfer into many. */
static void test_even_in_small_chunks(void)
{
    int64_t lengths[40];
    for (int s = 0; s < 40; s++) lengths[s] = 16;
    content c = file_of(lengths, 40);
    mq_calib_options options = options_of(16, 0);
    mq_calib *calib = NULL;
    size_t chunk = comm->chunk_bytes;
    comm->chunk_bytes = 32;
    if (CHECK_ALL(mq_calib_load(comm, write_file(&c), &options, &calib) == MQ_OK)) {
        CHECK(calib->n_units == 40);
        CHECK(calib->n_local_units == 40 / comm->size + (comm->rank < 40 % comm->size));
        check_units(calib, lengths, 40, 16);
        mq_calib_destroy(&calib);
    }
    comm->chunk_bytes = chunk;
}

/* All ranks get this status, and a message that holds `text`. */
static void refuses(const char *path, mq_status status, const char *text)
{
    mq_calib_options options = options_of(32, 0);
    mq_calib *calib = NULL;
    mq_status got = mq_calib_load(comm, path, &options, &calib);
    CHECK_MSG(got == status, "%s: status %d instead of %d", text, (int)got, (int)status);
    CHECK_MSG(strstr(mq_message(), text) != NULL, "\"%s\" lacks \"%s\"", mq_message(), text);
    CHECK(calib == NULL);
    mq_calib_destroy(&calib);
}

static void test_bad_attributes(void)
{
    content good = file_of(ragged, N_RAGGED), c = good;
    c.format = "gptq-calib";
    refuses(write_file(&c), MQ_E_INPUT, "gptq-calib");
    c = good;
    c.format = NULL;
    refuses(write_file(&c), MQ_E_INPUT, "format");
    c = good;
    c.version = 2;
    refuses(write_file(&c), MQ_E_INPUT, "version 2");
    c = good;
    c.version = -1;
    refuses(write_file(&c), MQ_E_INPUT, "version");
    c = good;
    c.sha = "ab13";
    refuses(write_file(&c), MQ_E_INPUT, "another tokenizer");
}

static void test_bad_offsets(void)
{
    content good = file_of(ragged, N_RAGGED), c = good;
    c.offsets[0] = 1;
    refuses(write_file(&c), MQ_E_INPUT, "offsets run from 1");
    c = good;
    c.offsets[N_RAGGED]--;
    refuses(write_file(&c), MQ_E_INPUT, "tokens");
    c = good;
    c.offsets[3] = c.offsets[2];
    refuses(write_file(&c), MQ_E_INPUT, "sample 2 is empty");
    c = good;
    c.offsets[3] = c.offsets[2] - 4;
    refuses(write_file(&c), MQ_E_INPUT, "sample 2 runs");
    c = good;
    c.offsets[4] = c.n_tokens + 7;
    refuses(write_file(&c), MQ_E_INPUT, "must ascend");
    c = good;
    c.n_samples = 0;
    refuses(write_file(&c), MQ_E_INPUT, "no sample");
    c = good;
    c.n_samples = -2; /* no dataset */
    refuses(write_file(&c), MQ_E_INPUT, "offsets");
    c = good;
    c.n_tokens = -1;
    refuses(write_file(&c), MQ_E_INPUT, "tokens");
    c = good;
    c.n_tokens = 0;
    refuses(write_file(&c), MQ_E_INPUT, "no sample");
}

static void test_bad_tokens(void)
{
    content good = file_of(ragged, N_RAGGED), c = good;
    c.tokens[c.offsets[5] + 3] = VOCAB;
    refuses(write_file(&c), MQ_E_INPUT, "sample 5, position 3: token 1000");
    c = good;
    c.tokens[c.offsets[4]] = INT32_MAX; /* first of the second sample of its unit */
    refuses(write_file(&c), MQ_E_INPUT, "sample 4, position 0: token 2147483647");
    c = good;
    c.tokens[c.n_tokens - 1] = -1;
    refuses(write_file(&c), MQ_E_INPUT, "sample 13, position 7: token -1");
}

static void test_bad_files(void)
{
    char path[256];
    snprintf(path, sizeof path, "%s/none.h5", folder);
    refuses(path, MQ_E_IO, "none.h5");
    snprintf(path, sizeof path, "%s/text.h5", folder);
    if (comm->rank == 0) {
        FILE *f = fopen(path, "w");
        if (CHECK(f != NULL)) {
            fputs("not HDF5", f);
            fclose(f);
        }
    }
    refuses(path, MQ_E_INPUT, "text.h5");
    if (comm->rank == 0) unlink(path);
}

static void test_bad_budget(void)
{
    content c = file_of(ragged, N_RAGGED);
    mq_calib_options options = options_of(0, 0);
    mq_calib *calib = NULL;
    CHECK(mq_calib_load(comm, write_file(&c), &options, &calib) == MQ_E_USAGE);
    CHECK(calib == NULL);
}

/* Without a checksum to compare the file is taken, with a warning on rank 0. */
static void test_unknown_tokenizer(void)
{
    content c = file_of(ragged, N_RAGGED);
    mq_calib_options options = options_of(32, 0);
    const char *shas[] = {NULL, "", "ab12"};
    for (int i = 0; i < 3; i++) {
        mq_calib *calib = NULL;
        int before = mq_warning_count();
        c.sha = shas[i];
        if (i == 2) options.tokenizer_sha256 = "";
        CHECK(mq_calib_load(comm, write_file(&c), &options, &calib) == MQ_OK);
        CHECK(mq_warning_count() - before == (comm->rank == 0));
        mq_calib_destroy(&calib);
    }
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    if (harness.rank == 0 && !mkdtemp(folder)) MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Bcast(folder, sizeof folder, MPI_CHAR, 0, MPI_COMM_WORLD);
    if (mq_comm_create(MPI_COMM_WORLD, &comm) != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    RUN(test_ragged);
    RUN(test_max_samples);
    RUN(test_even_in_small_chunks);
    RUN(test_bad_attributes);
    RUN(test_bad_offsets);
    RUN(test_bad_tokens);
    RUN(test_bad_files);
    RUN(test_bad_budget);
    RUN(test_unknown_tokenizer);
    if (harness.rank == 0) {
        char path[256];
        snprintf(path, sizeof path, "%s/calib.h5", folder);
        unlink(path);
        rmdir(folder);
    }
    mq_comm_destroy(&comm);
    return harness_finish();
}
