/* Cross-validated damping: how much of it serves samples that a layer was not solved on.
 *
 * The Hessian is summed by halves. A sample of the tap's rows is solved on the one with each of a
 * few dampings, and judged by the other. All of them start from the same scales, so that nothing
 * but the damping differs. */
#include "pipeline/row_guard.h"
#include "pipeline/sampled_rows.h"

#include "base/log.h"
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

/* Those that are tried. */
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
    double held_out_energy[MQ_N_LINEARS];
    double loss[N_CANDIDATES][N_PARTS][MQ_N_LINEARS]; /* relative, of the layers */
} trial;

/* The other half, in the order in which the first is processed. */
static void held_out_row(void *context, int64_t i, int64_t j0, int64_t j1, double *out)
{
    const trial *t = context;
    const int64_t *order = t->system.order;
    for (int64_t j = j0; j < j1; j++) {
        out[j - j0] =
            mq_hessian_at(t->h, order[i], order[j]) - mq_hessian_at(t->half, order[i], order[j]);
    }
}

/* sum[l] += x H x^T under the other half over the rows x (errors, or weights) of layer l. */
static mq_status add_held_out(trial *t, int b, const float *x, double *sum)
{
    double loss[MQ_ROW_BLOCK];
    MQ_TRY(mq_quadratic_rows(x, t->system.n, t->system.mean, held_out_row, t, loss));
    for (int64_t r = 0; r < t->rows.n_rows[b]; r++) {
        if (!(loss[r] < 0)) sum[t->rows.layer[b][r]] += loss[r];
    }
    return MQ_OK;
}

static mq_status judge(trial *t, int c)
{
    double half_loss[MQ_N_LINEARS] = {0}, half_energy[MQ_N_LINEARS] = {0};
    double held_out[MQ_N_LINEARS] = {0};
    for (int b = 0; b < t->rows.n_blocks; b++) {
        const mq_row_block *block = &t->rows.block[b];
        mq_row_take_out_damping(&t->system, block);
        for (int64_t r = 0; r < t->rows.n_rows[b]; r++) {
            half_loss[t->rows.layer[b][r]] += block->loss[r];
            half_energy[t->rows.layer[b][r]] += block->energy[r];
        }
        MQ_TRY(add_held_out(t, b, block->e, held_out));
    }
    for (int l = 0; l < MQ_N_LINEARS; l++) {
        double energy = t->held_out_energy[l];
        t->loss[c][HALF][l] = half_energy[l] > 0 ? half_loss[l] / half_energy[l] : 0;
        t->loss[c][HELD_OUT][l] = energy > 0 ? held_out[l] / energy : 0;
    }
    return MQ_OK;
}

/* Infinite losses where the matrix cannot be factored. */
static mq_status try_candidate(const mq_run *run, const mq_comm *comm, trial *t, int c)
{
    mq_tap_system *s = &t->system;
    int64_t minor = 0;
    mq_status status = mq_tap_system_try(run, comm, candidate(run, c), 0, s, &minor);
    if (status == MQ_E_NOT_PD) {
        for (int l = 0; l < MQ_N_LINEARS; l++) t->loss[c][HELD_OUT][l] = INFINITY;
        return MQ_OK;
    }
    if (status == MQ_OK) {
        status = mq_ldlq(t->rows.block, t->rows.n_blocks, s->n, s->order,
                         mq_factor_diagonal(s->factor), mq_tap_system_panel, s);
    }
    if (status == MQ_OK) status = judge(t, c);
    mq_factor_destroy(&s->factor);
    return status;
}

static mq_status prepare(const mq_run *run, int64_t block, trial *t)
{
    MQ_TRY(mq_tap_system_create(run, t->half, &t->system));
    MQ_TRY(mq_sampled_rows_create(run, block, &t->system, &t->rows));
    for (int b = 0; b < t->rows.n_blocks; b++) {
        MQ_TRY(add_held_out(t, b, t->rows.block[b].w, t->held_out_energy));
    }
    return MQ_OK;
}

/* Wide matrices are factored by all ranks together, one candidate after the other; of the narrow
 * ones every rank factors its own. */
static mq_status try_together(const mq_run *run, trial *t)
{
    for (int c = first_candidate(run); c < N_CANDIDATES; c++) {
        MQ_TRY(mq_agree(run->comm, try_candidate(run, run->comm, t, c)));
    }
    return MQ_OK;
}

static mq_status try_own(const mq_run *run, trial *t)
{
    mq_comm *self = NULL;
    mq_status status = mq_comm_create(MPI_COMM_SELF, &self);
    int c = first_candidate(run) + run->comm->rank;
    for (; c < N_CANDIDATES && status == MQ_OK; c += run->comm->size) {
        status = try_candidate(run, self, t, c);
    }
    mq_comm_destroy(&self);
    status = mq_agree(run->comm, status);
    if (status != MQ_OK) return status;
    /* The others hold 0. */
    return mq_sum_f64(run->comm, &t->loss[0][0][0], N_CANDIDATES * N_PARTS * MQ_N_LINEARS);
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

/* The usual damping, or where steps that are worth it lead from there. -1: nothing was held out, or
 * nothing could be factored. */
static int choose(const mq_run *run, const trial *t)
{
    int c = USUAL;
    while (c + 1 < N_CANDIDATES && better(run, t, c + 1, c)) c++;
    while (c > first_candidate(run) && better(run, t, c - 1, c)) c--;
    double loss = held_out(run, t, c);
    return loss > 0 && isfinite(loss) ? c : -1;
}

/* No shrinkage only where two blocks measured, and half of all, speak for it at this tap: where
 * single blocks do, the model lost elsewhere what they gained (SmolLM2, best: 3 of 120 taps
 * without, 5 % lost out of domain). */
static int with_the_others(mq_run *run, mq_tap_id tap, int c)
{
    run->times_measured[tap]++;
    if (c != UNSHRUNK) return c;
    run->times_unshrunk[tap]++;
    bool agreed =
        run->times_measured[tap] > 1 && 2 * run->times_unshrunk[tap] >= run->times_measured[tap];
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
    if (!half) return MQ_OK;
    mq_status status = mq_agree(run->comm, prepare(run, block, &t));
    if (status == MQ_OK) {
        bool wide = h->n > run->options->distribute_above;
        status = wide ? try_together(run, &t) : try_own(run, &t);
    }
    int best = status == MQ_OK ? choose(run, &t) : -1;
    if (best >= 0) {
        best = with_the_others(run, tap, best);
        take(run, &t, best, out);
        run->damping_found[tap] = out->damping;
    }
    mq_sampled_rows_free(&t.rows);
    mq_tap_system_destroy(&t.system);
    mq_timing_lap(&run->timing, MQ_T_DAMPING);
    if (status != MQ_OK) mq_fail_in(status, "%s", mq_tap_place(block, tap).text);
    return status;
}
