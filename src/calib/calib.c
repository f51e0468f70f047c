#include "calib/calib.h"

#include "base/checked.h"
#include "base/memory.h"
#include "calib/shares.h"
#include "calib/spread.h"
#include "par/collectives.h"

#include <string.h>

void mq_calib_destroy(mq_calib **calib)
{
    if (!*calib) return;
    mq_free(&(*calib)->source);
    mq_free(&(*calib)->path);
    mq_free(&(*calib)->rope_positions);
    mq_free(&(*calib)->positions);
    mq_free(&(*calib)->offsets);
    mq_free(&(*calib)->token);
    mq_free(&(*calib)->unit);
    mq_free(calib);
}

/* ---- totals and sizes ----------------------------------------------------------------------- */

static mq_status share_totals(const mq_comm *comm, mq_calib_shares *shares, mq_calib *calib)
{
    mq_calib_totals *t = &shares->totals;
    MQ_TRY(mq_bcast(comm, t, sizeof *t, 0));
    MQ_TRY(mq_bcast_text(comm, &shares->source, 0));
    calib->n_samples = t->n_samples;
    calib->n_tokens = t->n_tokens;
    calib->n_units = t->n_units;
    calib->longest = t->longest;
    calib->shortest = t->shortest;
    calib->max_unit_tokens = t->max_unit_tokens;
    calib->has_tokens = t->has_tokens != 0;
    calib->hidden = t->hidden;
    calib->n_axes = (int)t->n_axes;
    calib->n_deep = (int)t->n_deep;
    calib->source = shares->source;
    shares->source = NULL;
    return MQ_OK;
}

/* What the three counts of a share count. */
enum { UNITS, OFFSETS, TOKENS };

/* Sends every rank its elements of `bytes` each, as many as its count of that kind says. */
static mq_status scatter_counted(const mq_comm *comm, const mq_calib_shares *shares, int kind,
                                 size_t bytes, const void *send, void *recv, int64_t n_recv)
{
    size_t *offset = NULL;
    MQ_TRY(mq_agree(comm, mq_alloc(comm->size + 1, sizeof *offset, "sizes of shares", &offset)));
    for (int r = 0; r < comm->size && comm->rank == 0; r++) {
        const mq_share_counts *c = &shares->counts[r];
        const int64_t counts[] = {
            [UNITS] = c->n_units, [OFFSETS] = c->n_offsets, [TOKENS] = c->n_tokens};
        offset[r + 1] = offset[r] + (size_t)counts[kind] * bytes;
    }
    mq_status status = mq_scatter(comm, send, offset, recv, (size_t)n_recv * bytes, 0);
    mq_free(&offset);
    return status;
}

/* This rank's counts. */
static mq_status receive_counts(const mq_comm *comm, const mq_calib_shares *shares,
                                mq_share_counts *mine)
{
    size_t *offset = NULL;
    MQ_TRY(mq_agree(comm, mq_alloc(comm->size + 1, sizeof *offset, "sizes of shares", &offset)));
    for (int r = 0; r <= comm->size; r++) offset[r] = (size_t)r * sizeof *mine;
    mq_status status = mq_scatter(comm, shares->counts, offset, mine, sizeof *mine, 0);
    mq_free(&offset);
    return status;
}

static mq_status allocate(const mq_share_counts *mine, mq_unit_record **records, mq_calib *calib)
{
    MQ_TRY(mq_alloc(mine->n_units, sizeof **records, "units", records));
    MQ_TRY(mq_alloc(mine->n_units, sizeof *calib->unit, "units", &calib->unit));
    MQ_TRY(mq_alloc(mine->n_offsets, sizeof *calib->offsets, "offsets of units", &calib->offsets));
    MQ_TRY(mq_alloc(mine->n_tokens, sizeof *calib->token, "tokens", &calib->token));
    return mq_alloc(mine->n_tokens, sizeof *calib->positions, "positions", &calib->positions);
}

/* ---- this rank's units ---------------------------------------------------------------------- */

static void fill_positions(const mq_unit *unit, int32_t *position)
{
    for (int64_t s = 0; s < unit->n_samples; s++) {
        for (int64_t t = unit->offset[s]; t < unit->offset[s + 1]; t++) {
            position[t] = (int32_t)(t - unit->offset[s]);
        }
    }
}

static void build_units(const mq_unit_record *records, const mq_share_counts *mine, mq_calib *calib)
{
    int64_t token = 0, offset = 0;
    calib->n_local_units = mine->n_units;
    calib->n_local_tokens = mine->n_tokens;
    for (int64_t u = 0; u < mine->n_units; u++) {
        const mq_unit_record *r = &records[u];
        calib->unit[u] = (mq_unit){.id = r->id,
                                   .n_tokens = r->n_tokens,
                                   .n_samples = r->n_samples,
                                   .first_sample = r->first_sample,
                                   .token_begin = token,
                                   .offset = calib->offsets + offset,
                                   .position = calib->positions + token};
        fill_positions(&calib->unit[u], calib->positions + token);
        token += r->n_tokens;
        offset += r->n_samples + 1;
    }
}

static mq_status receive(const mq_comm *comm, const mq_calib_shares *shares, mq_calib *calib)
{
    mq_share_counts mine = {0, 0, 0};
    mq_unit_record *records = NULL;
    MQ_TRY(receive_counts(comm, shares, &mine));
    mq_status status = mq_agree(comm, allocate(&mine, &records, calib));
    if (status == MQ_OK) {
        status = scatter_counted(comm, shares, UNITS, sizeof *records, shares->records, records,
                                 mine.n_units);
    }
    if (status == MQ_OK) {
        status = scatter_counted(comm, shares, OFFSETS, sizeof *calib->offsets, shares->offsets,
                                 calib->offsets, mine.n_offsets);
    }
    if (status == MQ_OK) {
        status = scatter_counted(comm, shares, TOKENS, sizeof *calib->token, shares->tokens,
                                 calib->token, mine.n_tokens);
    }
    if (status == MQ_OK) build_units(records, &mine, calib);
    mq_free(&records);
    return status;
}

/* ---- positions of the file ------------------------------------------------------------------ */

static mq_status take_positions(void *context, int64_t token, int64_t n, void *rows)
{
    mq_calib *calib = context;
    const int32_t *position = rows;
    int32_t *to = calib->rope_positions + token * calib->n_axes;
    for (int64_t i = 0; i < n * calib->n_axes; i++) {
        to[i] = position[i];
        calib->n_positions = mq_max_i64(calib->n_positions, (int64_t)position[i] + 1);
    }
    return MQ_OK;
}

static mq_status load_positions(const mq_comm *comm, mq_calib *calib)
{
    size_t bytes = (size_t)calib->n_axes * sizeof *calib->rope_positions;
    const mq_spread_kind kind = {
        .bytes = bytes, .read = mq_token_file_positions, .take = take_positions, .context = calib};
    calib->n_positions = calib->longest;
    if (calib->n_axes == 0) return MQ_OK;
    mq_status status = mq_alloc(calib->n_local_tokens, bytes, "positions", &calib->rope_positions);
    status = mq_agree(comm, status);
    if (status == MQ_OK) status = mq_spread(comm, calib, &kind);
    if (status == MQ_OK) status = mq_highest_i64(comm, &calib->n_positions, 1);
    for (int64_t u = 0; u < calib->n_local_units && status == MQ_OK; u++) {
        mq_unit *unit = &calib->unit[u];
        unit->n_axes = calib->n_axes;
        unit->rope_position = calib->rope_positions + unit->token_begin * calib->n_axes;
    }
    return status;
}

static mq_status create(const char *path, mq_calib **out)
{
    size_t bytes = strlen(path) + 1;
    MQ_TRY(mq_alloc(1, sizeof **out, "calibration data", out));
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "path", &(*out)->path));
    memcpy((*out)->path, path, bytes);
    return MQ_OK;
}

mq_status mq_calib_load(const mq_comm *comm, const char *path, const mq_calib_options *options,
                        mq_calib **out)
{
    mq_calib_shares shares = {.source = NULL};
    mq_calib *calib = NULL;
    *out = NULL;
    mq_status status = create(path, &calib);
    if (status == MQ_OK && comm->rank == 0) {
        status = mq_calib_shares_read(path, options, comm->size, &shares);
    }
    status = mq_agree(comm, status);
    if (status == MQ_OK) status = share_totals(comm, &shares, calib);
    if (status == MQ_OK) status = receive(comm, &shares, calib);
    mq_calib_shares_clear(&shares);
    if (status == MQ_OK) status = load_positions(comm, calib);
    if (status != MQ_OK) mq_calib_destroy(&calib);
    *out = calib;
    return status;
}
