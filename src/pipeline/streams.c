/* The forward of the staged run: every rank takes its own units through the blocks, in one stream
 * or two. */
#include "pipeline/experts.h"

static mq_status produce_units(mq_run *run, mq_stream *stream, mq_tap_id tap)
{
    mq_activations *out = &stream->tap[mq_tap_kind(tap)];
    if (tap >= MQ_TAP_EXPERTS) return mq_experts_produce(run, stream, tap);
    MQ_TRY(mq_activations_create(run->calib,
                                 mq_arch_tap_width(run->arch, stream->weights->block, tap),
                                 stream->x.dtype, mq_tap_name(tap), out));
    for (int64_t u = 0; u < run->calib->n_local_units; u++) {
        const void *from[MQ_N_TAPS];
        for (int t = 0; t < MQ_N_TAPS; t++) {
            from[t] = mq_activations_unit(&stream->tap[t], run->calib, u);
        }
        MQ_TRY(mq_block_produce(stream->weights, &run->rope, tap, &run->calib->unit[u],
                                mq_activations_unit(&stream->x, run->calib, u), from, run->work,
                                mq_activations_unit(out, run->calib, u)));
    }
    return MQ_OK;
}

/* A tap is freed as soon as nothing later in the block reads it. */
static void free_read_taps(const mq_run *run, mq_stream *stream, mq_tap_id produced)
{
    mq_activations *tap = stream->tap;
    bool parallel = run->arch->parallel_block;
    if (produced == MQ_TAP_ATTN_OUT && !parallel) mq_activations_free(&tap[MQ_TAP_ATTN_IN]);
    if (produced == MQ_TAP_ATTN_OUT) {
        mq_activations_free(&tap[MQ_TAP_Q_LORA]);
        mq_activations_free(&tap[MQ_TAP_KV_LORA]);
    }
    if (produced == MQ_TAP_MLP_IN) mq_activations_free(&tap[MQ_TAP_ATTN_OUT]);
    if (produced == MQ_TAP_MLP_MID) {
        for (int t = 0; t < MQ_TAP_MLP_MID; t++) mq_activations_free(&tap[t]);
    }
}

mq_status mq_run_produce(mq_run *run, mq_tap_id tap)
{
    mq_status status = MQ_OK;
    for (int s = 0; s < run->n_streams && status == MQ_OK; s++) {
        status = produce_units(run, &run->stream[s], tap);
        free_read_taps(run, &run->stream[s], tap);
    }
    status = mq_agree(run->comm, status);
    mq_timing_lap(&run->timing, MQ_T_FORWARD);
    return status;
}

static mq_status norm_units(const mq_run *run, const mq_outer_weights *outer, mq_stream *stream)
{
    mq_activations *out = &stream->tap[MQ_TAP_HEAD_IN];
    int64_t hidden = run->arch->hidden;
    MQ_TRY(mq_activations_create(run->calib, hidden, stream->x.dtype, mq_tap_name(MQ_TAP_HEAD_IN),
                                 out));
    for (int64_t u = 0; u < run->calib->n_local_units; u++) {
        MQ_TRY(mq_norm(run->arch->norm, mq_activations_unit(&stream->x, run->calib, u),
                       run->calib->unit[u].n_tokens, hidden, outer->final_norm,
                       outer->final_norm_bias, run->arch->norm_eps,
                       mq_activations_unit(out, run->calib, u), stream->x.dtype));
    }
    return MQ_OK;
}

mq_status mq_run_produce_head(mq_run *run)
{
    mq_outer_weights *outer = NULL;
    mq_status status =
        mq_outer_weights_read(run->comm, run->source, run->arch, MQ_BF16, MQ_OUTER_NORM, &outer);
    mq_timing_lap(&run->timing, MQ_T_READ);
    for (int s = 0; s < run->n_streams && status == MQ_OK; s++) {
        status = mq_agree(run->comm, norm_units(run, outer, &run->stream[s]));
    }
    mq_outer_weights_destroy(&outer);
    mq_timing_lap(&run->timing, MQ_T_FORWARD);
    return status;
}

/* An mq_take_rows, into all streams. */
static mq_status take_rows(void *context, int64_t token, int64_t n, void *rows)
{
    const mq_run *run = context;
    for (int s = 0; s < run->n_streams; s++) {
        const mq_activations *x = &run->stream[s].x;
        char *to = x->rows + (size_t)(token * x->width) * mq_dtype_size(x->dtype);
        MQ_TRY(mq_block_rows(run->arch, x->dtype, n, rows, to));
    }
    return MQ_OK;
}

/* Another, which adds them. */
static mq_status add_rows(void *context, int64_t token, int64_t n, void *rows)
{
    const mq_run *run = context;
    for (int s = 0; s < run->n_streams; s++) {
        const mq_activations *x = &run->stream[s].x;
        char *to = x->rows + (size_t)(token * x->width) * mq_dtype_size(x->dtype);
        MQ_TRY(mq_block_add_rows(run->arch, x->dtype, n, rows, to));
    }
    return MQ_OK;
}

static mq_status embed_units(mq_run *run, const mq_outer_weights *outer, mq_stream *stream)
{
    for (int64_t u = 0; u < run->calib->n_local_units; u++) {
        const mq_unit *unit = &run->calib->unit[u];
        MQ_TRY(mq_block_embed(outer, run->arch, unit, run->calib->token + unit->token_begin,
                              mq_activations_unit(&stream->x, run->calib, u)));
    }
    return MQ_OK;
}

mq_status mq_run_embed(mq_run *run)
{
    mq_outer_weights *outer = NULL;
    if (run->calib->hidden > 0) {
        mq_status rows =
            mq_calib_spread_rows(run->comm, run->calib, MQ_ROWS_EMBEDDED, take_rows, run);
        mq_timing_lap(&run->timing, MQ_T_READ);
        return rows;
    }
    mq_status status =
        mq_outer_weights_read(run->comm, run->source, run->arch, MQ_BF16, MQ_OUTER_EMBED, &outer);
    mq_timing_lap(&run->timing, MQ_T_READ);
    for (int s = 0; s < run->n_streams && status == MQ_OK; s++) {
        status = mq_agree(run->comm, embed_units(run, outer, &run->stream[s]));
    }
    mq_outer_weights_destroy(&outer);
    mq_timing_lap(&run->timing, MQ_T_FORWARD);
    return status;
}

mq_status mq_run_read_block(mq_run *run, int64_t block)
{
    mq_status status = MQ_OK;
    for (int s = 0; s < run->n_streams && status == MQ_OK; s++) {
        status = mq_block_weights_read(run->comm, run->source, block, run->stream[s].weights);
    }
    mq_timing_lap(&run->timing, MQ_T_READ);
    return status;
}

static mq_status finish_units(mq_run *run, mq_stream *stream)
{
    const mq_activations *mid = &stream->tap[MQ_TAP_MLP_MID];
    for (int64_t u = 0; u < run->calib->n_local_units; u++) {
        MQ_TRY(mq_block_finish(stream->weights, &run->calib->unit[u],
                               mq_activations_unit(&stream->x, run->calib, u),
                               mq_activations_unit(mid, run->calib, u), run->work));
    }
    return MQ_OK;
}

mq_status mq_run_finish_block(mq_run *run)
{
    mq_status status = MQ_OK;
    for (int s = 0; s < run->n_streams && status == MQ_OK; s++) {
        status = finish_units(run, &run->stream[s]);
    }
    for (int s = 0; s < run->n_streams; s++) {
        for (int t = 0; t < MQ_N_TAP_KINDS; t++) mq_activations_free(&run->stream[s].tap[t]);
    }
    status = mq_agree(run->comm, status);
    int64_t block = run->stream[0].weights->block;
    if (status == MQ_OK && block < run->calib->n_deep) {
        status = mq_calib_spread_rows(run->comm, run->calib, (int)block, add_rows, run);
    }
    mq_timing_lap(&run->timing, MQ_T_FORWARD);
    return status;
}
