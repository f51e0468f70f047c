#include "base/log.h"
#include "calib/calib.h"
#include "harness.h"
#include "par/collectives.h"

#include <hdf5.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Token files with rows in the place of embeddings, and with positions: written with HDF5 by rank 0
 * and loaded by all ranks, who get those of their own units. */

enum { VOCAB = 50, HIDDEN = 6, N_SAMPLES = 7, N_TOKENS = 61 };
static const int64_t offsets[N_SAMPLES + 1] = {0, 9, 10, 25, 40, 44, 60, N_TOKENS};

static mq_comm *comm;
static char folder[] = "/tmp/mpiquant-rows-XXXXXX";

/* A file; a width or a number of axes of 0: no such dataset. */
typedef struct content {
    bool tokens, one_dim; /* positions as (tokens), not (n_axes, tokens) */
    int hidden, n_axes;
    int64_t n_rows, n_positions;
    hid_t row_type, position_type;
    int32_t token[N_TOKENS];
    uint16_t row[N_TOKENS * HIDDEN];
    int64_t position[4 * N_TOKENS]; /* axis after axis */
} content;

static uint16_t row_at(int64_t token, int64_t column)
{
    return (uint16_t)(0x3f80 + token * 8 + column);
}

static int64_t position_at(int64_t token, int64_t axis)
{
    return token * 5 + axis * 3;
}

static content good(void)
{
    content c = {.tokens = true, .hidden = HIDDEN, .n_axes = 3, .n_rows = N_TOKENS};
    c.n_positions = N_TOKENS;
    c.row_type = H5T_STD_U16LE;
    c.position_type = H5T_STD_I32LE;
    for (int64_t t = 0; t < N_TOKENS; t++) {
        c.token[t] = t % 5 == 4 ? -1 : (int32_t)(t % VOCAB);
        for (int64_t i = 0; i < HIDDEN; i++) c.row[t * HIDDEN + i] = row_at(t, i);
        for (int64_t a = 0; a < 4; a++) c.position[a * N_TOKENS + t] = position_at(t, a);
    }
    return c;
}

static void put(hid_t file, const char *name, hid_t type, int n_dims, const hsize_t *dims,
                hid_t memory, const void *data)
{
    hid_t space = H5Screate_simple(n_dims, dims, NULL);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Dclose(set);
    H5Sclose(space);
}

static void put_attributes(hid_t file)
{
    const char *format = "mpiquant-calib";
    int64_t version = 1;
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, strlen(format));
    hid_t a = H5Acreate2(file, "format", type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(a, type, format);
    H5Aclose(a);
    a = H5Acreate2(file, "version", H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(a, H5T_NATIVE_INT64, &version);
    H5Aclose(a);
    H5Sclose(space);
    H5Tclose(type);
}

static const char *write_file(const content *c)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/rows.h5", folder);
    if (comm->rank != 0) return path;
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const hsize_t n_offsets = N_SAMPLES + 1, n = N_TOKENS;
    const hsize_t rows[2] = {(hsize_t)c->n_rows, (hsize_t)c->hidden};
    const hsize_t axes[2] = {(hsize_t)c->n_axes, (hsize_t)c->n_positions};
    put_attributes(file);
    put(file, "offsets", H5T_STD_I64LE, 1, &n_offsets, H5T_NATIVE_INT64, offsets);
    if (c->tokens) put(file, "tokens", H5T_STD_I32LE, 1, &n, H5T_NATIVE_INT32, c->token);
    if (c->hidden > 0) {
        put(file, "inputs_embeds", c->row_type, 2, rows, H5T_NATIVE_UINT16, c->row);
    }
    if (c->n_axes > 0) {
        put(file, "position_ids", c->position_type, c->one_dim ? 1 : 2,
            c->one_dim ? axes + 1 : axes, H5T_NATIVE_INT64, c->position);
    }
    H5Fclose(file);
    return path;
}

static mq_status load(const content *c, mq_calib **out)
{
    const mq_calib_options options = {
        .unit_tokens = 20, .vocab_size = VOCAB, .hidden = HIDDEN, .tokenizer_sha256 = ""};
    return mq_calib_load(comm, write_file(c), &options, out);
}

/* ---- what comes is what was written ---------------------------------------------------------- */

typedef struct taken {
    uint16_t row[N_TOKENS * HIDDEN];
    int64_t n;
} taken;

static mq_status take(void *context, int64_t token, int64_t n, void *rows)
{
    taken *t = context;
    CHECK(token == t->n);
    memcpy(t->row + token * HIDDEN, rows, (size_t)(n * HIDDEN) * sizeof *t->row);
    t->n += n;
    return MQ_OK;
}

static void check_unit(const mq_calib *calib, const mq_unit *unit, const taken *rows, int n_axes)
{
    int64_t first = offsets[unit->first_sample];
    for (int64_t t = 0; t < unit->n_tokens; t++) {
        const uint16_t *row = rows->row + (unit->token_begin + t) * HIDDEN;
        for (int64_t i = 0; i < HIDDEN; i++) CHECK(row[i] == row_at(first + t, i));
        for (int a = 0; a < n_axes; a++) {
            CHECK(unit->rope_position[t * n_axes + a] == position_at(first + t, a));
        }
        int32_t token = calib->token[unit->token_begin + t];
        CHECK(token == (calib->has_tokens && (first + t) % 5 != 4 ? (first + t) % VOCAB : -1));
    }
    CHECK(unit->n_axes == n_axes && (n_axes > 0) == (unit->rope_position != NULL));
}

static void check_good(const content *c)
{
    mq_calib *calib = NULL;
    taken rows = {.n = 0};
    if (!CHECK_ALL(load(c, &calib) == MQ_OK)) return;
    CHECK(calib->has_tokens == c->tokens && calib->hidden == HIDDEN && calib->n_axes == c->n_axes);
    CHECK(calib->n_positions ==
          (c->n_axes > 0 ? position_at(N_TOKENS - 1, c->n_axes - 1) + 1 : calib->longest));
    if (CHECK_ALL(mq_calib_spread_rows(comm, calib, MQ_ROWS_EMBEDDED, take, &rows) == MQ_OK)) {
        CHECK(rows.n == calib->n_local_tokens);
        for (int64_t u = 0; u < calib->n_local_units; u++) {
            check_unit(calib, &calib->unit[u], &rows, c->n_axes);
        }
    }
    mq_calib_destroy(&calib);
}

static void test_good(void)
{
    for (int tokens = 0; tokens < 2; tokens++) {
        content c = good();
        c.tokens = tokens;
        check_good(&c);
        c.position_type = H5T_STD_U64BE;
        check_good(&c);
        c.n_axes = 1;
        check_good(&c);
        c.one_dim = true;
        check_good(&c);
        c.n_axes = 0;
        check_good(&c);
    }
}

/* Positions alone, beside tokens. */
static void test_positions_alone(void)
{
    content c = good();
    mq_calib *calib = NULL;
    c.hidden = 0;
    for (int64_t t = 0; t < N_TOKENS; t++) c.token[t] = 1;
    if (!CHECK_ALL(load(&c, &calib) == MQ_OK)) return;
    CHECK(calib->hidden == 0 && calib->n_axes == 3 && calib->has_tokens);
    mq_calib_destroy(&calib);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void refuses(const content *c, const char *text)
{
    mq_calib *calib = NULL;
    mq_calib_summary summary;
    CHECK(load(c, &calib) == MQ_E_INPUT && calib == NULL);
    CHECK_MSG(strstr(mq_message(), text) != NULL, "\"%s\" lacks \"%s\"", mq_message(), text);
    if (comm->rank != 0) return;
    CHECK(c->hidden == HIDDEN - 1 || mq_calib_summarise(write_file(c), &summary) == MQ_E_INPUT);
}

static void test_shapes(void)
{
    content c = good();
    c.hidden = HIDDEN - 1;
    refuses(&c, "rows of 5 numbers, the model's hidden size is 6");
    c = good();
    c.n_rows = N_TOKENS - 1;
    refuses(&c, "\"inputs_embeds\" must be (tokens, hidden size) for 61 tokens");
    c = good();
    c.n_axes = 2;
    refuses(&c, "\"position_ids\" must be (3, tokens) or (tokens)");
    c.n_axes = 4;
    refuses(&c, "\"position_ids\" must be (3, tokens) or (tokens)");
    c = good();
    c.n_positions = N_TOKENS - 1;
    refuses(&c, "\"position_ids\" must be");
    c = good();
    c.position_type = H5T_IEEE_F32LE;
    refuses(&c, "\"position_ids\" must have one dimension or two of integers");
    c = good();
    c.hidden = 0;
    refuses(&c, "sample 0, position 4: token -1");
    c.tokens = false;
    refuses(&c, "\"tokens\" is missing");
}

static void test_values(void)
{
    static const int64_t bad[] = {-1, MQ_MOST_POSITIONS, INT64_MAX, INT64_MIN};
    for (int i = 0; i < 4; i++) {
        content c = good();
        c.position_type = H5T_STD_I64LE;
        c.position[2 * N_TOKENS + 27] = bad[i];
        refuses(&c, "\"position_ids\", sample 3, token 2");
    }
    content c = good();
    c.token[3] = -2;
    refuses(&c, "sample 0, position 3: token -2");
}

/* Rows are read when they are used, and inspected as a whole. */
static void refuses_rows(const content *c, const char *text)
{
    mq_calib *calib = NULL;
    mq_calib_summary summary;
    taken rows = {.n = 0};
    if (!CHECK_ALL(load(c, &calib) == MQ_OK)) return;
    CHECK(mq_calib_spread_rows(comm, calib, MQ_ROWS_EMBEDDED, take, &rows) == MQ_E_INPUT);
    CHECK_MSG(strstr(mq_message(), text) != NULL, "\"%s\" lacks \"%s\"", mq_message(), text);
    if (comm->rank == 0) CHECK(mq_calib_summarise(write_file(c), &summary) == MQ_E_INPUT);
    mq_calib_destroy(&calib);
}

static void test_rows(void)
{
    static const uint16_t bad[] = {0x7f80, 0xff80, 0x7fc0, 0xffff};
    for (int i = 0; i < 4; i++) {
        content c = good();
        c.row[44 * HIDDEN + 5] = bad[i];
        refuses_rows(&c,
                     "\"inputs_embeds\", sample 5, position 0, column 5 is not a finite number");
    }
    content c = good();
    c.row_type = H5T_STD_I16LE;
    refuses_rows(&c, "two dimensions of uint16");
}

/* A failure of one rank reaches all. */
static mq_status refuse(void *context, int64_t token, int64_t n, void *rows)
{
    (void)context, (void)token, (void)n, (void)rows;
    return mq_fail(MQ_E_NUMERIC, "not these");
}

static void test_taker_fails(void)
{
    content c = good();
    mq_calib *calib = NULL;
    taken rows = {.n = 0};
    int64_t last = 0;
    if (!CHECK_ALL(load(&c, &calib) == MQ_OK)) return;
    for (int64_t u = 0; u < calib->n_local_units; u++) {
        if (calib->unit[u].id == calib->n_units - 1) last = comm->rank;
    }
    CHECK(mq_highest_i64(comm, &last, 1) == MQ_OK);
    bool mine = last == comm->rank;
    CHECK(mq_calib_spread_rows(comm, calib, MQ_ROWS_EMBEDDED, mine ? refuse : take, &rows) ==
          MQ_E_NUMERIC);
    mq_calib_destroy(&calib);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    if (mq_comm_create(MPI_COMM_WORLD, &comm) != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    mq_log_enable(false);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    if (comm->rank == 0) CHECK(mkdtemp(folder) != NULL);
    RUN(test_good);
    RUN(test_positions_alone);
    RUN(test_shapes);
    RUN(test_values);
    RUN(test_rows);
    RUN(test_taker_fails);
    if (comm->rank == 0) {
        char path[256];
        snprintf(path, sizeof path, "%s/rows.h5", folder);
        unlink(path);
        rmdir(folder);
    }
    mq_comm_destroy(&comm);
    return harness_finish();
}
