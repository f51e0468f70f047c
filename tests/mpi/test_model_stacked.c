#include "model/stacked.h"
#include "test_model_folder.h"

#include <math.h>

/* Rows of one expert out of a tensor of three, in every order that there is: all of them, few (of a
 * transposed tensor a piece of each column is read then), and as parts of several ranks. */

enum { EXPERTS = 3, ROWS = 80, COLUMNS = 7, EXPERT = 1, N_OUT = ROWS / 2 };

static mq_comm *comm;

/* What is at a place of the stack; BF16 and F16 hold it. */
static float value_at(int64_t expert, int64_t row, int64_t column)
{
    return (float)((expert * 5 + row * 3 + column * 17) % 251) / 8;
}

static mq_linear_source source_of(mq_tensor *t, bool transposed, int64_t first, int64_t step)
{
    t->n_dims = 3;
    t->dim[0] = EXPERTS;
    t->dim[1] = transposed ? COLUMNS : ROWS;
    t->dim[2] = transposed ? ROWS : COLUMNS;
    return (mq_linear_source){
        .weight = t, .n_in = COLUMNS, .stack = {EXPERTS, EXPERT, ROWS, first, step, transposed}};
}

static void fill(file_tensor *t, bool transposed)
{
    float x[EXPERTS * ROWS * COLUMNS];
    for (int64_t e = 0; e < EXPERTS; e++) {
        for (int64_t r = 0; r < ROWS; r++) {
            for (int64_t k = 0; k < COLUMNS; k++) {
                int64_t at = transposed ? k * ROWS + r : r * COLUMNS + k;
                x[e * ROWS * COLUMNS + at] = value_at(e, r, k);
            }
        }
    }
    CHECK(mq_from_f32(x, EXPERTS * ROWS * COLUMNS, t->dtype, t->data) == MQ_OK);
}

static void check_rows(const mq_linear_source *s, int64_t r0, int64_t r1, const float *w)
{
    for (int64_t i = 0; i < (r1 - r0) * COLUMNS; i++) {
        int64_t r = s->stack.first + s->stack.step * (r0 + i / COLUMNS);
        float expected = value_at(EXPERT, r, i % COLUMNS);
        CHECK_MSG(w[i] == expected, "row %d, column %d: %g", (int)(r0 + i / COLUMNS),
                  (int)(i % COLUMNS), (double)w[i]);
    }
}

static void check_source(mq_folder *folder, const mq_linear_source *s)
{
    float w[N_OUT * COLUMNS] = {0};
    uint16_t short_w[N_OUT * COLUMNS];
    CHECK(mq_linear_read_rows(folder, s, 0, N_OUT, MQ_F32, w) == MQ_OK);
    check_rows(s, 0, N_OUT, w);
    CHECK(mq_linear_read_rows(folder, s, 30, 33, MQ_F32, w) == MQ_OK);
    check_rows(s, 30, 33, w);
    CHECK(mq_linear_read_rows(folder, s, 4, 4, MQ_F32, w) == MQ_OK);
    memset(w, 0, sizeof w);
    for (int part = 0; part < 9; part++) {
        CHECK(mq_linear_read_part(folder, s, N_OUT, part, 9, MQ_F32, w) == MQ_OK);
    }
    check_rows(s, 0, N_OUT, w);
    CHECK(mq_linear_read_part(folder, s, N_OUT, 0, 1, MQ_BF16, short_w) == MQ_OK);
    CHECK(mq_to_f32(short_w, MQ_BF16, N_OUT * COLUMNS, w) == MQ_OK);
    check_rows(s, 0, N_OUT, w);
}

static void test_rows(void)
{
    static const mq_dtype dtypes[] = {MQ_F32, MQ_F16, MQ_BF16};
    for (int i = 0; i < 6; i++) {
        bool transposed = i % 2 == 1;
        file_model m = {.n = 0};
        mq_folder *folder = NULL;
        fill(file_add(&m, "stack", dtypes[i / 2], EXPERTS * ROWS, COLUMNS), transposed);
        file_write(&m, "{}");
        if (CHECK_ALL(mq_folder_open(comm, m.path, &folder) == MQ_OK)) {
            mq_tensor t = *mq_folder_find(folder, "stack");
            for (int64_t step = 1; step <= 2; step++) {
                for (int up = 0; up < 2; up++) {
                    int64_t first = step == 2 ? up : up * N_OUT;
                    const mq_linear_source s = source_of(&t, transposed, first, step);
                    check_source(folder, &s);
                }
            }
        }
        mq_folder_close(&folder);
        file_free(&m);
        file_remove(&m);
    }
}

/* NaN in another expert does no harm; in this one it is named. */
static void test_not_finite(void)
{
    file_model m = {.n = 0};
    mq_folder *folder = NULL;
    float w[N_OUT * COLUMNS];
    file_tensor *t = file_add(&m, "stack", MQ_F32, EXPERTS * ROWS, COLUMNS);
    fill(t, true);
    ((float *)t->data)[0] = NAN;
    ((float *)t->data)[(EXPERT * COLUMNS + 2) * ROWS + 31] = NAN;
    file_write(&m, "{}");
    if (CHECK_ALL(mq_folder_open(comm, m.path, &folder) == MQ_OK)) {
        mq_tensor stack = *mq_folder_find(folder, "stack");
        const mq_linear_source s = source_of(&stack, true, 0, 1);
        CHECK(mq_linear_read_rows(folder, &s, 0, 31, MQ_F32, w) == MQ_E_NUMERIC);
        CHECK(mq_linear_read_rows(folder, &s, 27, 31, MQ_F32, w) == MQ_OK);
        CHECK(mq_linear_read_rows(folder, &s, 30, 33, MQ_F32, w) == MQ_E_NUMERIC);
        CHECK_MSG(strstr(mq_message(), "row 9, column 31"), "%s", mq_message());
    }
    mq_folder_close(&folder);
    file_free(&m);
    file_remove(&m);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    if (mq_comm_create(MPI_COMM_WORLD, &comm) != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    RUN(test_rows);
    RUN(test_not_finite);
    mq_comm_destroy(&comm);
    return harness_finish();
}
