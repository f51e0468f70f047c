#include "pipeline/tied_head.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"

#include <string.h>

static const int64_t piece_bytes = (int64_t)4 << 20;

/* Compares two (rows, columns) tables as numbers, whatever types they are stored in. */
static mq_status compare(mq_folder *folder, const mq_tensor *a, const mq_tensor *b, bool *same)
{
    int64_t rows = a->dim[0], columns = a->dim[1];
    int64_t at_once = mq_max_i64(1, piece_bytes / (columns * (int64_t)sizeof(float)));
    float *x = NULL, *y = NULL;
    int64_t count = 0;
    *same = true;
    MQ_TRY(mq_mul_i64(at_once, columns, &count));
    mq_status status = mq_alloc(count, sizeof *x, "rows of the embedding", &x);
    if (status == MQ_OK) status = mq_alloc(count, sizeof *y, "rows of the head", &y);
    for (int64_t r = 0; r < rows && *same && status == MQ_OK; r += at_once) {
        int64_t end = mq_min_i64(r + at_once, rows);
        status = mq_folder_read_rows(folder, a, r, end, MQ_F32, x);
        if (status == MQ_OK) status = mq_folder_read_rows(folder, b, r, end, MQ_F32, y);
        if (status != MQ_OK) break;
        *same = memcmp(x, y, (size_t)((end - r) * columns) * sizeof *x) == 0;
    }
    mq_free(&x);
    mq_free(&y);
    return status;
}

mq_status mq_warn_about_tied_head(const mq_comm *comm, mq_folder *folder, const mq_arch *arch)
{
    const mq_tensor *head = mq_folder_find(folder, arch->head);
    const mq_tensor *embed = mq_folder_find(folder, arch->embed);
    mq_status status = MQ_OK;
    bool same = true;
    if (!arch->tied || !head || !embed) return MQ_OK;
    if (comm->rank == 0) status = compare(folder, embed, head, &same);
    MQ_TRY(mq_agree(comm, status));
    if (!same) {
        mq_warn("%s: tie_word_embeddings says that the head is %s, yet there is %s with other "
                "values: it is taken, as transformers 5 does; other programs may take the "
                "embedding. Set tie_word_embeddings to false if this head is right, or remove it",
                folder->path, arch->embed, arch->head);
    }
    return MQ_OK;
}
