/* Cross-validated damping: how much of it serves samples that a layer was not solved on; and
 * whether scaled columns do.
 *
 * The Hessian is summed by halves. A sample of the tap's rows is solved on the one with each of a
 * few dampings, and judged by the other. All of them start from the same scales, so that nothing
 * but the damping differs. With the usual damping the rows are solved once more, columns scaled. */
#include "pipeline/column_scales.h"
#include "pipeline/row_guard.h"
#include "pipeline/sampled_rows.h"

#include "base/log.h"
#include "base/memory.h"
#include "par/collectives.h"
#include "solve/quadratic.h"

#include <inttypes.h>
#include <math.h>

/* From the weakest to the strongest; none but the first does without the usual shrinkage. */
static const double shares[] = {0.01, 0.01, 0.05, 0.2, 0.8};
enum { UNSHRUNK, USUAL = 2, N_CANDIDATES = sizeof shares / sizeof *shares };

/* From the usual damping to the next weaker or stronger, and on from there, when the held-out loss
 * becomes smaller by this share. What is held out is text of the same kind: a smaller gain on it
 * was a loss on text of another kind (SmolLM2: less damping, 1 to 2 % gained in these losses and
 * 0.7 % in divergence, 3.3 % lost out of domain; no shrinkage where 3 % are gained, 3.6 % lost). */
static const double worth_it[N_CANDIDATES] = {0.05, 0.03, 0.03, 0.03, 0.03};

/* Scaled columns, when the held-out loss becomes smaller by this share: 17 to 39 % at the taps of
 * SmolLM2, at those of the demo model between 5 % less and 4 % more. */
static const double worth_scaling = 0.1;

static mq_damping candidate(const mq_run *run, int c)
{
    return (mq_damping){.share = shares[c],
                        .shrinkage = c == UNSHRUNK ? 0 : run->solver.damping.shrinkage};
}

/* The weakest that may be tried. */
static int first_candidate(const mq_run *run)
{
    return run->solver.measure_shrinkage ? UNSHRUNK : UNSHRUNK + 1;
}

/* Which samples a loss is over. */
enum { HALF, HELD_OUT, N_PARTS };

/* All candidates, and the usual one with scaled columns. */
enum { SCALED = N_CANDIDATES, N_TRIALS };

/* What a rank tries on its own and what all have found, by trial. */
typedef struct trial {
    const mq_hessian *h, *half;
    int64_t block;
    mq_tap_id tap;
    mq_tap_system system; /* of the half */
    mq_sampled_rows rows, scaled_rows;
    double *w2; /* (n) of the columns, which may be scaled; NULL: they may not */
    float *column_scale;
    float *errors; /* (N_TRIALS, blocks of rows, MQ_ROW_BLOCK, n) */
    double held_out_energy[MQ_N_LINEARS];
    bool weighed;                                 /* the energies are there */
    double loss[N_TRIALS][N_PARTS][MQ_N_LINEARS]; /* relative, of the layers */
    bool tried[N_CANDIDATES];
} trial;

static float *errors_of(const trial *t, int c, int b)
{
    return t->errors + ((int64_t)c * t->rows.n_blocks + b) * MQ_ROW_BLOCK * t->system.n;
}

/* The other half, in the order in which the first is processed. */
static mq_status held_out_entries(void *context, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
                                  double *out)
{
    const trial *t = context;
    return mq_tap_system_others(&t->system, t->h, i0, i1, j0, j1, out);
}

/* Rows that are judged by the other half, all in one walk over it: errors, or the weights. */
typedef struct held_out_rows {
    const float *x[(N_TRIALS + 1) * MQ_N_LINEARS]; /* (MQ_ROW_BLOCK, n) each */
    double *sum[(N_TRIALS + 1) * MQ_N_LINEARS];    /* by layer: x H x^T is added */
    int block[(N_TRIALS + 1) * MQ_N_LINEARS];
    int count;
} held_out_rows;

static void add_rows(held_out_rows *list, int b, const float *x, double *sum)
{
    list->block[list->count] = b;
    list->x[list->count] = x;
    list->sum[list->count++] = sum;
}

static mq_status judge(trial *t, const held_out_rows *list)
{
    double *loss = NULL;
    if (list->count == 0) return MQ_OK;
    MQ_TRY(mq_alloc(list->count, MQ_ROW_BLOCK * sizeof *loss, "losses of rows", &loss));
    mq_status status = mq_quadratic_rows(list->x, list->count, t->system.n, t->system.mean,
                                         held_out_entries, t, loss);
    for (int i = 0; i < list->count && status == MQ_OK; i++) {
        int b = list->block[i];
        for (int64_t r = 0; r < t->rows.n_rows[b]; r++) {
            double x = loss[i * MQ_ROW_BLOCK + r];
            if (!(x < 0)) list->sum[i][t->rows.layer[b][r]] += x;
        }
    }
    mq_free(&loss);
    return status;
}

/* Of all layers in trial c, under the half that they were solved on. */
static void measure_half(trial *t, const mq_sampled_rows *rows, int c)
{
    double loss[MQ_N_LINEARS] = {0}, energy[MQ_N_LINEARS] = {0};
    for (int b = 0; b < rows->n_blocks; b++) {
        const mq_row_block *block = &rows->block[b];
        mq_row_take_out_damping(&t->system, block);
        for (int64_t r = 0; r < rows->n_rows[b]; r++) {
            loss[rows->layer[b][r]] += block->loss[r];
            energy[rows->layer[b][r]] += block->energy[r];
        }
    }
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        t->loss[c][HALF][l] = energy[l] > 0 ? loss[l] / energy[l] : 0;
    }
}

/* Errors and loss on the half, once it is factored. */
static mq_status solve_rows(trial *t, mq_sampled_rows *rows, int c)
{
    mq_tap_system *s = &t->system;
    for (int b = 0; b < rows->n_blocks; b++) rows->block[b].e = errors_of(t, c, b);
    MQ_TRY(mq_ldlq(rows->block, rows->n_blocks, s->n, s->order, s->r, mq_tap_system_panel, s));
    measure_half(t, rows, c);
    return MQ_OK;
}

/* The errors that scaled columns leave in the weights as they are. */
static void unscale_errors(trial *t)
{
    const mq_tap_system *s = &t->system;
    for (int b = 0; b < t->rows.n_blocks; b++) {
        float *e = errors_of(t, SCALED, b);
        for (int64_t i = 0; i < MQ_ROW_BLOCK * s->n; i++) {
            e[i] *= (float)s->scale[s->order[i % s->n]];
        }
    }
}

/* The same rows with their columns scaled as this half's factor asks for. */
static mq_status solve_scaled(const mq_run *run, const mq_comm *comm, trial *t)
{
    mq_tap_system *s = &t->system;
    mq_choose_column_scales(run, t->tap, s, t->w2, t->column_scale);
    mq_tap_system_scale(s, t->column_scale);
    mq_status status = mq_agree(comm, mq_sampled_rows_create(run, t->block, s, &t->scaled_rows));
    if (status == MQ_OK) status = solve_rows(t, &t->scaled_rows, SCALED);
    if (status == MQ_OK) unscale_errors(t);
    mq_tap_system_scale(s, NULL);
    return status;
}

/* *solved: false where the matrix cannot be factored. */
static mq_status solve(const mq_run *run, const mq_comm *comm, trial *t, int c, bool *solved)
{
    mq_tap_system *s = &t->system;
    int64_t minor = 0;
    mq_status status = mq_tap_system_try(run, comm, candidate(run, c), 0, s, &minor);
    *solved = status != MQ_E_NOT_PD;
    if (status == MQ_E_NOT_PD) return MQ_OK;
    if (status == MQ_OK) status = mq_agree(comm, solve_rows(t, &t->rows, c));
    if (status == MQ_OK && c == USUAL && t->w2) status = solve_scaled(run, comm, t);
    mq_factor_destroy(&s->factor);
    return status;
}

/* Infinite losses where there are no errors to judge. */
static void add_trial(trial *t, int c, bool solved, held_out_rows *list)
{
    for (int l = 0; l < MQ_N_LINEARS; l++) t->loss[c][HELD_OUT][l] = solved ? 0 : INFINITY;
    for (int b = 0; b < t->rows.n_blocks && solved; b++) {
        add_rows(list, b, errors_of(t, c, b), t->loss[c][HELD_OUT]);
    }
}

static void make_relative(trial *t, int c)
{
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        double energy = t->held_out_energy[l], *loss = &t->loss[c][HELD_OUT][l];
        if (isfinite(*loss)) *loss = energy > 0 ? *loss / energy : 0;
    }
}

/* Candidates begin, begin + step ... below end, the usual one also with scaled columns. */
static mq_status try_some(const mq_run *run, const mq_comm *comm, trial *t, int begin, int end,
                          int step)
{
    held_out_rows list = {.count = 0};
    for (int b = 0; b < t->rows.n_blocks && !t->weighed; b++) {
        add_rows(&list, b, t->rows.block[b].w, t->held_out_energy);
    }
    t->weighed = true;
    for (int c = begin; c < end; c += step) {
        bool solved = false;
        MQ_TRY(mq_agree(comm, solve(run, comm, t, c, &solved)));
        add_trial(t, c, solved, &list);
        if (c == USUAL) add_trial(t, SCALED, solved && t->w2, &list);
    }
    MQ_TRY(judge(t, &list));
    for (int c = begin; c < end; c += step) {
        make_relative(t, c);
        if (c == USUAL) make_relative(t, SCALED);
    }
    return MQ_OK;
}

static mq_status allocate(const mq_run *run, trial *t)
{
    int64_t n = t->half->n;
    MQ_TRY(mq_tap_system_create(run, t->half, &t->system));
    MQ_TRY(mq_sampled_rows_create(run, t->block, &t->system, &t->rows));
    MQ_TRY(mq_alloc(n, sizeof *t->column_scale, "scales of columns", &t->column_scale));
    MQ_TRY(mq_alloc(n, sizeof *t->w2, "sums of columns", &t->w2));
    return mq_alloc((int64_t)N_TRIALS * t->rows.n_blocks * MQ_ROW_BLOCK,
                    (size_t)n * sizeof *t->errors, "errors of sampled rows", &t->errors);
}

static mq_status prepare(const mq_run *run, bool may_scale, trial *t)
{
    MQ_TRY(mq_agree(run->comm, allocate(run, t)));
    if (may_scale) return mq_column_energies(run, t->w2);
    mq_free(&t->w2);
    return MQ_OK;
}

/* Wide matrices are factored by all ranks together, one candidate after the other; of the narrow
 * ones every rank factors its own. */
static mq_status try_together(const mq_run *run, trial *t, int begin, int end)
{
    return mq_agree(run->comm, try_some(run, run->comm, t, begin, end, 1));
}

static mq_status try_own(const mq_run *run, trial *t, int begin, int end)
{
    mq_comm *self = NULL;
    mq_status status = mq_comm_create(MPI_COMM_SELF, &self);
    if (status == MQ_OK) {
        status = try_some(run, self, t, begin + run->comm->rank, end, run->comm->size);
    }
    mq_comm_destroy(&self);
    status = mq_agree(run->comm, status);
    if (status != MQ_OK) return status;
    /* The others hold 0. */
    if (begin <= USUAL && USUAL < end) {
        MQ_TRY(mq_sum_f64(run->comm, t->loss[SCALED][0], N_PARTS * MQ_N_LINEARS));
    }
    return mq_sum_f64(run->comm, t->loss[begin][0], (end - begin) * N_PARTS * MQ_N_LINEARS);
}

/* Candidates [begin, end). */
static mq_status try_candidates(const mq_run *run, trial *t, int begin, int end)
{
    bool wide = t->h->n > run->options->distribute_above;
    for (int c = begin; c < end; c++) t->tried[c] = true;
    return wide ? try_together(run, t, begin, end) : try_own(run, t, begin, end);
}

/* The mean over the layers. */
static double held_out(const mq_run *run, const trial *t, int c)
{
    double sum = 0;
    for (int l = 0; l < run->result->n_layers; l++) sum += t->loss[c][HELD_OUT][l];
    return sum / run->result->n_layers;
}

/* Anything is better than what cannot be factored. */
static bool better(const mq_run *run, const trial *t, int c, int than)
{
    return !isfinite(held_out(run, t, than)) ||
           held_out(run, t, c) < (1 - worth_it[c]) * held_out(run, t, than);
}

/* From candidate *c on to weaker (-1) or stronger (1) ones while that is worth it. */
static mq_status walk(const mq_run *run, trial *t, int step, int *c)
{
    for (int next = *c + step; next >= first_candidate(run) && next < N_CANDIDATES; next += step) {
        if (!t->tried[next]) MQ_TRY(try_candidates(run, t, next, next + 1));
        if (!better(run, t, next, *c)) break;
        *c = next;
    }
    return MQ_OK;
}

/* The usual damping, or where steps that are worth it lead from there; what lies beyond its
 * neighbours is tried only where it can matter. -1: nothing was held out, or nothing could be
 * factored. */
static mq_status choose(const mq_run *run, trial *t, int *c)
{
    *c = USUAL;
    MQ_TRY(try_candidates(run, t, USUAL - 1, USUAL + 2));
    MQ_TRY(walk(run, t, 1, c));
    MQ_TRY(walk(run, t, -1, c));
    double loss = held_out(run, t, *c);
    if (!(loss > 0 && isfinite(loss))) *c = -1;
    return MQ_OK;
}

/* No shrinkage only where that is worth it over all blocks measured so far at this tap: where
 * single blocks decide, the model loses elsewhere what they gain (SmolLM2, best: 3 of 120 taps
 * without, 5 % lost out of domain). */
static int with_the_others(mq_run *run, const trial *t, mq_tap_id tap, int c)
{
    mq_gain *gain = &run->gain_unshrunk[mq_tap_kind(tap)];
    gain->blocks++;
    if (c != UNSHRUNK) return c;
    if (mq_tap_expert(tap) >= 0) return UNSHRUNK + 1; /* few tokens, and no others to go by */
    gain->sum += 1 - held_out(run, t, UNSHRUNK) / held_out(run, t, UNSHRUNK + 1);
    bool agreed = gain->sum >= worth_it[UNSHRUNK] * (double)gain->blocks;
    return agreed ? UNSHRUNK : UNSHRUNK + 1;
}

bool mq_run_measures_damping(const mq_run *run, int64_t block, mq_tap_id tap)
{
    int64_t done = block - run->scheme->first_block;
    bool wide = mq_arch_tap_width(run->arch, block, tap) > run->options->distribute_above;
    bool due = !wide || (done & (done - 1)) == 0 || tap == MQ_TAP_HEAD_IN;
    return run->solver.measure_damping && due;
}

static bool scaling_is_worth_it(const mq_run *run, const trial *t)
{
    return held_out(run, t, SCALED) < (1 - worth_scaling) * held_out(run, t, USUAL);
}

static void take(const mq_run *run, const trial *t, int c, mq_damping_choice *out)
{
    out->damping = candidate(run, c);
    out->scale_columns = scaling_is_worth_it(run, t);
    for (int l = 0; l < run->result->n_layers; l++) {
        int measured = out->scale_columns ? SCALED : c;
        out->half_loss[l] = t->loss[measured][HALF][l];
        out->held_out_loss[l] = t->loss[measured][HELD_OUT][l];
    }
}

static void free_trial(trial *t)
{
    mq_sampled_rows_free(&t->rows);
    mq_sampled_rows_free(&t->scaled_rows);
    mq_free(&t->w2);
    mq_free(&t->column_scale);
    mq_free(&t->errors);
    mq_tap_system_destroy(&t->system);
}

mq_status mq_run_damping(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *half,
                         const mq_hessian *h, mq_damping_choice *out)
{
    trial t = {.h = h, .half = half, .block = block, .tap = tap};
    mq_damping found = run->damping_found[mq_tap_kind(tap)];
    out->damping = found.share > 0 ? found : run->solver.damping;
    bool may_scale = mq_scaled_norm(run->source, run->scheme, block, tap) != NULL;
    out->scale_columns = may_scale && run->scaling_found[mq_tap_kind(tap)];
    for (int l = 0; l < MQ_N_LINEARS; l++) out->half_loss[l] = out->held_out_loss[l] = NAN;
    if (!half || half->n_tokens == 0) return MQ_OK;
    mq_status status = prepare(run, may_scale, &t);
    int best = -1;
    if (status == MQ_OK) status = choose(run, &t, &best);
    if (status == MQ_OK && best >= 0) {
        best = with_the_others(run, &t, tap, best);
        take(run, &t, best, out);
        run->damping_found[mq_tap_kind(tap)] = out->damping;
        if (may_scale) run->scaling_found[mq_tap_kind(tap)] = out->scale_columns;
    }
    free_trial(&t);
    mq_timing_lap(&run->timing, MQ_T_DAMPING);
    if (status != MQ_OK) mq_fail_in(status, "%s", mq_tap_place(block, tap).text);
    return status;
}
