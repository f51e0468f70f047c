/* Checks a finished output folder: every header, every byte against its checksum, every packed
 * layer, and, with the source, how far the weights are. Tensors are dealt to ranks. */
#include "mpiquant/mpiquant.h"

#include "base/checked.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "format/format.h"
#include "format/gguf.h"
#include "model/stacked.h"
#include "model/weights.h"
#include "par/collectives.h"
#include "pipeline/norm_ratio.h"
#include "pipeline/startup.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

enum { NAME_BYTES = 512, ERROR_ROWS = 256, TASK_ROWS = 32 };

/* Large for a disk, small enough to be hashed out of the cache. */
static const size_t chunk_bytes = (size_t)4 << 20;

typedef struct verifier {
    const mq_comm *comm;
    mq_folder *folder, *source; /* source may be NULL */
    cJSON *report;
    char where[1024]; /* of the report */
    char *chunk;
    mq_arch *arch, *source_arch; /* NULL with GGUF */
    bool gguf;
    int64_t layers;
    double worst;
    int64_t worst_layer; /* block * mq_arch_n_linears + linear */
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

/* A layer of either folder, in memory when it is packed: the codes only where they are compared. */
typedef struct packed_layer {
    mq_folder *folder;
    const mq_arch *arch;
    char name[NAME_BYTES];
    int64_t n_out, n_in;
    mq_linear_source source;
    mq_stored_layer stored;
    char *data[MQ_N_STORED];
    float *column_scale; /* (n_in) what makes its columns the source's (norm_ratio.h); or NULL */
} packed_layer;

static void layer_free(packed_layer *l)
{
    for (int i = 0; i < MQ_N_STORED; i++) mq_free(&l->data[i]);
    mq_free(&l->column_scale);
}

static mq_status load_packed(packed_layer *l, bool codes)
{
    for (int p = 0; p < MQ_N_STORED; p++) {
        const mq_tensor *t = l->source.packed[p];
        if (!t || (p == MQ_STORED_CODES && !codes)) continue;
        uint64_t begin = 0;
        size_t bytes = 0;
        mq_stored_range(&l->source, p, &begin, &bytes);
        MQ_TRY(mq_alloc((int64_t)bytes, 1, t->name, &l->data[p]));
        MQ_TRY(mq_folder_read(l->folder, t, begin, bytes, l->data[p]));
    }
    mq_linear_stored(&l->source, l->arch->gptq_zero_offset, l->n_out, l->n_in,
                     (const char *const *)l->data, &l->stored);
    return MQ_OK;
}

/* Dense rows are read, one thread at a time; packed ones are dequantised on any. */
static mq_status read_dense(const packed_layer *l, int64_t r0, int64_t r1, float *w)
{
    if (!l->source.weight) return MQ_OK;
    return mq_linear_read_rows(l->folder, &l->source, r0, r1, MQ_F32, w);
}

static mq_status dequantise(const packed_layer *l, int64_t r0, int64_t r1, float *w)
{
    return l->source.weight ? MQ_OK : mq_stored_dequantise(&l->stored, l->name, r0, r1, w);
}

static mq_status load_layer(mq_folder *folder, const mq_arch *arch, int64_t block,
                            mq_linear_id linear, packed_layer *l)
{
    l->folder = folder;
    l->arch = arch;
    mq_arch_linear_name(arch, linear, block, l->name, sizeof l->name);
    mq_arch_linear_shape(arch, block, linear, &l->n_out, &l->n_in);
    return mq_linear_find(folder, arch, linear, block, &l->source);
}

/* Without an original: that the weights are finite. */
static mq_status check_finite(const packed_layer *l)
{
    float *w = NULL;
    if (!l->source.weight) return mq_stored_check(&l->stored, l->name);
    mq_status status = mq_alloc(ERROR_ROWS * l->n_in, sizeof *w, "rows", &w);
    for (int64_t r = 0; r < l->n_out && status == MQ_OK; r += ERROR_ROWS) {
        status = read_dense(l, r, mq_min_i64(r + ERROR_ROWS, l->n_out), w);
    }
    mq_free(&w);
    return status;
}

/* Rows of a layer beside the original's, and their sums of squares. */
typedef struct comparison {
    const packed_layer *l, *of;
    int64_t r0, r1;                                 /* the rows in hand, at most ERROR_ROWS */
    float *w, *original;                            /* (r1 - r0, n_in) */
    double error2[ERROR_ROWS], weight2[ERROR_ROWS]; /* of each row */
} comparison;

static void compare_row(const float *w, const float *scale, const float *original, int64_t n,
                        double *error2, double *weight2)
{
    double e2 = 0, w2 = 0;
    for (int64_t i = 0; i < n; i++) {
        double s = scale ? (double)scale[i] : 1;
        double e = (double)w[i] * s - (double)original[i];
        e2 += e * e;
        w2 += (double)original[i] * (double)original[i];
    }
    *error2 = e2;
    *weight2 = w2;
}

/* What is packed in the source the run had rounded to BF16. */
static mq_status dequantise_original(const packed_layer *of, int64_t r0, int64_t r1, float *w)
{
    MQ_TRY(dequantise(of, r0, r1, w));
    for (int64_t i = 0; i < (r1 - r0) * of->n_in && !of->source.weight; i++) {
        w[i] = mq_bf16_to_f32(mq_f32_to_bf16(w[i]));
    }
    return MQ_OK;
}

/* A task: TASK_ROWS of the rows in hand. */
static mq_status compare_rows(void *context, int64_t task)
{
    comparison *c = context;
    int64_t n = c->l->n_in, first = task * TASK_ROWS;
    int64_t end = mq_min_i64(first + TASK_ROWS, c->r1 - c->r0);
    MQ_TRY(dequantise(c->l, c->r0 + first, c->r0 + end, c->w + first * n));
    MQ_TRY(dequantise_original(c->of, c->r0 + first, c->r0 + end, c->original + first * n));
    for (int64_t r = first; r < end; r++) {
        compare_row(c->w + r * n, c->l->column_scale, c->original + r * n, n, &c->error2[r],
                    &c->weight2[r]);
    }
    return MQ_OK;
}

static mq_status compare_layer(comparison *c, double *error2, double *weight2)
{
    for (c->r0 = 0; c->r0 < c->l->n_out; c->r0 = c->r1) {
        c->r1 = mq_min_i64(c->r0 + ERROR_ROWS, c->l->n_out);
        MQ_TRY(read_dense(c->l, c->r0, c->r1, c->w));
        MQ_TRY(read_dense(c->of, c->r0, c->r1, c->original));
        MQ_TRY(mq_parallel_for(mq_ceil_div(c->r1 - c->r0, TASK_ROWS), compare_rows, c));
        for (int64_t r = 0; r < c->r1 - c->r0; r++) {
            *error2 += c->error2[r];
            *weight2 += c->weight2[r];
        }
    }
    return MQ_OK;
}

/* |w - w_hat|^2 / |w|^2 of a layer. */
static mq_status layer_error(const packed_layer *l, const packed_layer *of, double *error)
{
    comparison c = {.l = l, .of = of};
    double error2 = 0, weight2 = 0;
    mq_status status = mq_alloc(ERROR_ROWS * l->n_in, sizeof *c.w, "rows", &c.w);
    if (status == MQ_OK) status = mq_alloc(ERROR_ROWS * l->n_in, sizeof *c.w, "rows", &c.original);
    if (status == MQ_OK) status = compare_layer(&c, &error2, &weight2);
    mq_free(&c.w);
    mq_free(&c.original);
    *error = weight2 > 0 ? error2 / weight2 : NAN;
    return status;
}

static mq_status error_of_layer(const verifier *v, packed_layer *l, int64_t block,
                                mq_linear_id linear, double *error)
{
    packed_layer of = {.n_out = 0};
    *error = NAN;
    if (!v->source) return check_finite(l);
    mq_status status = load_layer(v->source, v->source_arch, block, linear, &of);
    if (status == MQ_OK && (of.n_out != l->n_out || of.n_in != l->n_in)) {
        status = mq_fail(MQ_E_INPUT, "%s: %s does not have the shape of the quantised layer",
                         v->source->path, l->name);
    }
    if (status == MQ_OK) {
        status = mq_norm_ratio(v->folder, v->source, v->arch, block, linear, &l->column_scale);
    }
    if (status == MQ_OK && !of.source.weight) status = load_packed(&of, true);
    if (status == MQ_OK) status = layer_error(l, &of, error);
    layer_free(&of);
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

static mq_status check_packed_claim(const verifier *v, const cJSON *claim, const packed_layer *l)
{
    int64_t bits = 0;
    MQ_TRY(mq_json_int(claim, "bits", v->where, &bits));
    if (bits != l->source.bits) {
        return mq_fail(MQ_E_INPUT, "%s: packed with %d bits, the report says %" PRId64, l->name,
                       l->source.bits, bits);
    }
    if (!cJSON_IsTrue(mq_json_find(claim, "zero_points")) && !mq_stored_is_symmetric(&l->stored)) {
        return mq_fail(MQ_E_INPUT, "%s: has zero points, the report says symmetric", l->name);
    }
    return MQ_OK;
}

/* The report's error was summed from the solver's own residuals in f32: equal up to rounding.
 * Dequantised weights are rounded to BF16, by 2^-8 of each at most, which changes |e|^2 by |r|^2
 * and by 2 e . r. The latter adds up without order: in a layer of few weights it is larger than the
 * former. All relative to |w|^2. */
static double slack(double claimed, const packed_layer *l)
{
    static const double deviations = 8;
    double n = (double)l->n_out * (double)l->n_in;
    double cross = 2 * sqrt(claimed) * 0x1p-8 * deviations / sqrt(n);
    return 1e-4 * claimed + (l->source.weight ? 0x1p-16 + cross : 1e-12);
}

static mq_status check_error(verifier *v, const cJSON *claim, const packed_layer *l, double error,
                             int64_t index)
{
    double claimed = NAN;
    MQ_TRY(mq_json_double(claim, "relative_error", v->where, &claimed));
    if (isnan(error)) return MQ_OK;
    if (fabs(error - claimed) > slack(claimed, l)) {
        return mq_fail(MQ_E_INPUT,
                       "%s: the weights are off by a relative %.6g, the report says %.6g: another "
                       "source model, or a damaged file",
                       l->name, error, claimed);
    }
    if (!(error <= v->worst)) {
        v->worst = error;
        v->worst_layer = index;
    }
    return MQ_OK;
}

static mq_status check_loaded(verifier *v, packed_layer *l, const cJSON *claim, int64_t block,
                              mq_linear_id linear, int64_t index)
{
    double error = NAN;
    if (!l->source.weight) {
        MQ_TRY(load_packed(l, v->source != NULL));
        MQ_TRY(check_packed_claim(v, claim, l));
    }
    MQ_TRY(error_of_layer(v, l, block, linear, &error));
    return check_error(v, claim, l, error, index);
}

/* A layer of the report, or a packed one, which must be in it. */
static mq_status check_layer(verifier *v, int64_t block, mq_linear_id linear, int64_t index)
{
    packed_layer l = {.n_out = 0};
    if (linear == MQ_HEAD && v->arch->tied && !mq_folder_find(v->folder, v->arch->head)) {
        return MQ_OK;
    }
    MQ_TRY(load_layer(v->folder, v->arch, block, linear, &l));
    const cJSON *claim = report_of_layer(v, l.name);
    if (!claim && l.source.weight) return MQ_OK;
    if (!claim) return mq_fail(MQ_E_INPUT, "%s: layer %s is not in the report", v->where, l.name);
    mq_status status = check_loaded(v, &l, claim, block, linear, index);
    layer_free(&l);
    v->layers++;
    return status;
}

static mq_status check_my_layers(verifier *v)
{
    int64_t n_linears = mq_arch_n_linears(v->arch), n = v->arch->n_blocks * n_linears;
    for (int64_t i = v->comm->rank; i < n; i += v->comm->size) {
        mq_linear_id linear = (mq_linear_id)(i % n_linears);
        if (!mq_arch_has(v->arch, i / n_linears, linear)) continue;
        MQ_TRY(check_layer(v, i / n_linears, linear, i));
    }
    return n % v->comm->size == v->comm->rank ? check_layer(v, 0, MQ_HEAD, n) : MQ_OK;
}

/* The blocks of one tensor of GGUF. */
static mq_status check_blocks(verifier *v, const mq_tensor *t)
{
    int64_t size = (int64_t)mq_dtype_size(t->dtype), at_once = (int64_t)chunk_bytes / size;
    int64_t n = (int64_t)(t->end - t->begin) / size;
    if (mq_dtype_weights(t->dtype) == 1) return MQ_OK;
    for (int64_t b = 0; b < n; b += at_once) {
        int64_t some = mq_min_i64(at_once, n - b);
        MQ_TRY(mq_folder_read(v->folder, t, (uint64_t)(b * size), (size_t)(some * size), v->chunk));
        MQ_TRY(mq_gguf_check_blocks(t->dtype, v->chunk, some, t->name, b));
    }
    v->layers++;
    return MQ_OK;
}

static mq_status check_my_tensors(verifier *v)
{
    MQ_TRY(mq_alloc((int64_t)chunk_bytes, 1, "read buffer", &v->chunk));
    for (int64_t i = v->comm->rank; i < v->folder->n_tensors; i += v->comm->size) {
        MQ_TRY(check_checksum(v, &v->folder->tensor[i]));
        MQ_TRY(check_blocks(v, &v->folder->tensor[i]));
    }
    return v->gguf ? MQ_OK : check_my_layers(v);
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

/* Its weights lie in another order under other names: they are not held against the source's. */
static mq_status open_gguf(verifier *v, const char *output, const char *source)
{
    if (!source) return mq_folder_open_gguf(v->comm, output, &v->folder);
    return mq_fail(MQ_E_USAGE,
                   "%s: GGUF is not compared with a source: leave out --source, or write --format "
                   "dense with the same settings and verify that",
                   output);
}

static mq_status open_all(verifier *v, const char *output, const char *source)
{
    const mq_comm *comm = v->comm;
    MQ_TRY(mq_agree(comm, comm->rank == 0 ? check_finished(output) : MQ_OK));
    MQ_TRY(load_json(comm, output, "mq_report.json", v->where, sizeof v->where, &v->report));
    const char *format = cJSON_GetStringValue(mq_json_find(v->report, "settings.format"));
    v->gguf = format && strcmp(format, mq_format_gguf.name) == 0;
    if (v->gguf) return open_gguf(v, output, source);
    MQ_TRY(mq_folder_open(comm, output, &v->folder));
    MQ_TRY(mq_arch_load(comm, output, &v->arch));
    MQ_TRY(mq_agree(comm, mq_model_check(v->folder, v->arch)));
    if (!source) return MQ_OK;
    MQ_TRY(mq_folder_open(comm, source, &v->source));
    return mq_arch_load(comm, source, &v->source_arch);
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
    int64_t layer = !isnan(v->worst) && v->worst >= worst ? v->worst_layer : -1;
    MQ_TRY(mq_highest_i64(comm, &layer, 1));
    result->layers = v->layers;
    result->tensors = v->folder->n_tensors;
    result->worst_error = worst < 0 ? NAN : worst;
    for (int64_t i = 0; i < v->folder->n_tensors; i++) {
        result->bytes += (int64_t)(v->folder->tensor[i].end - v->folder->tensor[i].begin);
    }
    if (layer >= 0) {
        int64_t n = mq_arch_n_linears(v->arch), head = v->arch->n_blocks * n;
        mq_linear_id linear = layer == head ? MQ_HEAD : (mq_linear_id)(layer % n);
        mq_arch_linear_name(v->arch, linear, layer / n, result->worst_layer,
                            sizeof result->worst_layer);
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
    verifier v = {.comm = comm, .worst = NAN, .worst_layer = -1};
    mq_status status = mq_start_kernels(comm, threads);
    if (status == MQ_OK) status = verify(&v, output, source, result);
    if (status == MQ_E_INTERNAL) return status; /* freeing is collective: see mpiquant.h */
    cJSON_Delete(v.report);
    mq_free(&v.chunk);
    mq_folder_close(&v.folder);
    mq_folder_close(&v.source);
    mq_arch_destroy(&v.arch);
    mq_arch_destroy(&v.source_arch);
    mq_stop_kernels();
    mq_comm_destroy(&comm);
    return status;
}
