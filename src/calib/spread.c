#include "calib/spread.h"

#include "base/checked.h"
#include "base/memory.h"
#include "calib/token_file.h"
#include "par/collectives.h"

/* Rank 0 reads a file's units one after the other, piece by piece, and hands every piece to the
 * rank that has the unit: no rank ever holds more than a piece beside what it keeps. */

enum { PIECE_BYTES = 16 << 20 };

typedef struct spread {
    const mq_comm *comm;
    const mq_calib *calib;
    const mq_spread_kind *kind;
    mq_token_file file; /* rank 0 */
    int64_t *owner;     /* (n_units) the rank that has it */
    int64_t *tokens;    /* (n_units) */
    size_t *offset;     /* (size + 1) of a piece, for the scatter */
    char *piece;
    int64_t piece_tokens;
} spread;

static void clear(spread *s)
{
    mq_token_file_close(&s->file);
    mq_free(&s->owner);
    mq_free(&s->tokens);
    mq_free(&s->offset);
    mq_free(&s->piece);
}

/* The buffers are for what the file had when it was loaded. */
static mq_status open_again(spread *s)
{
    const mq_calib *c = s->calib;
    MQ_TRY(mq_token_file_open(c->path, &s->file));
    const mq_token_file *f = &s->file;
    if (f->n_tokens >= c->n_tokens && f->hidden == c->hidden && f->n_axes == c->n_axes &&
        f->n_deep == c->n_deep) {
        return MQ_OK;
    }
    return mq_fail(MQ_E_INPUT, "%s: is not the file any more that was read at the start", c->path);
}

static mq_status allocate(spread *s)
{
    int64_t n = s->calib->n_units, fits = PIECE_BYTES / (int64_t)s->kind->bytes;
    s->piece_tokens = mq_min_i64(mq_max_i64(fits, 1), s->calib->max_unit_tokens);
    MQ_TRY(mq_alloc(n, sizeof *s->owner, "owners of units", &s->owner));
    MQ_TRY(mq_alloc(n, sizeof *s->tokens, "sizes of units", &s->tokens));
    MQ_TRY(mq_alloc(s->comm->size + 1, sizeof *s->offset, "sizes of shares", &s->offset));
    MQ_TRY(mq_alloc(s->piece_tokens, s->kind->bytes, "piece of a token file", &s->piece));
    for (int64_t u = 0; u < s->calib->n_local_units; u++) {
        const mq_unit *unit = &s->calib->unit[u];
        s->owner[unit->id] = s->comm->rank;
        s->tokens[unit->id] = unit->n_tokens;
    }
    return s->comm->rank == 0 ? open_again(s) : MQ_OK;
}

/* A piece from rank 0 to its owner. */
static mq_status send(const spread *s, int64_t owner, int64_t n)
{
    size_t bytes = (size_t)n * s->kind->bytes;
    bool mine = owner == s->comm->rank;
    if (owner == 0) return MQ_OK; /* it is there */
    for (int r = 0; r <= s->comm->size; r++) s->offset[r] = r > owner ? bytes : 0;
    return mq_scatter(s->comm, s->piece, s->offset, s->piece, mine ? bytes : 0, 0);
}

/* begin: of the unit in the file; *local: failures of this rank, which the next agreement tells. */
static mq_status spread_unit(const spread *s, int64_t unit, int64_t begin, int64_t to,
                             mq_status *local)
{
    int64_t owner = s->owner[unit];
    for (int64_t done = 0; done < s->tokens[unit]; done += s->piece_tokens) {
        int64_t n = mq_min_i64(s->piece_tokens, s->tokens[unit] - done);
        if (*local == MQ_OK && s->comm->rank == 0) {
            *local = s->kind->read(&s->file, s->kind->layer, begin + done, n, s->piece);
        }
        *local = mq_agree(s->comm, *local);
        if (*local != MQ_OK) return *local;
        MQ_TRY(send(s, owner, n));
        if (owner == s->comm->rank) {
            *local = s->kind->take(s->kind->context, to + done, n, s->piece);
        }
    }
    return MQ_OK;
}

static mq_status spread_units(const spread *s)
{
    int64_t begin = 0, to = 0;
    mq_status local = MQ_OK;
    MQ_TRY(mq_sum_i64(s->comm, s->owner, s->calib->n_units));
    MQ_TRY(mq_sum_i64(s->comm, s->tokens, s->calib->n_units));
    for (int64_t u = 0; u < s->calib->n_units; u++) {
        MQ_TRY(spread_unit(s, u, begin, to, &local));
        begin += s->tokens[u];
        if (s->owner[u] == s->comm->rank) to += s->tokens[u];
    }
    return mq_agree(s->comm, local);
}

mq_status mq_spread(const mq_comm *comm, const mq_calib *calib, const mq_spread_kind *kind)
{
    spread s = {.comm = comm, .calib = calib, .kind = kind};
    mq_status status = mq_agree(comm, allocate(&s));
    if (status == MQ_OK) status = spread_units(&s);
    clear(&s);
    return status;
}

mq_status mq_calib_spread_rows(const mq_comm *comm, const mq_calib *calib, int layer,
                               mq_take_rows *take, void *context)
{
    const mq_spread_kind kind = {
        .layer = layer,
        .bytes = (size_t)calib->hidden * sizeof(uint16_t),
        .read = mq_token_file_rows,
        .take = take,
        .context = context,
    };
    return mq_spread(comm, calib, &kind);
}
