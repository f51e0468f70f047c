#include "pipeline/samples.h"

#include "pipeline/experts.h"

#include "base/log.h"
#include "base/memory.h"
#include "ops/gemm.h"
#include "par/collectives.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* What mq_hessian_set_grid takes. */
static const double most = (double)FLT_MAX / 2;

/* The first spoilt value of a sample. */
typedef struct place {
    int64_t sample, token, column; /* sample: number in the file; token: in the sample */
    int64_t what;
} place;

enum { TOO_LARGE, INFINITE, NOT_A_NUMBER };

static const char *const what_text[] = {"a number whose square is too large for f32 sums", "inf",
                                        "NaN"};

static bool usable(const double *sumsq, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        if (!(sumsq[j] <= most)) return false;
    }
    return true;
}

/* ---- rows of samples ------------------------------------------------------------------------ */

static void clear_rows(const mq_activations *a, const mq_calib *calib, int64_t u, int64_t s)
{
    char *rows = mq_activations_unit(a, calib, u);
    const mq_unit *unit = &calib->unit[u];
    size_t bytes = (size_t)a->width * mq_dtype_size(a->dtype);
    if (!rows) return;
    memset(rows + (size_t)unit->offset[s] * bytes, 0,
           (size_t)(unit->offset[s + 1] - unit->offset[s]) * bytes);
}

/* Zeros for the samples that are left out, also where biases have made something of the zeros of
 * earlier taps. */
static void clear_left_out(const mq_run *run)
{
    const uint8_t *left_out = run->left_out;
    for (int64_t u = 0; u < run->calib->n_local_units && left_out; u++) {
        for (int64_t s = 0; s < run->calib->unit[u].n_samples; s++) {
            if (!*left_out++) continue;
            for (int i = 0; i < run->n_streams; i++) {
                const mq_stream *stream = &run->stream[i];
                clear_rows(&stream->x, run->calib, u, s);
                for (int t = 0; t < MQ_N_TAP_KINDS; t++) {
                    clear_rows(&stream->tap[t], mq_run_units(run, (mq_tap_id)t), u, s);
                }
            }
        }
    }
}

void mq_run_tokens_left_out(const mq_run *run, const mq_calib *units, int64_t *first_half,
                            int64_t *second_half)
{
    const uint8_t *left_out = run->left_out;
    *first_half = *second_half = 0;
    for (int64_t u = 0; u < units->n_local_units && left_out; u++) {
        const mq_unit *unit = &units->unit[u];
        for (int64_t s = 0; s < unit->n_samples; s++) {
            int64_t *half = unit->offset[s] < mq_unit_half(unit) ? first_half : second_half;
            if (*left_out++) *half += unit->offset[s + 1] - unit->offset[s];
        }
    }
}

/* ---- the search ----------------------------------------------------------------------------- */

/* The first value of a sample that spoils a sum over its unit. Where no square exceeds most / T in
 * a unit of T tokens, no sum of squares exceeds `most`. */
static mq_status search_sample(const mq_run *run, mq_tap_id tap, const mq_activations *a, int64_t u,
                               int64_t s, float *row, bool *found, place *at)
{
    const mq_calib *calib = mq_run_units(run, tap);
    const mq_unit *unit = &calib->unit[u];
    const char *rows = mq_activations_unit(a, calib, u);
    double limit = most / (double)unit->n_tokens;
    for (int64_t t = unit->offset[s]; t < unit->offset[s + 1]; t++) {
        MQ_TRY(mq_to_f32(rows + (size_t)(t * a->width) * mq_dtype_size(a->dtype), a->dtype,
                         a->width, row));
        for (int64_t j = 0; j < a->width; j++) {
            double x = (double)row[j];
            if (x * x <= limit) continue;
            at->sample = unit->first_sample + s;
            at->token = mq_run_token(run, tap, u, t) - run->calib->unit[u].offset[s];
            at->column = j;
            at->what = isnan(x) ? NOT_A_NUMBER : isinf(x) ? INFINITE : TOO_LARGE;
            *found = true;
            return MQ_OK;
        }
    }
    return MQ_OK;
}

typedef struct search {
    double *sumsq;
    float *row;
    int64_t n_new; /* samples found by this rank */
    place first;   /* of them */
} search;

/* Marks the spoilt samples of a tap. Units are judged one by one, so that the samples found do not
 * depend on which other units a rank has. */
static mq_status search_tap(const mq_run *run, mq_tap_id tap, const mq_activations *a, search *p)
{
    const mq_calib *calib = mq_run_units(run, tap);
    uint8_t *left_out = run->left_out;
    for (int64_t u = 0; u < calib->n_local_units; u++) {
        const mq_unit *unit = &calib->unit[u];
        MQ_TRY(mq_column_sumsq(mq_activations_unit(a, calib, u), a->dtype, unit->n_tokens, a->width,
                               p->sumsq));
        bool good = usable(p->sumsq, a->width);
        for (int64_t s = 0; s < unit->n_samples; s++, left_out++) {
            bool found = false;
            place at = {0};
            if (good || *left_out) continue;
            MQ_TRY(search_sample(run, tap, a, u, s, p->row, &found, &at));
            if (!found) continue;
            *left_out = 1;
            if (p->n_new++ == 0 || at.sample < p->first.sample) p->first = at;
        }
    }
    return MQ_OK;
}

static mq_status allocate(mq_run *run, int64_t width, search *p)
{
    int64_t n_samples = 0;
    for (int64_t u = 0; u < run->calib->n_local_units; u++) {
        n_samples += run->calib->unit[u].n_samples;
    }
    if (!run->left_out) {
        MQ_TRY(mq_alloc(n_samples, sizeof *run->left_out, "samples left out", &run->left_out));
    }
    MQ_TRY(mq_alloc(width, sizeof *p->sumsq, "column sums", &p->sumsq));
    return mq_alloc(width, sizeof *p->row, "a token's activations", &p->row);
}

/* Bounds of every stream; searches where they are too large. */
static mq_status judge(mq_run *run, mq_tap_id tap, double *largest, search *p)
{
    const mq_calib *units = mq_run_units(run, tap);
    for (int i = run->n_streams - 1; i >= 0; i--) { /* the quantised one last: its bounds stay */
        const mq_activations *a = &run->stream[i].tap[mq_tap_kind(tap)];
        memset(largest, 0, (size_t)a->width * sizeof *largest);
        MQ_TRY(mq_activations_bounds(a, units, largest));
        if (usable(largest, a->width)) continue;
        if (!p->sumsq) MQ_TRY(allocate(run, a->width, p));
        MQ_TRY(search_tap(run, tap, a, p));
    }
    return MQ_OK;
}

/* ---- all ranks ------------------------------------------------------------------------------ */

/* The place of the lowest sample over all ranks; n_new and all ranks' sum of it. */
static mq_status share_first(const mq_comm *comm, int64_t n_mine, place *first)
{
    int64_t lowest = n_mine > 0 ? first->sample : INT64_MAX;
    MQ_TRY(mq_lowest_i64(comm, &lowest, 1));
    bool mine = n_mine > 0 && first->sample == lowest;
    int64_t rest[3] = {mine ? first->token : 0, mine ? first->column : 0, mine ? first->what : 0};
    MQ_TRY(mq_highest_i64(comm, rest, 3));
    *first = (place){lowest, rest[0], rest[1], rest[2]};
    return MQ_OK;
}

static mq_status stop_or_warn(mq_run *run, int64_t block, mq_tap_id tap, const place *at, int64_t n)
{
    if (!run->solver.go_on) {
        return mq_fail(MQ_E_NUMERIC,
                       "sample %" PRId64 " (from 0), token %" PRId64 ": input column %" PRId64
                       " holds %s (%" PRId64 " samples do): no damping can mend that; take it out "
                       "of the calibration, see what 'mpiquant eval' says of the model, or leave "
                       "such samples out with --on-failure rtn",
                       at->sample, at->token, at->column, what_text[at->what], n);
    }
    run->samples_left_out += n;
    mq_warn("%s: %" PRId64 " of %" PRId64 " SAMPLES LEFT OUT from here on: sample %" PRId64
            " (from 0), token %" PRId64 ": input column %" PRId64 " holds %s",
            mq_tap_place(block, tap).text, n, run->calib->n_samples, at->sample, at->token,
            at->column, what_text[at->what]);
    return MQ_OK;
}

mq_status mq_run_bounds(mq_run *run, int64_t block, mq_tap_id tap, double *largest)
{
    search p = {0};
    clear_left_out(run);
    mq_status status = mq_agree(run->comm, judge(run, tap, largest, &p));
    int64_t n_all = p.n_new;
    if (status == MQ_OK) status = mq_sum_i64(run->comm, &n_all, 1);
    if (status == MQ_OK && n_all > 0) {
        status = share_first(run->comm, p.n_new, &p.first);
        if (status == MQ_OK) status = stop_or_warn(run, block, tap, &p.first, n_all);
        clear_left_out(run);
        if (status == MQ_OK) status = mq_agree(run->comm, judge(run, tap, largest, &p));
    }
    mq_free(&p.sumsq);
    mq_free(&p.row);
    return status;
}
