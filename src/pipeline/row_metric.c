/* The metric of a layer's outputs, where it follows from what reads them: v, q and k. */
#include "pipeline/head_moments.h"
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

/* Rows of q and k count by what they meet in the scores (head_moments.c). Rows [r0, r0 + m) of the
 * head; a (m, m). */
static mq_status take_head(const mq_run *run, const mq_head_moments *moments, mq_linear_id linear,
                           int64_t head, int64_t r0, int64_t m, double *a)
{
    int64_t hd = run->arch->head_dim;
    double *whole = NULL;
    mq_status status = mq_alloc(hd * hd, sizeof *whole, "metric of a head", &whole);
    if (status == MQ_OK) status = mq_head_metric(run, moments, linear, head, whole);
    for (int64_t i = 0; i < m && status == MQ_OK; i++) {
        for (int64_t j = 0; j < m; j++) a[i * m + j] = whole[(r0 + i) * hd + r0 + j];
    }
    mq_free(&whole);
    return status;
}

/* What the metrics of a block's heads are made with. */
typedef struct metric_source {
    const mq_run *run;
    const mq_head_moments *moments;
    mq_linear_id layer;
    float *g;  /* (MQ_ROW_BLOCK, MQ_ROW_BLOCK) storage */
    double *a; /* likewise */
} metric_source;

/* What the head of a layer is one of, and its number there: a layer may hold q, k and v. */
static mq_linear_id kind_of(const mq_arch *arch, mq_linear_id layer, int64_t *head)
{
    if (layer != MQ_Q || !arch->fused_qkv || *head < arch->n_heads) return layer;
    *head -= arch->n_heads;
    if (*head < arch->n_kv_heads) return MQ_K;
    *head -= arch->n_kv_heads;
    return MQ_V;
}

/* Whether the head of a layer is one of gates, between those of q, which are then numbered anew. */
static bool is_gate(const mq_arch *arch, mq_linear_id layer, int64_t *head)
{
    if (layer != MQ_Q || !arch->attention_gate) return false;
    bool gate = *head % 2 == 1;
    *head /= 2;
    return gate;
}

static mq_status couple_head(const metric_source *s, int64_t head, int64_t r0, int64_t m,
                             int64_t first, mq_row_metric *metric)
{
    if (is_gate(s->run->arch, s->layer, &head)) return MQ_OK;
    mq_linear_id linear = kind_of(s->run->arch, s->layer, &head);
    for (int64_t k = 0; k < m * m; k++) s->a[k] = 0;
    if (linear != MQ_V && !s->moments->query) return MQ_OK;
    if (linear == MQ_V) {
        MQ_TRY(add_value_head(s->run, head, r0, m, s->g, s->a));
    } else {
        MQ_TRY(take_head(s->run, s->moments, linear, head, r0, m, s->a));
    }
    mq_metric_couple(metric, first, m, s->a, metric_damping);
    return MQ_OK;
}

/* Couples those rows of each head that lie in the block. */
static mq_status couple_rows(const mq_run *run, const mq_head_moments *moments,
                             const mq_row_work *w, int64_t i, mq_row_metric *metric)
{
    enum { AREA = MQ_ROW_BLOCK * MQ_ROW_BLOCK };
    metric_source s = {.run = run, .moments = moments, .layer = w->layer[i]->linear};
    int64_t hd = run->arch->head_dim, r0 = w->first_row[i];
    int64_t r1 = mq_min_i64(r0 + MQ_ROW_BLOCK, w->layer[i]->n_out);
    mq_status status = mq_alloc(AREA, sizeof *s.g, "metric of a head", &s.g);
    if (status == MQ_OK) status = mq_alloc(AREA, sizeof *s.a, "metric of a head", &s.a);
    mq_metric_clear(metric);
    for (int64_t r = r0; r < r1 && status == MQ_OK;) {
        int64_t end = mq_min_i64((r / hd + 1) * hd, r1);
        status = couple_head(&s, r / hd, r % hd, end - r, r - r0, metric);
        r = end;
    }
    mq_free(&s.g);
    mq_free(&s.a);
    return status;
}

static bool has_metric(const mq_run *run, const mq_head_moments *moments, const mq_row_work *w,
                       int64_t i)
{
    mq_linear_id linear = w->layer[i]->linear;
    if (linear == MQ_Q && run->arch->fused_qkv) return true;
    return linear == MQ_V || (moments->query && (linear == MQ_Q || linear == MQ_K));
}

mq_status mq_row_work_metrics(const mq_run *run, const mq_head_moments *moments, mq_row_work *w)
{
    int64_t n = 0;
    for (int64_t i = 0; i < w->n_blocks; i++) n += has_metric(run, moments, w, i);
    MQ_TRY(mq_alloc(n, sizeof *w->metric, "metrics of heads", &w->metric));
    n = 0;
    for (int64_t i = 0; i < w->n_blocks; i++) {
        if (!has_metric(run, moments, w, i)) continue;
        MQ_TRY(couple_rows(run, moments, w, i, &w->metric[n]));
        w->block[i].metric = &w->metric[n++];
    }
    return MQ_OK;
}
