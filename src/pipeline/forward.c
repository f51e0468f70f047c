#include "pipeline/forward.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"
#include "pipeline/tied_head.h"

#include <inttypes.h>

mq_status mq_forward_open(const mq_comm *comm, const char *model, mq_forward *out)
{
    *out = (mq_forward){0};
    MQ_TRY(mq_arch_load(comm, model, &out->arch));
    MQ_TRY(mq_folder_open(comm, model, &out->folder));
    MQ_TRY(mq_agree(comm, mq_model_check(out->folder, out->arch)));
    return mq_warn_about_tied_head(comm, out->folder, out->arch);
}

void mq_forward_close(mq_forward *forward)
{
    mq_outer_weights_destroy(&forward->outer);
    mq_activations_free(&forward->x);
    mq_folder_close(&forward->folder);
    mq_arch_destroy(&forward->arch);
}

/* Buffers of one unit: every tap and the workspace. */
typedef struct unit_buffers {
    char *tap[MQ_N_TAPS];
    char *work;
    mq_mixture_room mixture;
    mq_rope_tables rope;
} unit_buffers;

static void buffers_free(unit_buffers *b)
{
    for (int t = 0; t < MQ_N_TAPS; t++) mq_free(&b->tap[t]);
    mq_free(&b->work);
    mq_mixture_room_free(&b->mixture);
    mq_rope_tables_free(&b->rope);
}

static mq_status buffers_create(const mq_arch *arch, const mq_calib *tokens, mq_dtype dtype,
                                unit_buffers *b)
{
    size_t work = 0;
    for (int t = 0; t < MQ_N_TAPS; t++) {
        int64_t widest = 0, count = 0;
        for (int64_t block = 0; block < arch->n_blocks; block++) {
            widest = mq_max_i64(widest, mq_arch_tap_width(arch, block, (mq_tap_id)t));
        }
        MQ_TRY(mq_mul_i64(tokens->max_unit_tokens, widest, &count));
        MQ_TRY(mq_alloc(count, mq_dtype_size(dtype), "tap of a unit", &b->tap[t]));
    }
    MQ_TRY(mq_block_work_bytes(arch, dtype, tokens->max_unit_tokens, &work));
    MQ_TRY(mq_alloc((int64_t)work, 1, "workspace of a unit", &b->work));
    MQ_TRY(mq_mixture_room_create(arch, dtype, tokens->max_unit_tokens, &b->mixture));
    return mq_rope_tables_create(arch, tokens->n_positions, &b->rope);
}

static mq_status unit_block(const mq_block_weights *w, unit_buffers *b, const mq_unit *unit,
                            void *x)
{
    mq_tap_id taps[MQ_N_TAPS];
    int n = mq_arch_taps(w->arch, w->block, taps);
    const void *from[MQ_N_TAPS];
    for (int t = 0; t < MQ_N_TAPS; t++) from[t] = b->tap[t];
    for (int t = 0; t < n; t++) {
        MQ_TRY(mq_block_produce(w, &b->rope, taps[t], unit, x, from, b->work, b->tap[taps[t]]));
        if (taps[t] == MQ_TAP_MLP_IN && w->arch->block[w->block].routed) {
            MQ_TRY(mq_mixture(w, unit, b->tap[MQ_TAP_MLP_IN], &b->mixture, x));
        }
    }
    return mq_block_finish(w, unit, x, b->tap[MQ_TAP_MLP_MID], b->work);
}

static mq_status all_units(const mq_block_weights *w, unit_buffers *b, const mq_calib *tokens,
                           const mq_activations *x)
{
    for (int64_t u = 0; u < tokens->n_local_units; u++) {
        MQ_TRY(unit_block(w, b, &tokens->unit[u], mq_activations_unit(x, tokens, u)));
    }
    return MQ_OK;
}

/* An mq_take_rows. */
static mq_status take_rows(void *context, int64_t token, int64_t n, void *rows)
{
    const mq_forward *f = context;
    char *to = f->x.rows + (size_t)(token * f->x.width) * mq_dtype_size(f->x.dtype);
    return mq_block_rows(f->arch, f->x.dtype, n, rows, to);
}

/* Another, which adds them. */
static mq_status add_rows(void *context, int64_t token, int64_t n, void *rows)
{
    const mq_forward *f = context;
    char *to = f->x.rows + (size_t)(token * f->x.width) * mq_dtype_size(f->x.dtype);
    return mq_block_add_rows(f->arch, f->x.dtype, n, rows, to);
}

static mq_status embed(const mq_comm *comm, const mq_calib *tokens, mq_dtype dtype, mq_forward *f)
{
    mq_outer_weights *outer = NULL;
    mq_status local = MQ_OK;
    if (tokens->hidden > 0)
        return mq_calib_spread_rows(comm, tokens, MQ_ROWS_EMBEDDED, take_rows, f);
    MQ_TRY(mq_outer_weights_read(comm, f->folder, f->arch, dtype, MQ_OUTER_EMBED, &outer));
    for (int64_t u = 0; u < tokens->n_local_units && local == MQ_OK; u++) {
        const mq_unit *unit = &tokens->unit[u];
        local = mq_block_embed(outer, f->arch, unit, tokens->token + unit->token_begin,
                               mq_activations_unit(&f->x, tokens, u));
    }
    mq_status status = mq_agree(comm, local);
    mq_outer_weights_destroy(&outer);
    return status;
}

static mq_status run_blocks(const mq_comm *comm, const mq_calib *tokens, mq_block_weights *weights,
                            unit_buffers *buffers, mq_forward *f)
{
    for (int64_t b = 0; b < f->arch->n_blocks; b++) {
        MQ_TRY(mq_block_weights_read(comm, f->folder, b, weights));
        mq_status status = mq_agree(comm, all_units(weights, buffers, tokens, &f->x));
        if (status != MQ_OK) return mq_fail_in(status, "%s, block %" PRId64, f->folder->path, b);
        if (b < tokens->n_deep) {
            MQ_TRY(mq_calib_spread_rows(comm, tokens, (int)b, add_rows, f));
        }
    }
    return MQ_OK;
}

mq_status mq_forward_run(const mq_comm *comm, const mq_calib *tokens, mq_dtype dtype, mq_forward *f)
{
    unit_buffers buffers = {0};
    mq_block_weights *weights = NULL;
    mq_status local = buffers_create(f->arch, tokens, dtype, &buffers);
    if (local == MQ_OK) {
        local = mq_activations_create(tokens, f->arch->hidden, dtype, "residual stream", &f->x);
    }
    mq_status status = mq_agree(comm, local);
    if (status == MQ_OK) status = embed(comm, tokens, dtype, f);
    if (status == MQ_OK) status = mq_block_weights_create(comm, f->arch, dtype, &weights);
    if (status == MQ_OK) status = run_blocks(comm, tokens, weights, &buffers, f);
    mq_block_weights_destroy(&weights);
    buffers_free(&buffers);
    if (status != MQ_OK) return status;
    return mq_outer_weights_read(comm, f->folder, f->arch, dtype, MQ_OUTER_HEAD | MQ_OUTER_NORM,
                                 &f->outer);
}
