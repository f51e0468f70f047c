/* From a Hessian to codes: order, damping, one factorisation, then every rank its row blocks. */
#include "pipeline/run.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "linalg/factor.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* The system of one tap. */
typedef struct tap_system {
    const mq_hessian *h;
    int64_t n;
    int64_t *order;
    double *diagonal; /* of H, original order: 0 for dead columns; weights of the scale search */
    double *revived;  /* the same with dead columns at the mean of the others */
    int64_t n_dead;
    double lambda;
    double damping; /* share of the mean that succeeded, NaN when none did */
    int attempts;
    mq_factor *factor;
    float *panel; /* (n, MQ_FACTOR_PANEL) */
} tap_system;

static void system_destroy(tap_system *s)
{
    mq_factor_destroy(&s->factor);
    mq_free(&s->order);
    mq_free(&s->diagonal);
    mq_free(&s->revived);
    mq_free(&s->panel);
}

static mq_status system_create(const mq_hessian *h, tap_system *s)
{
    s->h = h;
    s->n = h->n;
    s->damping = NAN;
    MQ_TRY(mq_alloc(s->n, sizeof *s->order, "column order", &s->order));
    MQ_TRY(mq_alloc(s->n, sizeof *s->diagonal, "diagonal", &s->diagonal));
    MQ_TRY(mq_alloc(s->n, sizeof *s->revived, "diagonal", &s->revived));
    MQ_TRY(mq_alloc(s->n, MQ_FACTOR_PANEL * sizeof *s->panel, "panel of the factor", &s->panel));
    mq_hessian_diagonal(h, s->diagonal);
    mq_order_columns(s->diagonal, s->n, s->order);
    memcpy(s->revived, s->diagonal, (size_t)s->n * sizeof *s->revived);
    s->n_dead = mq_revive_dead(s->revived, s->n);
    return MQ_OK;
}

/* Rows of the ordered, damped matrix, as the factorisation asks for them. */
static void ordered_row(void *context, int64_t i, int64_t j0, int64_t j1, double *out)
{
    const tap_system *s = context;
    int64_t row = s->order[i];
    for (int64_t j = j0; j < j1; j++) {
        out[j - j0] = j == i ? s->revived[row] + s->lambda : mq_hessian_at(s->h, row, s->order[j]);
    }
}

/* Climbs the damping ladder until the matrix factors, each time from the intact H. Leaves no factor
 * when the ladder ends. */
static mq_status factor_with_damping(mq_run *run, int64_t block, mq_tap_id tap, tap_system *s)
{
    /* The rank that factors alone changes with the tap, so that no rank does all of it. */
    int root = (int)((block * MQ_N_TAPS + tap) % run->comm->size);
    double mean = 0;
    for (int64_t j = 0; j < s->n; j++) mean += s->revived[j];
    mean /= (double)s->n;
    bool distributed = s->n > run->options->distribute_above;
    for (;; s->attempts++) {
        int64_t minor = 0;
        double share = mq_damping_factor(run->options->damping, s->attempts);
        if (share < 0) return MQ_OK;
        s->lambda = share * mean;
        mq_status status = mq_factor_create(run->comm, s->n, distributed, root, ordered_row, s,
                                            &s->factor, &minor);
        if (status == MQ_OK) s->damping = share;
        if (status != MQ_E_NOT_PD) return status;
        mq_warn("block %" PRId64
                ", %s: the Hessian is not positive definite at damping %g (leading "
                "minor %" PRId64 " of %" PRId64 ")",
                block, mq_tap_name(tap), share, minor, s->n);
    }
}

static mq_status next_panel(void *context, int64_t k0, int64_t k1, const float **m)
{
    tap_system *s = context;
    *m = s->panel;
    return mq_factor_panel(s->factor, k0, k1, s->panel);
}

/* This rank's row blocks of the tap. */
typedef struct row_work {
    mq_row_block *block;
    const mq_tap_layer **layer; /* of each block */
    int64_t *first_row;         /* within its layer */
    int64_t n_blocks;
    float *storage; /* w and e of all blocks */
    tap_system *system;
} row_work;

static void row_work_free(row_work *w)
{
    mq_free(&w->block);
    mq_free(&w->layer);
    mq_free(&w->first_row);
    mq_free(&w->storage);
}

static void bind_block(row_work *w, int64_t i, const mq_tap_layer *layer, int64_t b)
{
    int64_t n = w->system->n, area = MQ_ROW_BLOCK * n;
    double *stats = layer->stats + b * MQ_N_STATS * MQ_ROW_BLOCK;
    w->layer[i] = layer;
    w->first_row[i] = b * MQ_ROW_BLOCK;
    w->block[i] = (mq_row_block){
        .w = w->storage + 2 * i * area,
        .e = w->storage + (2 * i + 1) * area,
        .codes = layer->codes + b * area,
        .scales = layer->scales + b * MQ_ROW_BLOCK * layer->n_groups,
        .quant = layer->quant,
        .loss = stats + MQ_STAT_LOSS * MQ_ROW_BLOCK,
        .energy = stats + MQ_STAT_ENERGY * MQ_ROW_BLOCK,
        .error2 = stats + MQ_STAT_ERROR2 * MQ_ROW_BLOCK,
        .weight2 = stats + MQ_STAT_WEIGHT2 * MQ_ROW_BLOCK,
    };
}

static mq_status row_work_create(const mq_run *run, tap_system *system, row_work *w)
{
    const mq_tap_result *result = run->result;
    int64_t mine = 0, floats = 0, i = 0;
    for (int64_t b = run->comm->rank; b < result->n_row_blocks; b += run->comm->size) mine++;
    w->system = system;
    w->n_blocks = mine;
    MQ_TRY(mq_mul_i64(mine, 2 * MQ_ROW_BLOCK, &floats));
    MQ_TRY(mq_mul_i64(floats, system->n, &floats));
    MQ_TRY(mq_alloc(mine, sizeof *w->block, "row blocks", &w->block));
    MQ_TRY(mq_alloc(mine, sizeof *w->layer, "row blocks", &w->layer));
    MQ_TRY(mq_alloc(mine, sizeof *w->first_row, "row blocks", &w->first_row));
    MQ_TRY(mq_alloc(floats, sizeof *w->storage, "rows of W", &w->storage));
    for (int l = 0; l < result->n_layers; l++) {
        const mq_tap_layer *layer = &result->layer[l];
        for (int64_t b = 0; b < layer->n_row_blocks; b++) {
            if ((layer->first_row_block + b) % run->comm->size == run->comm->rank) {
                bind_block(w, i++, layer, b);
            }
        }
    }
    return MQ_OK;
}

/* Rows of the original weights, columns in original order, into e (which the solver fills later).
 * From the block's weights when those are exact, else from the file again. */
static mq_status load_rows(mq_run *run, int64_t block, row_work *w)
{
    for (int64_t i = 0; i < w->n_blocks; i++) {
        const mq_tap_layer *layer = w->layer[i];
        int64_t r0 = w->first_row[i], r1 = mq_min_i64(r0 + MQ_ROW_BLOCK, layer->n_out);
        int64_t n = w->system->n;
        char module[256], name[320];
        mq_arch_linear_name(run->arch, layer->linear, block, module, sizeof module);
        snprintf(name, sizeof name, "%s.weight", module);
        const mq_tensor *t = mq_folder_find(run->source, name);
        if (t && t->dtype == run->weights->dtype) {
            const char *rows = run->weights->w[layer->linear];
            rows += (size_t)(r0 * n) * mq_dtype_size(run->weights->dtype);
            MQ_TRY(mq_to_f32(rows, run->weights->dtype, (r1 - r0) * n, w->block[i].e));
        } else if (t) {
            MQ_TRY(mq_folder_read_rows(run->source, t, r0, r1, MQ_F32, w->block[i].e));
        } else {
            return mq_fail(MQ_E_INPUT, "%s: tensor %s is missing", run->source->path, name);
        }
    }
    return MQ_OK;
}

static mq_status prepare_block(void *context, int64_t i)
{
    row_work *w = context;
    mq_row_block *b = &w->block[i];
    const mq_tap_layer *layer = w->layer[i];
    int64_t n = w->system->n;
    float *scales = layer->scales + w->first_row[i] * layer->n_groups;
    MQ_TRY(mq_search_scales(b->e, MQ_ROW_BLOCK, n, w->system->diagonal, &b->quant, scales));
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
        for (int64_t k = 0; k < n; k++) b->w[r * n + k] = b->e[r * n + w->system->order[k]];
    }
    return MQ_OK;
}

static mq_status prepare(mq_run *run, int64_t block, tap_system *s, row_work *w)
{
    MQ_TRY(row_work_create(run, s, w));
    MQ_TRY(load_rows(run, block, w));
    return mq_parallel_for(w->n_blocks, prepare_block, w);
}

/* Past this share of a layer's own sum of squares little of it is left: F16 scales end at 65504 and
 * at 6e-8. Two bits with one scale a row and data enough stay below a half. */
static const double lost_layer = 0.9;

static void warn_lost(const mq_run *run, const mq_layer_result *r)
{
    char name[256];
    if (r->relative_error < lost_layer) return;
    mq_arch_linear_name(run->arch, r->linear, r->block, name, sizeof name);
    mq_warn("%s: the packed weights are off by %.3g of their sum of squares: too large or too "
            "small for F16 scales, or too little calibration data; keep the layer with --skip",
            name, r->relative_error);
}

static mq_status report_layer(mq_run *run, int64_t block, const tap_system *s,
                              const mq_tap_layer *layer, double seconds)
{
    double loss = mq_tap_result_sum(layer, MQ_STAT_LOSS);
    double energy = mq_tap_result_sum(layer, MQ_STAT_ENERGY);
    double error2 = mq_tap_result_sum(layer, MQ_STAT_ERROR2);
    double weight2 = mq_tap_result_sum(layer, MQ_STAT_WEIGHT2);
    /* The factor is that of H + lambda I; the report speaks of H. */
    double pure_loss = fmax(loss - s->lambda * error2, 0);
    double pure_energy = energy - s->lambda * weight2;
    mq_layer_result r = {
        .block = block,
        .linear = layer->linear,
        .quant = layer->quant,
        .method = s->factor ? "ldlq" : "rtn",
        .relative_loss =
            s->factor && s->n_dead < s->n && pure_energy > 0 ? pure_loss / pure_energy : NAN,
        .relative_error = weight2 > 0 ? error2 / weight2 : 0,
        .damping = s->damping,
        .attempts = s->attempts + (s->factor != NULL),
        .tokens = s->h->n_tokens,
        .rank_bound = mq_hessian_rank_bound(s->h),
        .dead = s->n_dead,
        .seconds = seconds,
    };
    warn_lost(run, &r);
    return mq_report_add(run->report, &r);
}

static void warn_fallback(const mq_run *run, int64_t block, mq_tap_id tap, const tap_system *s)
{
    for (int l = 0; l < run->result->n_layers; l++) {
        char name[256];
        mq_arch_linear_name(run->arch, run->result->layer[l].linear, block, name, sizeof name);
        mq_warn("%s: ROUNDED TO NEAREST: the Hessian of %s (%" PRId64 " tokens, %" PRId64
                " columns) could not be factored at any damping; give more calibration data",
                name, mq_tap_name(tap), s->h->n_tokens, s->n);
    }
}

/* Dead columns were given a diagonal that H does not have; they come last. What they added to loss
 * and energy is taken out again: the report speaks of H. */
static void take_out_dead(const tap_system *s, const row_work *w)
{
    for (int64_t i = 0; i < w->n_blocks && s->n_dead > 0; i++) {
        const mq_row_block *b = &w->block[i];
        for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
            for (int64_t k = s->n - s->n_dead; k < s->n; k++) {
                double e = b->e[r * s->n + k], v = b->w[r * s->n + k];
                b->loss[r] -= s->revived[s->order[k]] * e * e;
                b->energy[r] -= s->revived[s->order[k]] * v * v;
            }
        }
    }
}

static mq_status choose_codes(tap_system *s, row_work *w)
{
    if (!s->factor) return mq_round_nearest(w->block, w->n_blocks, s->n, s->order);
    MQ_TRY(mq_ldlq(w->block, w->n_blocks, s->n, s->order, mq_factor_diagonal(s->factor), next_panel,
                   s));
    take_out_dead(s, w);
    return MQ_OK;
}

mq_status mq_run_solve(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *h)
{
    tap_system s = {0};
    row_work w = {0};
    double started = mq_seconds();
    mq_status status = mq_agree(run->comm, system_create(h, &s));
    if (status == MQ_OK) status = factor_with_damping(run, block, tap, &s);
    mq_timing_lap(&run->timing, MQ_T_FACTOR);
    if (status == MQ_OK) status = mq_agree(run->comm, prepare(run, block, &s, &w));
    mq_timing_lap(&run->timing, MQ_T_SCALES);
    if (status == MQ_OK) status = mq_agree(run->comm, choose_codes(&s, &w));
    if (status == MQ_OK) status = mq_tap_result_publish(run->comm, run->result);
    mq_timing_lap(&run->timing, MQ_T_LDLQ);
    if (status == MQ_OK && !s.factor) warn_fallback(run, block, tap, &s);
    for (int l = 0; l < run->result->n_layers && status == MQ_OK; l++) {
        status = report_layer(run, block, &s, &run->result->layer[l], mq_seconds() - started);
    }
    row_work_free(&w);
    system_destroy(&s);
    if (status != MQ_OK) mq_fail_in(status, "block %" PRId64 ", %s", block, mq_tap_name(tap));
    return mq_agree(run->comm, status);
}
