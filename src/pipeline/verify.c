/* Checks a finished output folder: every header, every byte against its checksum, every packed
 * layer, and, with the source, how far the weights are. Tensors are dealt to ranks. */
#include "mpiquant/mpiquant.h"

#include "base/checked.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "format/gptq.h"
#include "model/weights.h"
#include "par/collectives.h"
#include "pipeline/startup.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

enum { NAME_BYTES = 512, ERROR_ROWS = 256 };

static const size_t chunk_bytes = (size_t)32 << 20;

typedef struct verifier {
    const mq_comm *comm;
    mq_folder *folder, *source; /* source may be NULL */
    cJSON *report;
    char where[1024]; /* of the report */
    char *chunk;
    int zero_offset;
    int64_t layers;
    double worst;
    int64_t worst_tensor;
} verifier;

static mq_status hash_tensor(verifier *v, const mq_tensor *t, uint64_t *out)
{
    XXH3_state_t *state = XXH3_createState();
    uint64_t bytes = t->end - t->begin;
    mq_status status = state ? MQ_OK : mq_fail(MQ_E_MEMORY, "no memory for a checksum");
    if (state) XXH3_64bits_reset(state);
    for (uint64_t at = 0; at < bytes && status == MQ_OK; at += chunk_bytes) {
        size_t n = bytes - at < chunk_bytes ? (size_t)(bytes - at) : chunk_bytes;
        status = mq_folder_read(v->folder, t, at, n, v->chunk);
        if (status == MQ_OK) XXH3_64bits_update(state, v->chunk, n);
    }
    if (status == MQ_OK) *out = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return status;
}

static mq_status check_checksum(verifier *v, const mq_tensor *t)
{
    uint64_t hash = 0;
    char found[22];
    const cJSON *list = mq_json_find(v->report, "checksums");
    const cJSON *expected = cJSON_GetObjectItemCaseSensitive(list, t->name);
    if (!cJSON_IsString(expected)) {
        return mq_fail(MQ_E_INPUT, "%s: tensor %s is not in the list of checksums of %s",
                       v->folder->path, t->name, v->where);
    }
    MQ_TRY(hash_tensor(v, t, &hash));
    mq_hash_text(hash, found);
    if (strcmp(found, expected->valuestring) == 0) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: tensor %s has checksum %s, the report says %s: the file was damaged or "
                   "changed after the run",
                   v->folder->shard[t->shard], t->name, found, expected->valuestring);
}

/* A packed layer, whole in memory. */
typedef struct packed {
    mq_gptq_layer layer;
    char *data[4]; /* qweight, qzeros, scales, g_idx */
} packed;

static void packed_free(packed *p)
{
    for (int i = 0; i < 4; i++) mq_free(&p->data[i]);
}

static mq_status expect_shape(const verifier *v, const mq_tensor *t, mq_dtype dtype, int n_dims,
                              int64_t d0, int64_t d1)
{
    char text[128];
    bool good = t->dtype == dtype && t->n_dims == n_dims && t->dim[0] == d0 &&
                (n_dims < 2 || t->dim[1] == d1);
    if (good) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: tensor %s is %s, expected %s [%" PRId64 "%s%.0" PRId64 "]",
                   v->folder->path, t->name, mq_tensor_describe(t, text, sizeof text),
                   mq_dtype_name(dtype), d0, n_dims > 1 ? ", " : "", n_dims > 1 ? d1 : 0);
}

static mq_status find_part(const verifier *v, const char *module, const char *part,
                           const mq_tensor **out)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.%s", module, part);
    *out = mq_folder_find(v->folder, name);
    if (*out) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: tensor %s is missing", v->folder->path, name);
}

static mq_status read_whole(verifier *v, const mq_tensor *t, char **out)
{
    size_t bytes = (size_t)(t->end - t->begin);
    MQ_TRY(mq_alloc((int64_t)bytes, 1, t->name, out));
    return mq_folder_read(v->folder, t, 0, bytes, *out);
}

static mq_status load_packed(verifier *v, const char *module, packed *p)
{
    const mq_tensor *qweight = NULL, *qzeros = NULL, *scales = NULL, *g_idx = NULL;
    mq_gptq_layer *l = &p->layer;
    MQ_TRY(find_part(v, module, "qweight", &qweight));
    MQ_TRY(find_part(v, module, "qzeros", &qzeros));
    MQ_TRY(find_part(v, module, "scales", &scales));
    MQ_TRY(find_part(v, module, "g_idx", &g_idx));
    if (qweight->n_dims != 2 || scales->n_dims != 2 || g_idx->n_dims != 1) {
        return mq_fail(MQ_E_INPUT, "%s: %s: packed tensors of the wrong rank", v->folder->path,
                       module);
    }
    l->n_in = g_idx->dim[0];
    l->n_out = qweight->dim[1];
    l->n_groups = scales->dim[0];
    l->zero_offset = v->zero_offset;
    MQ_TRY(mq_gptq_bits(qweight->dim[0], l->n_in, module, &l->bits));
    MQ_TRY(expect_shape(v, qweight, MQ_I32, 2, mq_gptq_words(l->n_in, l->bits), l->n_out));
    MQ_TRY(expect_shape(v, qzeros, MQ_I32, 2, l->n_groups, mq_gptq_words(l->n_out, l->bits)));
    MQ_TRY(expect_shape(v, scales, MQ_F16, 2, l->n_groups, l->n_out));
    MQ_TRY(expect_shape(v, g_idx, MQ_I32, 1, l->n_in, 0));
    MQ_TRY(read_whole(v, qweight, &p->data[0]));
    MQ_TRY(read_whole(v, qzeros, &p->data[1]));
    MQ_TRY(read_whole(v, scales, &p->data[2]));
    MQ_TRY(read_whole(v, g_idx, &p->data[3]));
    l->qweight = (const uint32_t *)(void *)p->data[0];
    l->qzeros = (const uint32_t *)(void *)p->data[1];
    l->scales = (const uint16_t *)(void *)p->data[2];
    l->g_idx = (const int32_t *)(void *)p->data[3];
    return MQ_OK;
}

/* |w - w_hat|^2 / |w|^2 of a layer, rows in pieces. Without a source only the dequantisation
 * itself is checked (g_idx in range, scales finite). */
static mq_status layer_error(verifier *v, const char *module, const packed *p, double *error)
{
    const mq_gptq_layer *l = &p->layer;
    char name[NAME_BYTES];
    float *w = NULL, *original = NULL;
    double error2 = 0, weight2 = 0;
    snprintf(name, sizeof name, "%s.weight", module);
    const mq_tensor *t = v->source ? mq_folder_find(v->source, name) : NULL;
    if (v->source && !t) {
        return mq_fail(MQ_E_INPUT, "%s: tensor %s is missing", v->source->path, name);
    }
    if (t && (t->n_dims != 2 || t->dim[0] != l->n_out || t->dim[1] != l->n_in)) {
        return mq_fail(MQ_E_INPUT, "%s: tensor %s does not have the shape of the packed layer",
                       v->source->path, name);
    }
    mq_status status = mq_alloc(ERROR_ROWS * l->n_in, sizeof *w, "rows", &w);
    if (status == MQ_OK) status = mq_alloc(ERROR_ROWS * l->n_in, sizeof *w, "rows", &original);
    for (int64_t r = 0; r < l->n_out && status == MQ_OK; r += ERROR_ROWS) {
        int64_t end = mq_min_i64(r + ERROR_ROWS, l->n_out);
        status = mq_gptq_dequantise(l, module, r, end, w);
        if (status != MQ_OK || !t) continue;
        status = mq_folder_read_rows(v->source, t, r, end, MQ_F32, original);
        for (int64_t i = 0; i < (end - r) * l->n_in && status == MQ_OK; i++) {
            double e = (double)w[i] - (double)original[i];
            error2 += e * e;
            weight2 += (double)original[i] * (double)original[i];
        }
    }
    mq_free(&w);
    mq_free(&original);
    *error = t && weight2 > 0 ? error2 / weight2 : NAN;
    return status;
}

static const cJSON *report_of_layer(const verifier *v, const char *module)
{
    const cJSON *layer = NULL;
    cJSON_ArrayForEach(layer, mq_json_find(v->report, "layers"))
    {
        const cJSON *name = mq_json_find(layer, "name");
        if (cJSON_IsString(name) && strcmp(name->valuestring, module) == 0) return layer;
    }
    return NULL;
}

/* The report's error was summed from the solver's own residuals in f32: equal up to rounding. */
static mq_status check_claim(verifier *v, const char *module, const packed *p, double error,
                             int64_t tensor)
{
    const cJSON *claim = report_of_layer(v, module);
    int64_t bits = 0;
    double claimed = NAN;
    if (!claim) {
        return mq_fail(MQ_E_INPUT, "%s: layer %s is not in the report", v->where, module);
    }
    MQ_TRY(mq_json_int(claim, "bits", v->where, &bits));
    MQ_TRY(mq_json_double(claim, "relative_error", v->where, &claimed));
    if (bits != p->layer.bits) {
        return mq_fail(MQ_E_INPUT, "%s: packed with %d bits, the report says %" PRId64, module,
                       p->layer.bits, bits);
    }
    if (!cJSON_IsTrue(mq_json_find(claim, "zero_points")) && !mq_gptq_is_symmetric(&p->layer)) {
        return mq_fail(MQ_E_INPUT, "%s: has zero points, the report says symmetric", module);
    }
    if (isnan(error)) return MQ_OK;
    if (fabs(error - claimed) > 1e-4 * claimed + 1e-12) {
        return mq_fail(MQ_E_INPUT,
                       "%s: the weights are off by a relative %.6g, the report says %.6g: another "
                       "source model, or a damaged file",
                       module, error, claimed);
    }
    if (!(error <= v->worst)) {
        v->worst = error;
        v->worst_tensor = tensor;
    }
    return MQ_OK;
}

static mq_status check_layer(verifier *v, const mq_tensor *qweight, int64_t index)
{
    char module[NAME_BYTES];
    packed p = {0};
    double error = NAN;
    snprintf(module, sizeof module, "%.*s", (int)(strlen(qweight->name) - strlen(".qweight")),
             qweight->name);
    mq_status status = load_packed(v, module, &p);
    if (status == MQ_OK) status = layer_error(v, module, &p, &error);
    if (status == MQ_OK) status = check_claim(v, module, &p, error, index);
    packed_free(&p);
    v->layers++;
    return status;
}

static bool is_qweight(const char *name)
{
    size_t n = strlen(name), m = strlen(".qweight");
    return n > m && strcmp(name + n - m, ".qweight") == 0;
}

static mq_status check_my_tensors(verifier *v)
{
    MQ_TRY(mq_alloc((int64_t)chunk_bytes, 1, "read buffer", &v->chunk));
    for (int64_t i = v->comm->rank; i < v->folder->n_tensors; i += v->comm->size) {
        const mq_tensor *t = &v->folder->tensor[i];
        MQ_TRY(check_checksum(v, t));
        if (is_qweight(t->name)) MQ_TRY(check_layer(v, t, i));
    }
    return MQ_OK;
}

static mq_status load_json(const mq_comm *comm, const char *folder, const char *name, char *where,
                           size_t where_bytes, cJSON **out)
{
    char *text = NULL, *path = NULL;
    snprintf(where, where_bytes, "%s/%s", folder, name);
    mq_status status = MQ_OK;
    if (comm->rank == 0) {
        status = mq_path_join(folder, name, &path);
        if (status == MQ_OK) status = mq_read_text(path, (size_t)1 << 30, &text, NULL);
        mq_free(&path);
    }
    status = mq_agree(comm, status);
    if (status == MQ_OK) status = mq_bcast_text(comm, &text, 0);
    if (status == MQ_OK) status = mq_agree(comm, mq_json_parse(text, where, out));
    mq_free(&text);
    return status;
}

static mq_status check_finished(const char *output)
{
    char *path = NULL;
    MQ_TRY(mq_path_join(output, ".mpiquant-run.json", &path));
    bool unfinished = mq_file_exists(path);
    mq_free(&path);
    MQ_TRY(mq_path_join(output, "mq_report.json", &path));
    bool reported = mq_file_exists(path);
    mq_free(&path);
    if (!unfinished && !reported) {
        return mq_fail(MQ_E_INPUT, "%s: has no mq_report.json: not an output of mpiquant quantize",
                       output);
    }
    if (!unfinished) return MQ_OK;
    return mq_fail(MQ_E_INPUT, "%s: the run that makes it has not finished: start it again",
                   output);
}

static mq_status read_zero_offset(verifier *v, const cJSON *config, const char *where)
{
    const char *format = "gptq";
    MQ_TRY(mq_json_string_or(config, "quantization_config.checkpoint_format", where, &format));
    v->zero_offset = strcmp(format, "gptq_v2") == 0 ? 0 : 1;
    return MQ_OK;
}

static mq_status open_all(verifier *v, const char *output, const char *source)
{
    const mq_comm *comm = v->comm;
    cJSON *config = NULL;
    char where[1024];
    mq_arch *arch = NULL;
    MQ_TRY(mq_agree(comm, comm->rank == 0 ? check_finished(output) : MQ_OK));
    MQ_TRY(mq_folder_open(comm, output, &v->folder));
    MQ_TRY(load_json(comm, output, "mq_report.json", v->where, sizeof v->where, &v->report));
    MQ_TRY(load_json(comm, output, "config.json", where, sizeof where, &config));
    mq_status status = mq_agree(comm, read_zero_offset(v, config, where));
    cJSON_Delete(config);
    if (status == MQ_OK) status = mq_arch_load(comm, output, &arch);
    if (status == MQ_OK) status = mq_agree(comm, mq_model_check(v->folder, arch));
    mq_arch_destroy(&arch);
    if (status == MQ_OK && source) status = mq_folder_open(comm, source, &v->source);
    return status;
}

/* No tensor that the report lists may be gone. */
static mq_status check_none_missing(const verifier *v)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, mq_json_find(v->report, "checksums"))
    {
        if (!mq_folder_find(v->folder, item->string)) {
            return mq_fail(MQ_E_INPUT, "%s: tensor %s of the report is missing", v->folder->path,
                           item->string);
        }
    }
    return MQ_OK;
}

static mq_status conclude(verifier *v, mq_verification *result)
{
    const mq_comm *comm = v->comm;
    double worst = isnan(v->worst) ? -1 : v->worst;
    MQ_TRY(mq_sum_i64(comm, &v->layers, 1));
    MQ_TRY(mq_max_f64(comm, &worst, 1));
    int64_t tensor = !isnan(v->worst) && v->worst >= worst ? v->worst_tensor : -1;
    MQ_TRY(mq_highest_i64(comm, &tensor, 1));
    result->layers = v->layers;
    result->tensors = v->folder->n_tensors;
    result->worst_error = worst < 0 ? NAN : worst;
    for (int64_t i = 0; i < v->folder->n_tensors; i++) {
        result->bytes += (int64_t)(v->folder->tensor[i].end - v->folder->tensor[i].begin);
    }
    if (tensor >= 0) {
        const char *name = v->folder->tensor[tensor].name;
        snprintf(result->worst_layer, sizeof result->worst_layer, "%.*s",
                 (int)(strlen(name) - strlen(".qweight")), name);
    }
    return MQ_OK;
}

static mq_status verify(verifier *v, const char *output, const char *source,
                        mq_verification *result)
{
    MQ_TRY(open_all(v, output, source));
    MQ_TRY(mq_agree(v->comm, check_none_missing(v)));
    MQ_TRY(mq_agree(v->comm, check_my_tensors(v)));
    return conclude(v, result);
}

mq_status mq_verify(MPI_Comm parent, const char *output, const char *source, int threads,
                    mq_verification *result)
{
    mq_comm *comm = NULL;
    *result = (mq_verification){.worst_error = NAN};
    if (!output) return mq_fail(MQ_E_USAGE, "no output folder given");
    MQ_TRY(mq_comm_create(parent, &comm));
    mq_log_enable(comm->rank == 0);
    verifier v = {.comm = comm, .worst = NAN, .worst_tensor = -1};
    mq_status status = mq_start_kernels(comm, threads);
    if (status == MQ_OK) status = verify(&v, output, source, result);
    if (status == MQ_E_INTERNAL) return status; /* freeing is collective: see mpiquant.h */
    cJSON_Delete(v.report);
    mq_free(&v.chunk);
    mq_folder_close(&v.folder);
    mq_folder_close(&v.source);
    mq_stop_kernels();
    mq_comm_destroy(&comm);
    return status;
}
