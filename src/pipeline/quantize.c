/* The run over all blocks: set up, walk, complete the output. */
#include "pipeline/run.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/packed.h"
#include "model/tensors.h"
#include "pipeline/column_scales.h"
#include "pipeline/complete.h"
#include "pipeline/expert_tasks.h"
#include "pipeline/gguf_header.h"
#include "pipeline/kept.h"
#include "pipeline/measure.h"
#include "pipeline/memory_settings.h"
#include "pipeline/output.h"
#include "pipeline/row_work.h"
#include "pipeline/sampled_drift.h"
#include "pipeline/settings.h"
#include "pipeline/startup.h"
#include "pipeline/tied_head.h"
#include "pipeline/tokens.h"
#include "plan/memory.h"
#include "plan/mix.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

static mq_status check_head(const mq_run *run)
{
    mq_linear_source head;
    if (!run->scheme->head.quantise) return MQ_OK;
    MQ_TRY(mq_linear_find(run->source, run->arch, MQ_HEAD, 0, &head));
    if (head.weight) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: its lm_head is packed already, and cannot be packed again: leave out "
                   "--lm-head",
                   run->options->model);
}

/* Everything that can be wrong with the inputs is found here, before any work. */
static mq_status open_inputs(mq_run *run)
{
    const mq_comm *comm = run->comm;
    MQ_TRY(mq_arch_load(comm, run->options->model, &run->arch));
    MQ_TRY(mq_folder_open(comm, run->options->model, &run->source));
    MQ_TRY(mq_agree(comm, run->options->mmap ? mq_folder_map(run->source) : MQ_OK));
    MQ_TRY(mq_agree(comm, mq_model_check(run->source, run->arch)));
    MQ_TRY(mq_warn_about_tied_head(comm, run->source, run->arch));
    MQ_TRY(mq_agree(comm, mq_scheme_create(run->arch, run->options, &run->scheme)));
    run->scheme->scale_columns =
        run->solver.scale_columns && run->scheme->format->columns != MQ_COLUMNS_NEVER;
    MQ_TRY(mq_agree(comm, check_head(run)));
    MQ_TRY(mq_packed_check(comm, run->source, run->arch));
    mq_scheme_take_types(run->scheme, run->source);
    if (run->scheme->format->gguf) {
        MQ_TRY(mq_gguf_header(comm, run->options, run->scheme, &run->gguf));
    }
    return mq_tokens_load(comm, run->options->calib, run->options->model, run->arch,
                          run->options->unit_tokens, run->options->samples, &run->calib);
}

static mq_status open_output(mq_run *run, cJSON **settings, mq_output_state *state,
                             mq_output **output)
{
    mq_status status = MQ_OK;
    if (run->comm->rank == 0)
        status = mq_settings_json(run->options, &run->solver, run->source, settings);
    status = mq_agree(run->comm, status);
    if (status != MQ_OK) return status;
    return mq_output_open(run->comm, run->options->output, *settings, state, output);
}

/* share: of all tokens, that a tap is expected to see. */
static void warn_if_thin(const mq_run *run, int64_t block, mq_tap_id tap, double share)
{
    int64_t width = mq_arch_tap_width(run->arch, block, tap);
    double tokens = (double)run->calib->n_tokens * share, per_column = tokens / (double)width;
    if (per_column >= 10) return;
    mq_warn("%s: %s%.0f tokens for %" PRId64 " columns (%.1f each)%s: 50 to 100 each are "
            "enough, so give about %.0f tokens",
            mq_tap_name(tap), share < 1 ? "an expert gets about " : "", tokens, width, per_column,
            per_column < 1 ? ", the Hessian will be rank-deficient" : "",
            50 * (double)width / share);
}

/* Of the first block, which may be the only dense one, and of the last. */
static void warn_about_calibration(const mq_run *run)
{
    const mq_routing_kind *routing = &run->arch->moe.routing;
    mq_tap_id taps[MQ_N_TAPS];
    int64_t last = run->arch->n_blocks - 1;
    bool routed = run->arch->block[last].routed;
    int n = mq_arch_taps(run->arch, 0, taps);
    for (int t = 0; t < n; t++) warn_if_thin(run, 0, taps[t], 1);
    if (!routed || run->solver.all_experts) return;
    double share = (double)routing->top_k / (double)routing->n_experts;
    warn_if_thin(run, last, mq_expert_tap(0, false), share);
    warn_if_thin(run, last, mq_expert_tap(0, true), share);
}

static void warn_about_damping(const mq_run *run)
{
    if (!run->solver.measure_damping || run->calib->n_samples > 1) return;
    mq_warn("--damp auto holds samples out, and there is one in all: damping %g, alpha %g",
            run->solver.damping.share, run->solver.alpha);
}

static void warn_about_gptq_readers(const mq_run *run)
{
    if (mq_scheme_needs_rules(run->scheme)) {
        mq_warn("blocks differ in which layers are packed, or in bits or group size: GPTQModel and "
                "vLLM read the rules for that (`dynamic`), transformers does not");
    }
    if (run->scheme->head.quantise) {
        mq_warn("lm_head is packed: GPTQModel and vLLM read that, transformers does not, and makes "
                "up a head without an error");
    }
}

static void warn_about_source(const mq_run *run)
{
    if (run->arch->packed == MQ_PACKED_NONE) return;
    mq_warn("%s is quantised already (%s): its weights are dequantised to BF16, and what they lost "
            "stays lost",
            run->options->model, mq_packed_form_name(run->arch->packed));
}

static void warn_about_readers(const mq_run *run)
{
    mq_packed_form form = run->scheme->format->form;
    if (form == MQ_PACKED_GPTQ) warn_about_gptq_readers(run);
    if (form == MQ_PACKED_EXL2 && mq_scheme_packs_in_part(run->scheme)) {
        mq_warn("q, k, v and o of a block, or gate, up and down, are packed in part only: "
                "ExLlamaV2 will refuse the model");
    }
    bool for_vllm = form == MQ_PACKED_GPTQ || form == MQ_PACKED_COMPRESSED;
    if (for_vllm && mq_scheme_splits_fused(run->scheme)) {
        mq_warn("q, k and v, q_a and kv_a, or gate and up, of a block do not all have the same "
                "bits and group size: vLLM fuses them and will refuse the model");
    }
}

static void warn_about_zero_points(const mq_run *run)
{
    if (!run->options->zero_points || run->scheme->format->form != MQ_PACKED_GPTQ) return;
    mq_warn("zero points: the output is GPTQ v2, asymmetric: GPTQModel and transformers read it, "
            "vLLM's fast GPTQ kernels do not, and ExLlamaV2 errs where one is 0");
}

static mq_status allocate_local(mq_run *run)
{
    size_t work = 0;
    const mq_calib *calib = run->calib;
    MQ_TRY(mq_rope_tables_create(run->arch, calib->n_positions, &run->rope));
    MQ_TRY(mq_block_work_bytes(run->arch, MQ_BF16, calib->max_unit_tokens, &work));
    MQ_TRY(mq_alloc((int64_t)work, 1, "workspace of a unit", &run->work));
    MQ_TRY(mq_report_create(run->scheme->n_quantised, &run->report));
    for (int i = 0; i < run->n_streams; i++) {
        MQ_TRY(mq_activations_create(calib, run->arch->hidden, MQ_BF16, "residual stream",
                                     &run->stream[i].x));
    }
    if (run->n_streams < 2) return MQ_OK;
    return mq_activations_create(calib, mq_arch_normed_width(run->arch), MQ_BF16, "drift",
                                 &run->drift);
}

static mq_status plan_and_allocate(mq_run *run)
{
    const mq_comm *comm = run->comm;
    mq_memory_plan plan;
    mq_memory_settings settings;
    MQ_TRY(mq_agree(comm,
                    mq_memory_settings_make(run->scheme, run->options, &run->solver, &settings)));
    MQ_TRY(mq_memory_plan_make(comm, run->scheme, run->calib, &settings, &plan));
    mq_memory_plan_log(&plan);
    MQ_TRY(mq_memory_plan_check(comm, &plan));
    MQ_TRY(mq_agree(comm, allocate_local(run)));
    for (int i = 0; i < run->n_streams; i++) {
        MQ_TRY(mq_block_weights_create(comm, run->arch, MQ_BF16, &run->stream[i].weights));
    }
    MQ_TRY(mq_expert_tasks_create(run));
    return mq_tap_result_create(comm, run->scheme, &run->result);
}

/* With a budget of bits the layers' widths are found first: everything written follows from them.
 */
static mq_status spend_budget(mq_run *run)
{
    mq_scheme *scheme = run->scheme;
    if (scheme->average_bits == 0) return MQ_OK;
    MQ_TRY(mq_run_measure(run, &run->measured));
    MQ_TRY(mq_agree(run->comm, mq_mix_choose(scheme, run->measured->harm)));
    mq_mix_log(scheme);
    return MQ_OK;
}

/* The layers that read a tap, once its activations are there. */
static mq_status quantise_tap(mq_run *run, int64_t block, mq_tap_id tap)
{
    mq_hessian *h = NULL, *half = NULL;
    mq_cross *cross = NULL;
    mq_damping_choice damping;
    bool halves = mq_run_measures_damping(run, block, tap);
    mq_status status = mq_run_hessian(run, block, tap, halves ? &half : NULL, &h);
    if (status == MQ_OK) status = mq_run_find_ranges(run, block, h);
    if (status == MQ_OK) status = mq_run_damping(run, block, tap, half, h, &damping);
    if (status == MQ_OK) status = mq_run_drift(run, tap);
    if (status == MQ_OK) status = mq_run_alpha(run, block, tap, half, h, damping.damping);
    mq_hessian_destroy(&half);
    if (status == MQ_OK) status = mq_run_cross(run, block, tap, h, &cross);
    if (status == MQ_OK) status = mq_run_solve(run, block, tap, h, &damping, cross);
    mq_hessian_destroy(&h);
    mq_cross_destroy(&cross);
    return status;
}

static mq_status run_tap(mq_run *run, int64_t block, mq_tap_id tap)
{
    MQ_TRY(mq_run_produce(run, tap));
    MQ_TRY(mq_agree(run->comm, mq_tap_result_bind(run->result, run->scheme, block, tap)));
    if (run->result->n_layers == 0) return MQ_OK;
    MQ_TRY(quantise_tap(run, block, tap));
    MQ_TRY(mq_run_replace_weights(run));
    MQ_TRY(mq_run_write_layers(run, block));
    return mq_run_write_norm(run, block, tap);
}

/* A mq_batch_visit of one, whose Hessian all ranks factor together. */
static mq_status run_wide_expert(mq_run *run, int64_t block, int64_t expert, int64_t n, bool mid,
                                 void *none)
{
    mq_tap_id tap = mq_expert_tap(expert, mid);
    (void)n;
    (void)none;
    mq_experts_take(run, block, expert, mid);
    mq_status status = run_tap(run, block, tap);
    mq_experts_release(run, tap);
    return status;
}

static mq_status run_experts(mq_run *run, int64_t block)
{
    bool wide = mq_experts_are_wide(run, block);
    return mq_run_experts(run, block, wide ? 1 : run->comm->size,
                          wide ? run_wide_expert : mq_quantise_experts, NULL);
}

static mq_status run_block(mq_run *run, int64_t block)
{
    mq_tap_id taps[MQ_N_TAPS];
    int n_taps = mq_arch_taps(run->arch, block, taps);
    MQ_TRY(mq_run_read_block(run, block));
    for (int t = 0; t < n_taps; t++) {
        MQ_TRY(run_tap(run, block, taps[t]));
        bool routed = taps[t] == MQ_TAP_MLP_IN && run->arch->block[block].routed;
        if (routed) MQ_TRY(run_experts(run, block));
    }
    return mq_run_finish_block(run);
}

/* Losses of the block's layers, but those that were rounded to nearest: they have none. */
static void log_block(const mq_run *run, int64_t block, int64_t first_layer, double walk_began,
                      double block_began)
{
    int64_t done = block + 1, all = run->scheme->last_block, n = 0;
    double now = mq_seconds(), eta = (now - walk_began) / (double)done * (double)(all - done);
    double sum = 0, largest = 0;
    for (int64_t i = first_layer; i < run->report->n_layers; i++) {
        double loss = run->report->layer[i].relative_loss;
        if (!isfinite(loss)) continue;
        n++;
        sum += loss;
        largest = fmax(largest, loss);
    }
    char losses[96] = "kept as it is";
    if (n > 0) {
        snprintf(losses, sizeof losses, "relative loss mean %.3e, largest %.3e", sum / (double)n,
                 largest);
    } else if (run->report->n_layers > first_layer) {
        snprintf(losses, sizeof losses, "rounded to nearest");
    }
    mq_log("block %" PRId64 " of %" PRId64 ": %s; %.1f s, ETA %.0f s", done, all, losses,
           now - block_began, eta);
}

/* Nothing reads what the head makes, so its weights are not replaced. */
static mq_status run_head(mq_run *run)
{
    int64_t block = run->arch->n_blocks;
    double began = mq_seconds();
    if (!run->scheme->head.quantise) return MQ_OK;
    MQ_TRY(mq_run_produce_head(run));
    MQ_TRY(
        mq_agree(run->comm, mq_tap_result_bind(run->result, run->scheme, block, MQ_TAP_HEAD_IN)));
    MQ_TRY(quantise_tap(run, block, MQ_TAP_HEAD_IN));
    MQ_TRY(mq_run_write_layers(run, block));
    mq_log("lm_head: relative loss %.3e; %.1f s",
           run->report->layer[run->report->n_layers - 1].relative_loss, mq_seconds() - began);
    return MQ_OK;
}

static mq_status walk(mq_run *run)
{
    double started = mq_seconds();
    MQ_TRY(mq_run_embed(run));
    for (int64_t b = 0; b < run->scheme->last_block; b++) {
        int64_t first_layer = run->report->n_layers;
        double block_began = mq_seconds();
        MQ_TRY(run_block(run, b));
        log_block(run, b, first_layer, started, block_began);
    }
    return run_head(run);
}

static void run_destroy(mq_run *run)
{
    for (int i = 0; i < MQ_MAX_STREAMS; i++) {
        mq_stream *stream = &run->stream[i];
        for (int t = 0; t < MQ_N_TAP_KINDS; t++) mq_activations_free(&stream->tap[t]);
        mq_activations_free(&stream->x);
        mq_block_weights_destroy(&stream->weights);
    }
    mq_activations_free(&run->drift);
    mq_experts_destroy(&run->experts);
    mq_expert_tasks_destroy(run);
    mq_writer_destroy(&run->writer);
    mq_tap_result_destroy(&run->result);
    mq_measured_destroy(&run->measured);
    mq_report_destroy(&run->report);
    mq_scheme_destroy(&run->scheme);
    mq_gguf_pairs_clear(&run->gguf);
    mq_calib_destroy(&run->calib);
    mq_folder_close(&run->source);
    mq_arch_destroy(&run->arch);
    mq_rope_mean_destroy(&run->rope_mean);
    mq_rope_tables_free(&run->rope);
    mq_free(&run->work);
    mq_free(&run->left_out);
}

/* Whatever can be written before the walk is: a file that cannot be copied, or a tensor that turns
 * out to be damaged, must not end hours of work. */
static mq_status prepare(mq_run *run, const mq_output *output)
{
    warn_about_calibration(run);
    warn_about_damping(run);
    warn_about_zero_points(run);
    warn_about_source(run);
    MQ_TRY(plan_and_allocate(run));
    mq_timing_lap(&run->timing, MQ_T_SETUP);
    MQ_TRY(spend_budget(run));
    warn_about_readers(run);
    MQ_TRY(mq_layout_create_writer(run->comm, run->options->output, run->source, run->scheme,
                                   &run->gguf, run->options->max_shard_bytes, &run->writer));
    mq_gguf_pairs_clear(&run->gguf);
    mq_timing_lap(&run->timing, MQ_T_SETUP);
    MQ_TRY(mq_run_write_configs(run, output));
    MQ_TRY(mq_layout_copy_rest(run->comm, run->source, run->scheme, run->writer));
    mq_timing_lap(&run->timing, MQ_T_WRITE);
    return mq_run_write_kept(run);
}

static mq_status run_all(mq_run *run)
{
    cJSON *settings = NULL;
    mq_output *output = NULL;
    mq_output_state state = MQ_OUTPUT_FRESH;
    mq_status status = open_inputs(run);
    if (status == MQ_OK) status = open_output(run, &settings, &state, &output);
    if (status == MQ_OK && state == MQ_OUTPUT_FINISHED) {
        mq_log("%s holds a finished run of the same settings: nothing to do", run->options->output);
    } else if (status == MQ_OK) {
        status = prepare(run, output);
        if (status == MQ_OK) status = walk(run);
        if (status == MQ_OK) status = mq_run_complete(run, output, settings);
    }
    /* Unfinished files go while the folder is still locked. */
    if (status != MQ_E_INTERNAL) mq_writer_destroy(&run->writer);
    mq_output_close(&output, status == MQ_OK);
    cJSON_Delete(settings);
    return status;
}

mq_status mq_quantize(MPI_Comm parent, const mq_quantize_options *options)
{
    mq_run run = {.options = options};
    mq_comm *comm = NULL;
    mq_timing_start(&run.timing);
    mq_warnings_clear();
    MQ_TRY(mq_comm_create(parent, &comm));
    run.comm = comm;
    mq_log_enable(comm->rank == 0);
    mq_status status = mq_agree(comm, mq_settings_check(options));
    if (status == MQ_OK) status = mq_agree(comm, mq_settings_solver(options, &run.solver));
    run.n_streams = mq_settings_streams(&run.solver);
    for (int l = 0; l <= MQ_HEAD; l++) run.alpha[l] = run.solver.alpha;
    if (status == MQ_OK) status = mq_start_kernels(comm, options->threads);
    if (status == MQ_OK) status = run_all(&run);
    if (status == MQ_E_INTERNAL) return status; /* freeing is collective: see mpiquant.h */
    run_destroy(&run);
    mq_stop_kernels();
    mq_comm_destroy(&comm);
    return status;
}
