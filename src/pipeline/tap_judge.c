#include "pipeline/tap_judge.h"

#include "base/memory.h"
#include "par/collectives.h"

/* Of 144 candidates. All of them cost three times as much, and the divergence did not fall further
 * (demo model, 3 bits). */
enum { N_JUDGED = 16 };

void mq_tap_judge_free(mq_tap_judge *judge)
{
    for (int i = 0; i < judge->n_sizes; i++) {
        mq_free(&judge->m[i]);
        mq_free(&judge->r2[i]);
        mq_free(&judge->order[i]);
    }
    judge->n_sizes = 0;
}

const mq_group_judge *mq_tap_judge_for(const mq_tap_judge *judge, int64_t group)
{
    for (int i = 0; i < judge->n_sizes; i++) {
        if (judge->group[i] == group) return &judge->judge[i];
    }
    return NULL;
}

static mq_status add_size(int64_t n, int64_t group, mq_tap_judge *judge)
{
    int i = judge->n_sizes++;
    judge->group[i] = group;
    MQ_TRY(mq_alloc(n, (size_t)group * sizeof *judge->m[i], "judge of scales", &judge->m[i]));
    MQ_TRY(mq_alloc(n, sizeof *judge->r2[i], "judge of scales", &judge->r2[i]));
    MQ_TRY(mq_alloc(n, sizeof *judge->order[i], "judge of scales", &judge->order[i]));
    judge->judge[i] = (mq_group_judge){
        .n_keep = N_JUDGED, .order = judge->order[i], .m = judge->m[i], .r2 = judge->r2[i]};
    return MQ_OK;
}

static mq_status add_sizes(const mq_run *run, const mq_tap_system *s, mq_tap_judge *judge)
{
    const mq_tap_result *result = run->result;
    if (!run->solver.judge || !s->factor) return MQ_OK;
    for (int l = 0; l < result->n_layers; l++) {
        int64_t group = result->layer[l].quant.group;
        if (group > MQ_JUDGE_GROUP || mq_tap_judge_for(judge, group)) continue;
        MQ_TRY(add_size(s->n, group, judge));
    }
    return MQ_OK;
}

/* What stands in dead columns must not decide about a scale. */
static void leave_out_dead(const mq_tap_system *s, int64_t group, const int32_t *order, double *r2)
{
    for (int64_t k = 0; k < s->n; k++) {
        if (s->diagonal[k / group * group + order[k]] == 0) r2[k] = 0;
    }
}

mq_status mq_tap_judge_create(const mq_run *run, mq_tap_system *s, mq_tap_judge *judge)
{
    mq_status status = mq_agree(run->comm, add_sizes(run, s, judge));
    for (int i = 0; i < judge->n_sizes && status == MQ_OK; i++) {
        int64_t group = judge->group[i];
        int32_t *order = judge->order[i];
        double *r2 = judge->r2[i];
        const double *diagonal = s->r;
        status = mq_gather_groups(s->n, group, s->order, diagonal, mq_tap_system_panel, s, order,
                                  judge->m[i], r2);
        status = mq_agree(run->comm, status);
        if (status == MQ_OK) leave_out_dead(s, group, order, r2);
    }
    return status;
}
