#include "pipeline/complete.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "linalg/factor.h"
#include "ops/ops.h"
#include "par/collectives.h"
#include "pipeline/compressed_config.h"
#include "pipeline/exl2_config.h"
#include "pipeline/gptq_config.h"
#include "pipeline/measure.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const size_t small_file = (size_t)64 << 20;

static mq_status read_source_text(const char *model, const char *name, char **text)
{
    char *path = NULL;
    MQ_TRY(mq_path_join(model, name, &path));
    mq_status status = mq_read_text(path, small_file, text, NULL);
    mq_free(&path);
    return status;
}

static mq_status copy_text(const char *text, char **out)
{
    size_t bytes = strlen(text) + 1;
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "config", out));
    memcpy(*out, text, bytes);
    return MQ_OK;
}

/* NULL for a format that says nothing of it. */
static mq_status quantization_config(const mq_run *run, cJSON **out)
{
    mq_packed_form form = run->scheme->format->form;
    *out = NULL;
    if (form == MQ_PACKED_NONE) return MQ_OK;
    if (form == MQ_PACKED_COMPRESSED) return mq_compressed_config(run->scheme, out);
    if (form == MQ_PACKED_EXL2) return mq_exl2_config(run->scheme, run->calib, out);
    return mq_gptq_config(run->scheme, run->options, out);
}

/* config.json of the output, and for GPTQ quantize_config.json; made on rank 0. */
static mq_status make_configs(const mq_run *run, char **config, char **quantize_config)
{
    cJSON *q = NULL;
    char *source = NULL;
    mq_status status = read_source_text(run->options->model, "config.json", &source);
    if (status == MQ_OK) mq_json_cut(source, "", "quantization_config");
    if (status == MQ_OK) mq_json_cut(source, run->arch->language, "quantization_config");
    if (status == MQ_OK) status = quantization_config(run, &q);
    if (status == MQ_OK && q) {
        status = mq_config_with_quantization(source, "config.json", q, config);
    } else if (status == MQ_OK) {
        status = copy_text(source, config);
    }
    if (status == MQ_OK && run->scheme->format->form == MQ_PACKED_GPTQ) {
        char *printed = mq_json_print(q);
        status = printed ? copy_text(printed, quantize_config)
                         : mq_fail(MQ_E_MEMORY, "no memory for quantize_config.json");
        cJSON_free(printed);
    }
    cJSON_Delete(q);
    mq_free(&source);
    return status;
}

static mq_status write_configs(const mq_run *run, const mq_output *output)
{
    char *config = NULL, *quantize_config = NULL;
    mq_status status = MQ_OK;
    if (run->comm->rank == 0) status = make_configs(run, &config, &quantize_config);
    status = mq_agree(run->comm, status);
    if (status == MQ_OK) status = mq_output_write(run->comm, output, "config.json", config);
    if (status == MQ_OK && run->scheme->format->form == MQ_PACKED_GPTQ) {
        status = mq_output_write(run->comm, output, "quantize_config.json", quantize_config);
    }
    mq_free(&config);
    mq_free(&quantize_config);
    return status;
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Weights, what this run writes itself, and hidden files are not copied. */
static bool is_copied(const char *name)
{
    static const char *const own[] = {"config.json", "quantize_config.json", "README.md",
                                      "mq_report.json"};
    static const char *const weights[] = {".safetensors", ".safetensors.index.json",
                                          ".bin",         ".bin.index.json",
                                          ".pt",          ".pth",
                                          ".gguf",        ".h5",
                                          ".msgpack",     ".part",
                                          ".onnx"};
    if (name[0] == '.') return false;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (strcmp(name, own[i]) == 0) return false;
    }
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        if (ends_with(name, weights[i])) return false;
    }
    return true;
}

static mq_status copy_file(const char *from, const char *to)
{
    char *data = NULL;
    size_t bytes = 0;
    MQ_TRY(mq_read_text(from, small_file, &data, &bytes));
    mq_status status = mq_write_file(to, data, bytes);
    mq_free(&data);
    return status;
}

static mq_status copy_entry(const char *model, const char *output, const char *name)
{
    char *from = NULL, *to = NULL;
    struct stat s;
    mq_status status = mq_path_join(model, name, &from);
    if (status == MQ_OK) status = mq_path_join(output, name, &to);
    if (status == MQ_OK && stat(from, &s) == 0 && S_ISREG(s.st_mode)) {
        if ((uint64_t)s.st_size > small_file) {
            mq_warn("%s: %" PRId64 " bytes: not copied, not a small file", from,
                    (int64_t)s.st_size);
        } else {
            status = copy_file(from, to);
        }
    }
    mq_free(&from);
    mq_free(&to);
    return status;
}

static mq_status copy_small_files(const char *model, const char *output)
{
    DIR *folder = opendir(model);
    const struct dirent *entry = NULL;
    mq_status status = MQ_OK;
    if (!folder) return mq_fail(MQ_E_IO, "%s: cannot list: %s", model, mq_errno_text(errno));
    while (status == MQ_OK && (entry = readdir(folder))) {
        if (is_copied(entry->d_name)) status = copy_entry(model, output, entry->d_name);
    }
    closedir(folder);
    return status;
}

mq_status mq_run_write_configs(const mq_run *run, const mq_output *output)
{
    mq_status status = MQ_OK;
    MQ_TRY(write_configs(run, output));
    if (run->comm->rank == 0) status = copy_small_files(run->options->model, output->path);
    return mq_agree(run->comm, status);
}

static mq_status add_environment(cJSON *json, const mq_run *run, double seconds)
{
    cJSON *o = cJSON_AddObjectToObject(json, "environment");
    MQ_TRY(mq_json_add_int(o, "ranks", run->comm->size));
    MQ_TRY(mq_json_add_int(o, "nodes", run->comm->n_nodes));
    MQ_TRY(mq_json_add_int(o, "threads", mq_threads()));
    MQ_TRY(mq_json_add_string(o, "build", mq_build_description()));
    MQ_TRY(mq_json_add_string(o, "kernels", mq_ops_describe()));
    return mq_json_add_double(o, "seconds", seconds);
}

static mq_status add_model(cJSON *json, const mq_run *run)
{
    cJSON *o = cJSON_AddObjectToObject(json, "model");
    MQ_TRY(mq_json_add_string(o, "path", run->options->model));
    MQ_TRY(mq_json_add_string(o, "model_type", run->arch->model_type));
    MQ_TRY(mq_json_add_int(o, "blocks", run->arch->n_blocks));
    MQ_TRY(mq_json_add_int(o, "hidden_size", run->arch->hidden));
    return mq_json_add_int(o, "intermediate_size", run->arch->intermediate);
}

static mq_status add_calibration(cJSON *json, const mq_run *run)
{
    cJSON *o = cJSON_AddObjectToObject(json, "calibration");
    MQ_TRY(mq_json_add_string(o, "path", run->options->calib));
    MQ_TRY(mq_json_add_string(o, "source", run->calib->source));
    MQ_TRY(mq_json_add_int(o, "samples", run->calib->n_samples));
    MQ_TRY(mq_json_add_int(o, "tokens", run->calib->n_tokens));
    MQ_TRY(mq_json_add_int(o, "units", run->calib->n_units));
    MQ_TRY(mq_json_add_int(o, "shortest", run->calib->shortest));
    return mq_json_add_int(o, "longest", run->calib->longest);
}

static mq_status add_summary(cJSON *json, const mq_run *run)
{
    double mean = 0, largest = 0;
    cJSON *o = cJSON_AddObjectToObject(json, "summary");
    mq_report_summary(run->report, &mean, &largest, NULL);
    MQ_TRY(mq_json_add_int(o, "layers", run->report->n_layers));
    MQ_TRY(mq_json_add_int(o, "rounded_to_nearest", mq_report_fallbacks(run->report)));
    MQ_TRY(mq_json_add_int(o, "samples_left_out", run->samples_left_out));
    MQ_TRY(mq_json_add_double(o, "mean_relative_loss", mean));
    MQ_TRY(mq_json_add_double(o, "largest_relative_loss", largest));
    MQ_TRY(mq_json_add_double(o, "more_samples", mq_report_more_samples(run->report)));
    MQ_TRY(mq_json_add_int(o, "bytes", (int64_t)mq_writer_total_bytes(run->writer)));
    return mq_json_add_int(o, "shards", mq_writer_shards(run->writer));
}

static mq_status add_memory(cJSON *json, int64_t rank_peak, int64_t sum)
{
    cJSON *o = cJSON_AddObjectToObject(json, "memory");
    MQ_TRY(mq_json_add_int(o, "peak_of_a_rank", rank_peak));
    return mq_json_add_int(o, "peak_of_all_ranks", sum);
}

static mq_status add_checksums(cJSON *json, const mq_writer *writer)
{
    cJSON *o = cJSON_AddObjectToObject(json, "checksums");
    for (int64_t i = 0; i < mq_writer_count(writer); i++) {
        char text[22];
        mq_hash_text(mq_writer_checksum(writer, i), text);
        MQ_TRY(mq_json_add_string(o, mq_writer_name(writer, i), text));
    }
    return MQ_OK;
}

static mq_status add_warnings(cJSON *json)
{
    cJSON *list = cJSON_AddArrayToObject(json, "warnings");
    for (int i = 0; i < mq_warning_count(); i++) {
        cJSON_AddItemToArray(list, cJSON_CreateString(mq_warning(i)));
    }
    return list ? MQ_OK : mq_fail(MQ_E_MEMORY, "no memory for the report");
}

/* The part of the report that is known before the shards have their final names. */
static mq_status begin_report(const mq_run *run, const cJSON *settings, cJSON *json)
{
    cJSON *layers = NULL, *budget = NULL;
    MQ_TRY(mq_json_add_string(json, "format", "mpiquant-report"));
    MQ_TRY(mq_json_add_int(json, "version", 1));
    MQ_TRY(mq_json_add_string(json, "program", mq_version()));
    MQ_TRY(mq_json_add(json, "settings", cJSON_Duplicate(settings, 1)));
    MQ_TRY(add_model(json, run));
    MQ_TRY(add_calibration(json, run));
    if (run->measured) {
        MQ_TRY(mq_measured_json(run->measured, &budget));
        MQ_TRY(mq_json_add(json, "budget", budget));
    }
    MQ_TRY(mq_report_layers(run->report, run->arch, &layers));
    return mq_json_add(json, "layers", layers);
}

static mq_status end_report(const mq_run *run, cJSON *json, const int64_t peak[2])
{
    MQ_TRY(add_summary(json, run));
    MQ_TRY(add_environment(json, run, mq_seconds() - run->timing.started));
    MQ_TRY(add_memory(json, peak[0], peak[1]));
    MQ_TRY(add_warnings(json));
    return add_checksums(json, run->writer);
}

static mq_status write_card(const mq_run *run, const mq_output *output)
{
    char *card = NULL;
    mq_status status = MQ_OK;
    if (run->comm->rank == 0) {
        status = mq_report_card(run->report, run->arch, run->options, run->calib,
                                mq_scheme_needs_rules(run->scheme), &card);
    }
    status = mq_agree(run->comm, status);
    if (status == MQ_OK) status = mq_output_write(run->comm, output, "README.md", card);
    mq_free(&card);
    return status;
}

static mq_status write_report(mq_run *run, const mq_output *output, cJSON *json)
{
    const mq_comm *comm = run->comm;
    int64_t peak[2] = {(int64_t)mq_memory_peak_rss(), (int64_t)mq_memory_peak_rss()};
    char *text = NULL;
    MQ_TRY(mq_highest_i64(comm, &peak[0], 1));
    MQ_TRY(mq_sum_i64(comm, &peak[1], 1));
    MQ_TRY(mq_timing_report(&run->timing, comm, json));
    mq_log("peak memory: %.0f MiB in one rank, %.0f MiB in all", (double)peak[0] / 1048576.0,
           (double)peak[1] / 1048576.0);
    mq_status status = MQ_OK;
    if (comm->rank == 0) status = end_report(run, json, peak);
    if (comm->rank == 0 && status == MQ_OK && !(text = mq_json_print(json))) {
        status = mq_fail(MQ_E_MEMORY, "no memory for the report");
    }
    status = mq_agree(comm, status);
    if (status == MQ_OK) status = mq_output_write(comm, output, "mq_report.json", text);
    cJSON_free(text);
    return status;
}

static void log_end(const mq_run *run)
{
    int64_t fallbacks = mq_report_fallbacks(run->report);
    double mean = 0, largest = 0;
    mq_report_summary(run->report, &mean, &largest, NULL);
    mq_log("%" PRId64 " layers, mean relative loss %.3e, largest %.3e", run->report->n_layers, mean,
           largest);
    if (run->samples_left_out > 0) {
        mq_log("%" PRId64 " OF %" PRId64 " SAMPLES WERE LEFT OUT: see the warnings above",
               run->samples_left_out, run->calib->n_samples);
    }
    if (fallbacks > 0) {
        mq_log("%" PRId64 " LAYERS WERE ROUNDED TO NEAREST: see the warnings above", fallbacks);
    }
    mq_log("%s: %.1f MB in %d file%s, %.1f s", run->options->output,
           (double)mq_writer_total_bytes(run->writer) / 1e6, (int)mq_writer_shards(run->writer),
           mq_writer_shards(run->writer) == 1 ? "" : "s", mq_seconds() - run->timing.started);
}

/* More samples are worth a word when they take this much off the layers' losses. */
static const double worth_it = 0.05;

static void warn_thin_calibration(const mq_run *run)
{
    double gain = mq_report_more_samples(run->report);
    if (!(gain > worth_it)) return;
    mq_warn("calibration is thin: by the samples held out, the layers' losses on new text would be "
            "about %.0f %% lower with twice as many samples",
            100 * gain);
}

static mq_status complete(mq_run *run, const mq_output *output, const cJSON *settings, cJSON *json)
{
    const mq_comm *comm = run->comm;
    mq_status status = MQ_OK;
    warn_thin_calibration(run);
    if (comm->rank == 0) status = begin_report(run, settings, json);
    MQ_TRY(mq_agree(comm, status));
    MQ_TRY(write_card(run, output));
    MQ_TRY(mq_writer_commit(run->writer));
    mq_timing_lap(&run->timing, MQ_T_WRITE);
    MQ_TRY(write_report(run, output, json));
    log_end(run);
    return MQ_OK;
}

mq_status mq_run_complete(mq_run *run, const mq_output *output, const cJSON *settings)
{
    cJSON *json = run->comm->rank == 0 ? cJSON_CreateObject() : NULL;
    mq_status status = complete(run, output, settings, json);
    cJSON_Delete(json);
    return status;
}
