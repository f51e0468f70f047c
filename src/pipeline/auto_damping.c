/* Cross-validated damping: how much of it serves samples that a layer was not solved on.
 *
 * The Hessian is summed by halves. A sample of the tap's rows is solved on the one with each of a
 * few dampings, and judged by the other. All of them start from the same scales, so that nothing
 * but the damping differs. */
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

/* What a rank tries on its own and what all have found, by candidate. */
typedef struct trial {
    const mq_hessian *h, *half;
    mq_tap_system system; /* of the half */
    mq_sampled_rows rows;
    float *errors; /* (N_CANDIDATES, blocks of rows, MQ_ROW_BLOCK, n) */
    double held_out_energy[MQ_N_LINEARS];
    bool weighed;                                     /* the energies are there */
    double loss[N_CANDIDATES][N_PARTS][MQ_N_LINEARS]; /* relative, of the layers */
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
    const float *x[(N_CANDIDATES + 1) * MQ_N_LINEARS]; /* (MQ_ROW_BLOCK, n) each */
    double *sum[(N_CANDIDATES + 1) * MQ_N_LINEARS];    /* by layer: x H x^T is added */
    int block[(N_CANDIDATES + 1) * MQ_N_LINEARS];
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

/* Of all layers with candidate c, under the half that they were solved on. */
static void measure_half(trial *t, int c)
{
    double loss[MQ_N_LINEARS] = {0}, energy[MQ_N_LINEARS] = {0};
    for (int b = 0; b < t->rows.n_blocks; b++) {
        const mq_row_block *block = &t->rows.block[b];
        mq_row_take_out_damping(&t->system, block);
        for (int64_t r = 0; r < t->rows.n_rows[b]; r++) {
            loss[t->rows.layer[b][r]] += block->loss[r];
            energy[t->rows.layer[b][r]] += block->energy[r];
        }
    }
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        t->loss[c][HALF][l] = energy[l] > 0 ? loss[l] / energy[l] : 0;
    }
}

/* Errors and loss on the half. *solved: false where the matrix cannot be factored. */
static mq_status solve(const mq_run *run, const mq_comm *comm, trial *t, int c, bool *solved)
{
    mq_tap_system *s = &t->system;
    int64_t minor = 0;
    mq_status status = mq_tap_system_try(run, comm, candidate(run, c), 0, s, &minor);
    *solved = status != MQ_E_NOT_PD;
    if (status == MQ_E_NOT_PD) return MQ_OK;
    for (int b = 0; b < t->rows.n_blocks; b++) t->rows.block[b].e = errors_of(t, c, b);
    if (status == MQ_OK) {
        status = mq_ldlq(t->rows.block, t->rows.n_blocks, s->n, s->order,
                         mq_factor_diagonal(s->factor), mq_tap_system_panel, s);
    }
    if (status == MQ_OK) measure_half(t, c);
    mq_factor_destroy(&s->factor);
    return status;
}

/* Candidates begin, begin + step ... below end. Infinite losses where the matrix cannot be
 * factored. */
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
        for (int l = 0; l < MQ_N_LINEARS; l++) t->loss[c][HELD_OUT][l] = solved ? 0 : INFINITY;
        for (int b = 0; b < t->rows.n_blocks && solved; b++) {
            add_rows(&list, b, errors_of(t, c, b), t->loss[c][HELD_OUT]);
        }
    }
    MQ_TRY(judge(t, &list));
    for (int c = begin; c < end; c += step) {
        for (int l = 0; l < MQ_N_LINEARS; l++) {
            double energy = t->held_out_energy[l], *loss = &t->loss[c][HELD_OUT][l];
            if (isfinite(*loss)) *loss = energy > 0 ? *loss / energy : 0;
        }
    }
    return MQ_OK;
}

static mq_status prepare(const mq_run *run, int64_t block, trial *t)
{
    MQ_TRY(mq_tap_system_create(run, t->half, &t->system));
    MQ_TRY(mq_sampled_rows_create(run, block, &t->system, &t->rows));
    return mq_alloc((int64_t)N_CANDIDATES * t->rows.n_blocks * MQ_ROW_BLOCK,
                    (size_t)t->system.n * sizeof *t->errors, "errors of sampled rows", &t->errors);
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

/* No shrinkage only where two blocks, and half of all measured, speak for it at this tap: where
 * single blocks do, the model lost elsewhere what they gained (SmolLM2, best: 3 of 120 taps
 * without, 5 % lost out of domain). */
static int with_the_others(mq_run *run, mq_tap_id tap, int c)
{
    run->times_measured[tap]++;
    if (c != UNSHRUNK) return c;
    run->times_unshrunk[tap]++;
    bool agreed =
        run->times_unshrunk[tap] > 1 && 2 * run->times_unshrunk[tap] >= run->times_measured[tap];
    return agreed ? UNSHRUNK : UNSHRUNK + 1;
}

bool mq_run_measures_damping(const mq_run *run, int64_t block, mq_tap_id tap)
{
    int64_t done = block - run->scheme->first_block;
    bool wide = mq_arch_tap_width(run->arch, tap) > run->options->distribute_above;
    bool due = !wide || (done & (done - 1)) == 0 || tap == MQ_TAP_HEAD_IN;
    return run->solver.measure_damping && due;
}

static void take(const mq_run *run, const trial *t, int c, mq_damping_choice *out)
{
    out->damping = candidate(run, c);
    for (int l = 0; l < run->result->n_layers; l++) {
        out->half_loss[l] = t->loss[c][HALF][l];
        out->held_out_loss[l] = t->loss[c][HELD_OUT][l];
    }
}

mq_status mq_run_damping(mq_run *run, int64_t block, mq_tap_id tap, const mq_hessian *half,
                         const mq_hessian *h, mq_damping_choice *out)
{
    trial t = {.h = h, .half = half};
    mq_damping found = run->damping_found[tap];
    out->damping = found.share > 0 ? found : run->solver.damping;
    for (int l = 0; l < MQ_N_LINEARS; l++) out->half_loss[l] = out->held_out_loss[l] = NAN;
    if (!half || half->n_tokens == 0) return MQ_OK;
    mq_status status = mq_agree(run->comm, prepare(run, block, &t));
    int best = -1;
    if (status == MQ_OK) status = choose(run, &t, &best);
    if (status == MQ_OK && best >= 0) {
        best = with_the_others(run, tap, best);
        take(run, &t, best, out);
        run->damping_found[tap] = out->damping;
    }
    mq_sampled_rows_free(&t.rows);
    mq_free(&t.errors);
    mq_tap_system_destroy(&t.system);
    mq_timing_lap(&run->timing, MQ_T_DAMPING);
    if (status != MQ_OK) mq_fail_in(status, "%s", mq_tap_place(block, tap).text);
    return status;
}
