#include "base/memory.h"
#include "calib/calib.h"
#include "calib/token_file.h"

#include <inttypes.h>
#include <stdio.h>

/* What a token file may hold of samples beside tokens or in their place: what the language model of
 * a model with towers gets. */

/* No model is as wide, or has as many blocks behind which rows are added. */
enum { MOST_DEEP = 64, MOST_HIDDEN = 1 << 20 };

static const char rows_name[] = "inputs_embeds", positions_name[] = "position_ids";

typedef struct rows_dataset {
    char text[32];
} rows_dataset;

/* Of the dataset with rows for a layer: what the first block gets, or what is added behind one. */
static rows_dataset dataset_of(int layer)
{
    rows_dataset n;
    if (layer == MQ_ROWS_EMBEDDED) {
        snprintf(n.text, sizeof n.text, "%s", rows_name);
    } else {
        snprintf(n.text, sizeof n.text, "deepstack_embeds_%d", layer);
    }
    return n;
}

static mq_status wrong_shape(const mq_token_file *f, const char *name, const char *expected)
{
    return mq_fail(MQ_E_INPUT, "%s: \"%s\" must be %s for %" PRId64 " tokens", f->path, name,
                   expected, f->n_tokens);
}

static mq_status find_positions(mq_token_file *f)
{
    int n_dims = 0;
    int64_t dim[2] = {0, 0};
    if (!mq_h5_has_member(f->h5, positions_name)) return MQ_OK;
    MQ_TRY(mq_h5_shape(f->h5, positions_name, &n_dims, dim));
    bool single = n_dims == 1 && dim[0] == f->n_tokens;
    bool several = n_dims == 2 && (dim[0] == 1 || dim[0] == 3) && dim[1] == f->n_tokens;
    if (!single && !several) return wrong_shape(f, positions_name, "(3, tokens) or (tokens)");
    f->n_axes = single ? 1 : (int)dim[0];
    return MQ_OK;
}

/* What is added behind the first blocks has the shape of what the first one gets. */
static mq_status find_deep(mq_token_file *f)
{
    for (f->n_deep = 0; f->n_deep < MOST_DEEP; f->n_deep++) {
        int n_dims = 0;
        int64_t dim[2] = {0, 0};
        const rows_dataset n = dataset_of(f->n_deep);
        if (!mq_h5_has_member(f->h5, n.text)) return MQ_OK;
        MQ_TRY(mq_h5_shape(f->h5, n.text, &n_dims, dim));
        if (n_dims == 2 && dim[0] == f->n_tokens && dim[1] == f->hidden) continue;
        return wrong_shape(f, n.text, "of the shape of \"inputs_embeds\"");
    }
    return MQ_OK;
}

mq_status mq_token_file_count(mq_token_file *f)
{
    int n_dims = 0;
    int64_t dim[2] = {0, 0};
    bool rows = mq_h5_has_member(f->h5, rows_name);
    f->has_tokens = !rows || mq_h5_has_member(f->h5, "tokens");
    if (rows) MQ_TRY(mq_h5_shape(f->h5, rows_name, &n_dims, dim));
    f->n_tokens = dim[0];
    if (f->has_tokens) MQ_TRY(mq_h5_length(f->h5, "tokens", &f->n_tokens));
    if (rows && (n_dims != 2 || dim[0] != f->n_tokens || dim[1] < 1 || dim[1] > MOST_HIDDEN)) {
        return wrong_shape(f, rows_name, "(tokens, hidden size)");
    }
    f->hidden = rows ? dim[1] : 0;
    MQ_TRY(find_positions(f));
    return find_deep(f);
}

/* Sample and position of a token, for messages. */
static int64_t sample_of(const mq_token_file *f, int64_t token, int64_t *position)
{
    int64_t sample = 0;
    while (f->offsets[sample + 1] <= token) sample++;
    *position = token - f->offsets[sample];
    return sample;
}

mq_status mq_token_file_rows(const mq_token_file *f, int layer, int64_t begin, int64_t n, void *out)
{
    const rows_dataset dataset = dataset_of(layer);
    const uint16_t *row = out, infinite = 0x7f80;
    MQ_TRY(mq_h5_read_rows_u16(f->h5, dataset.text, begin, n, out));
    for (int64_t i = 0; i < n * f->hidden; i++) {
        int64_t position = 0;
        if ((row[i] & infinite) != infinite) continue;
        int64_t sample = sample_of(f, begin + i / f->hidden, &position);
        return mq_fail(MQ_E_INPUT,
                       "%s: \"%s\", sample %" PRId64 ", position %" PRId64 ", column %" PRId64
                       " is not a finite number (BF16 0x%04x)",
                       f->path, dataset.text, sample, position, i % f->hidden, (unsigned)row[i]);
    }
    return MQ_OK;
}

static mq_status read_axis(const mq_token_file *f, int axis, int64_t begin, int64_t n,
                           int64_t *value, int32_t *out)
{
    MQ_TRY(mq_h5_read_row_i64(f->h5, positions_name, axis, begin, n, value));
    for (int64_t i = 0; i < n; i++) {
        int64_t position = 0;
        out[i * f->n_axes + axis] = (int32_t)value[i];
        if (value[i] >= 0 && value[i] < MQ_MOST_POSITIONS) continue;
        int64_t sample = sample_of(f, begin + i, &position);
        return mq_fail(MQ_E_INPUT,
                       "%s: \"%s\", sample %" PRId64 ", token %" PRId64 ": position %" PRId64
                       " is outside [0, %d)",
                       f->path, positions_name, sample, position, value[i], (int)MQ_MOST_POSITIONS);
    }
    return MQ_OK;
}

mq_status mq_token_file_positions(const mq_token_file *f, int layer, int64_t begin, int64_t n,
                                  void *out)
{
    (void)layer;
    int64_t *value = NULL;
    mq_status status = mq_alloc(n, sizeof *value, "positions", &value);
    for (int a = 0; a < f->n_axes && status == MQ_OK; a++) {
        status = read_axis(f, a, begin, n, value, out);
    }
    mq_free(&value);
    return status;
}
