#include "pipeline/expert_tasks.h"

#include "base/log.h"
#include "base/memory.h"
#include "par/collectives.h"
#include "pipeline/sampled_drift.h"

#include <string.h>

/* What is summed over all ranks of a tap. */
typedef struct sums {
    mq_hessian *half, *h;
    mq_cross *cross;
} sums;

static void sums_free(sums *s)
{
    mq_hessian_destroy(&s->half);
    mq_hessian_destroy(&s->h);
    mq_cross_destroy(&s->cross);
}

struct mq_expert_tasks {
    mq_comm *self;
    mq_tap_result *result; /* of the expert that this rank solves */
    mq_report *report;     /* the same */
    sums all;              /* of what the block's experts on all tokens read, which is the same */
    int64_t block;         /* that these are of, where there are any */
};

/* What a rank needs to solve an expert alone. */
typedef struct task {
    mq_tap_id tap;
    bool on_all; /* its sums are those in mq_expert_tasks; else its own */
    sums own;
    mq_sampled_drift drift;   /* that alpha is measured by */
    int64_t samples_left_out; /* of these sums */
    char *warnings;           /* that came up on the way, a line each; NULL: none */
} task;

static void task_free(task *t)
{
    sums_free(&t->own);
    mq_sampled_drift_free(&t->drift);
    mq_free(&t->warnings);
}

static sums *sums_of(const mq_run *run, task *t)
{
    return t->on_all ? &run->tasks->all : &t->own;
}

/* ---- room ----------------------------------------------------------------------------------- */

mq_status mq_expert_tasks_create(mq_run *run)
{
    if (run->arch->moe.routing.n_experts == 0) return MQ_OK;
    mq_status status = mq_alloc(1, sizeof *run->tasks, "solver of experts", &run->tasks);
    struct mq_expert_tasks *tasks = run->tasks;
    if (status == MQ_OK) status = mq_comm_create(MPI_COMM_SELF, &tasks->self);
    if (status == MQ_OK) {
        status = mq_tap_result_create_for_experts(tasks->self, run->scheme, &tasks->result);
    }
    if (status == MQ_OK) status = mq_report_create(MQ_EXPERT_LINEARS, &tasks->report);
    return mq_agree(run->comm, status);
}

void mq_expert_tasks_destroy(mq_run *run)
{
    if (!run->tasks) return;
    sums_free(&run->tasks->all);
    mq_tap_result_destroy(&run->tasks->result);
    mq_report_destroy(&run->tasks->report);
    mq_comm_destroy(&run->tasks->self);
    mq_free(&run->tasks);
}

bool mq_experts_are_wide(const mq_run *run, int64_t block)
{
    int64_t in = mq_arch_tap_width(run->arch, block, mq_expert_tap(0, false));
    int64_t mid = mq_arch_tap_width(run->arch, block, mq_expert_tap(0, true));
    return (in > mid ? in : mid) > run->options->distribute_above;
}

/* ---- sums over all ranks --------------------------------------------------------------------- */

static mq_status sum_up(mq_run *run, int64_t block, task *t)
{
    bool halves = mq_run_measures_damping(run, block, t->tap);
    t->on_all = !mq_tap_is_expert_mid(t->tap) && run->experts->all_tokens;
    sums *s = sums_of(run, t);
    bool there = s->h != NULL;
    if (!there) MQ_TRY(mq_run_hessian(run, block, t->tap, halves ? &s->half : NULL, &s->h));
    MQ_TRY(mq_run_drift(run, t->tap));
    MQ_TRY(mq_run_alpha_drift(run, block, t->tap, s->half, s->h, &t->drift));
    t->samples_left_out = run->samples_left_out;
    return there ? MQ_OK : mq_run_cross(run, block, t->tap, s->h, &s->cross);
}

/* Every rank holds the sums; `mine` gets them on the one that solves the expert. */
static mq_status sum_expert(mq_run *run, int64_t block, mq_tap_id tap, bool is_mine, task *mine)
{
    task t = {.tap = tap};
    MQ_TRY(mq_run_produce(run, tap));
    mq_status status =
        mq_agree(run->comm, mq_tap_result_bind(run->result, run->scheme, block, tap));
    if (status == MQ_OK && run->result->n_layers > 0) status = sum_up(run, block, &t);
    mq_experts_release(run, tap);
    if (status == MQ_OK && is_mine) {
        *mine = t;
    } else {
        task_free(&t);
    }
    return status;
}

/* ---- alone ---------------------------------------------------------------------------------- */

/* The run as it is for one expert: on this rank, and as if it were the first. */
static mq_run run_alone(const mq_run *run)
{
    mq_run alone = *run;
    alone.comm = run->tasks->self;
    alone.result = run->tasks->result;
    alone.report = run->tasks->report;
    alone.report->n_layers = 0;
    memset(alone.damping_found, 0, sizeof alone.damping_found);
    memset(alone.scaling_found, 0, sizeof alone.scaling_found);
    memset(alone.gain_unshrunk, 0, sizeof alone.gain_unshrunk);
    for (int l = 0; l <= MQ_HEAD; l++) alone.alpha[l] = run->solver.alpha;
    return alone;
}

static mq_status solve_steps(mq_run *alone, int64_t block, task *t)
{
    mq_damping_choice damping;
    const sums *s = sums_of(alone, t);
    MQ_TRY(mq_tap_result_bind(alone->result, alone->scheme, block, t->tap));
    MQ_TRY(mq_run_find_ranges(alone, block, s->h));
    MQ_TRY(mq_run_damping(alone, block, t->tap, s->half, s->h, &damping));
    MQ_TRY(mq_run_alpha_from(alone, block, t->tap, s->half, s->h, damping.damping, &t->drift));
    return mq_run_solve(alone, block, t->tap, s->h, &damping, s->cross);
}

static mq_status solve_alone(mq_run *run, int64_t block, task *t)
{
    if (!sums_of(run, t)->h) return MQ_OK; /* none to solve */
    mq_run alone = run_alone(run);
    alone.samples_left_out = t->samples_left_out;
    mq_warnings_divert(run->comm->rank != 0);
    mq_status status = solve_steps(&alone, block, t);
    mq_status kept = mq_warnings_take(&t->warnings);
    mq_warnings_divert(false);
    run->timing = alone.timing;
    return status != MQ_OK ? status : kept;
}

/* ---- taken over by all ----------------------------------------------------------------------- */

/* A rank's warnings belong into the log of the first. */
static mq_status share_warnings(const mq_run *run, int owner, char **text)
{
    int64_t any = *text != NULL;
    MQ_TRY(mq_sum_i64(run->comm, &any, 1));
    if (any == 0) return MQ_OK;
    MQ_TRY(mq_bcast_text(run->comm, text, owner));
    for (char *line = *text, *next = NULL; line && run->comm->rank == 0 && owner != 0;
         line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        mq_warn("%s", line);
    }
    mq_free(text);
    return MQ_OK;
}

static mq_status share_report(mq_run *run, int owner)
{
    mq_layer_result layers[MQ_EXPERT_LINEARS];
    int n = run->result->n_layers;
    size_t bytes = (size_t)n * sizeof *layers;
    memset(layers, 0, sizeof layers);
    if (run->comm->rank == owner) memcpy(layers, run->tasks->report->layer, bytes);
    MQ_TRY(mq_bcast(run->comm, layers, bytes, owner));
    for (int l = 0; l < n; l++) MQ_TRY(mq_report_add(run->report, &layers[l]));
    return MQ_OK;
}

static mq_status take_over(mq_run *run, int64_t block, mq_tap_id tap, int owner, task *t)
{
    const mq_tap_result *mine = run->comm->rank == owner ? run->tasks->result : NULL;
    MQ_TRY(mq_agree(run->comm, mq_tap_result_bind(run->result, run->scheme, block, tap)));
    if (run->result->n_layers == 0) return MQ_OK;
    MQ_TRY(mq_tap_result_publish_from(run->comm, run->result, mine, owner));
    mq_timing_lap(&run->timing, MQ_T_LDLQ);
    MQ_TRY(mq_agree(run->comm, share_report(run, owner)));
    MQ_TRY(share_warnings(run, owner, &t->warnings));
    MQ_TRY(mq_run_replace_weights(run));
    return mq_run_write_layers(run, block);
}

static mq_status run_batch(mq_run *run, int64_t block, int64_t first, int64_t n, bool mid,
                           task *mine)
{
    for (int64_t i = 0; i < n; i++) {
        mq_experts_take(run, block, first + i, mid);
        mq_tap_id tap = mq_expert_tap(first + i, mid);
        MQ_TRY(sum_expert(run, block, tap, i == run->comm->rank, mine));
    }
    mq_status status = mq_agree(run->comm, solve_alone(run, block, mine));
    for (int64_t i = 0; i < n && status == MQ_OK; i++) {
        task none = {.warnings = NULL};
        bool is_mine = i == run->comm->rank;
        status =
            take_over(run, block, mq_expert_tap(first + i, mid), (int)i, is_mine ? mine : &none);
    }
    return status;
}

mq_status mq_quantise_experts(mq_run *run, int64_t block, int64_t first, int64_t n, bool mid,
                              void *none)
{
    task mine = {.warnings = NULL};
    (void)none;
    if (mid || block != run->tasks->block) sums_free(&run->tasks->all);
    run->tasks->block = block;
    mq_status status = run_batch(run, block, first, n, mid, &mine);
    task_free(&mine);
    return status;
}
