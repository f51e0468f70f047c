/* The metric of a layer's outputs, where it follows from the weights that read them. */
#include "pipeline/row_work.h"

#include "base/checked.h"
#include "base/memory.h"
#include "ops/gemm.h"

static const double metric_damping = 0.1;

/* What attention makes of the values is a mean of them, and o multiplies it: the rows of one value
 * head count as sum Wo_h^T Wo_h over the query heads h that share it. Adds that of rows
 * [r0, r0 + m) of the head to a (m, m). */
static mq_status add_value_head(const mq_run *run, int64_t head, int64_t r0, int64_t m, float *g,
                                double *a)
{
    const mq_arch *arch = run->arch;
    const mq_block_weights *weights = run->stream[MQ_QUANTISED].weights;
    int64_t shared = arch->n_heads / arch->n_kv_heads, width = arch->n_heads * arch->head_dim;
    for (int64_t h = head * shared; h < (head + 1) * shared; h++) {
        int64_t column = h * arch->head_dim + r0;
        MQ_TRY(mq_gram_panel(weights->w[MQ_O], weights->dtype, arch->hidden, width, column, m,
                             column, m, g));
        for (int64_t i = 0; i < m * m; i++) a[i] += (double)g[i];
    }
    return MQ_OK;
}

/* Couples those rows of each value head that lie in the block. */
static mq_status couple_values(const mq_run *run, const mq_row_work *w, int64_t i,
                               mq_row_metric *metric)
{
    enum { AREA = MQ_ROW_BLOCK * MQ_ROW_BLOCK };
    int64_t hd = run->arch->head_dim, r0 = w->first_row[i];
    int64_t r1 = mq_min_i64(r0 + MQ_ROW_BLOCK, w->layer[i]->n_out);
    float *g = NULL;
    double *a = NULL;
    mq_status status = mq_alloc(AREA, sizeof *g, "metric of a head", &g);
    if (status == MQ_OK) status = mq_alloc(AREA, sizeof *a, "metric of a head", &a);
    mq_metric_clear(metric);
    for (int64_t r = r0; r < r1 && status == MQ_OK;) {
        int64_t end = mq_min_i64((r / hd + 1) * hd, r1), m = end - r;
        for (int64_t k = 0; k < m * m; k++) a[k] = 0;
        status = add_value_head(run, r / hd, r % hd, m, g, a);
        if (status == MQ_OK) mq_metric_couple(metric, r - r0, m, a, metric_damping);
        r = end;
    }
    mq_free(&g);
    mq_free(&a);
    return status;
}

mq_status mq_row_work_metrics(const mq_run *run, mq_row_work *w)
{
    int64_t n = 0;
    for (int64_t i = 0; i < w->n_blocks; i++) n += w->layer[i]->linear == MQ_V;
    MQ_TRY(mq_alloc(n, sizeof *w->metric, "metrics of heads", &w->metric));
    n = 0;
    for (int64_t i = 0; i < w->n_blocks; i++) {
        if (w->layer[i]->linear != MQ_V) continue;
        MQ_TRY(couple_values(run, w, i, &w->metric[n]));
        w->block[i].metric = &w->metric[n++];
    }
    return MQ_OK;
}
