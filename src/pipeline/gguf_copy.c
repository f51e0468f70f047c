#include "pipeline/gguf_copy.h"

#include "base/checked.h"
#include "base/memory.h"
#include "format/gguf.h"

static const size_t piece_bytes = (size_t)64 << 20;

const char mq_gguf_rope_factors[] = "rope_freqs.weight";

mq_dtype mq_gguf_copied_type(const mq_gguf_place *place, const mq_tensor *tensor)
{
    return place->vector || tensor->dtype == MQ_F64 ? MQ_F32 : tensor->dtype;
}

/* A tensor on its way: rows of n_columns, those of a 1-d one are its elements. */
typedef struct copying {
    mq_folder *source;
    const mq_tensor *tensor;
    mq_gguf_place place;
    mq_dtype dtype;
    int64_t n_rows, n_columns, rows_at_once;
    size_t row_bytes;
    char *read, *turned; /* rows_at_once; turned NULL where rows stay in order */
} copying;

static mq_status start(copying *c)
{
    const mq_tensor *t = c->tensor;
    int64_t unit = c->place.head_rows ? c->place.head_rows : 1, row = 0;
    c->dtype = mq_gguf_copied_type(&c->place, t);
    c->n_rows = t->dim[0];
    c->n_columns = t->n_dims > 1 ? t->dim[1] : 1;
    MQ_TRY(mq_mul_i64(c->n_columns, (int64_t)mq_dtype_size(c->dtype), &row));
    c->row_bytes = (size_t)row;
    int64_t units = mq_max_i64((int64_t)piece_bytes / row / unit, 1);
    c->rows_at_once = mq_min_i64(units * unit, c->n_rows);
    MQ_TRY(mq_alloc(c->rows_at_once, c->row_bytes, "copy buffer", &c->read));
    if (!c->place.head_rows) return MQ_OK;
    return mq_alloc(c->rows_at_once, c->row_bytes, "copy buffer", &c->turned);
}

static mq_status read_rows(const copying *c, int64_t r0, int64_t n)
{
    if (c->dtype != c->tensor->dtype) {
        return mq_folder_read_rows(c->source, c->tensor, r0, r0 + n, c->dtype, c->read);
    }
    MQ_TRY(mq_folder_read(c->source, c->tensor, (uint64_t)r0 * c->row_bytes,
                          (size_t)n * c->row_bytes, c->read));
    return mq_folder_check_finite(c->source, c->tensor, c->dtype, r0 * c->n_columns, c->read,
                                  n * c->n_columns);
}

static mq_status copy_rows(const copying *c, mq_writer *writer, int64_t r0, int64_t n)
{
    MQ_TRY(read_rows(c, r0, n));
    if (c->turned) mq_gguf_turn_rows(c->read, n, c->row_bytes, c->place.head_rows, c->turned);
    return mq_writer_put(writer, c->tensor->name, (uint64_t)r0 * c->row_bytes,
                         c->turned ? c->turned : c->read, (size_t)n * c->row_bytes);
}

mq_status mq_gguf_copy_tensor(const mq_comm *comm, mq_folder *source, const mq_arch *arch,
                              const mq_tensor *tensor, mq_writer *writer, int64_t *piece)
{
    copying c = {.source = source, .tensor = tensor};
    if (!mq_gguf_find_place(arch, tensor->name, &c.place)) return MQ_OK;
    mq_status status = start(&c);
    for (int64_t r = 0; r < c.n_rows && status == MQ_OK; r += c.rows_at_once, (*piece)++) {
        if (*piece % comm->size != comm->rank) continue;
        status = copy_rows(&c, writer, r, mq_min_i64(c.rows_at_once, c.n_rows - r));
    }
    mq_free(&c.read);
    mq_free(&c.turned);
    return status;
}

bool mq_gguf_has_rope_factors(const mq_arch *arch)
{
    return arch->rope.scaling == MQ_ROPE_LLAMA3;
}

mq_status mq_gguf_write_rope_factors(const mq_arch *arch, mq_writer *writer)
{
    float *factor = NULL;
    int64_t n = arch->head_dim / 2;
    MQ_TRY(mq_alloc(n, sizeof *factor, "factors of rope", &factor));
    for (int64_t i = 0; i < n; i++) factor[i] = mq_gguf_rope_factor(arch, i);
    mq_status status =
        mq_writer_put(writer, mq_gguf_rope_factors, 0, factor, (size_t)n * sizeof *factor);
    mq_free(&factor);
    return status;
}
