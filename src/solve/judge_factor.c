#include "base/checked.h"
#include "base/memory.h"
#include "solve/judge.h"

#include <inttypes.h>

/* The parts of the layer's factor that belong to each group's columns. */

/* order as in a judge: the group's columns as `columns` has them. filled (n_groups) is storage. */
static void order_in_groups(int64_t n, int64_t group, const int64_t *columns, int64_t *filled,
                            int32_t *order)
{
    for (int64_t g = 0; g < n / group; g++) filled[g] = 0;
    for (int64_t k = 0; k < n; k++) {
        int64_t g = columns[k] / group;
        order[g * group + filled[g]++] = (int32_t)(columns[k] % group);
    }
}

static mq_status check_groups(int64_t n, int64_t group)
{
    if (n > 0 && group > 0 && n % group == 0) return MQ_OK;
    return mq_fail(MQ_E_INTERNAL,
                   "solver: groups of %" PRId64 " columns do not divide %" PRId64 " columns", group,
                   n);
}

/* Where the columns of the groups are in the whole factor. */
typedef struct gathered {
    int64_t group;
    const int64_t *columns;
    int64_t *seen;  /* (n_groups) columns of each group so far */
    int64_t *place; /* (n) their processing positions, group by group */
    float *m;
    double *r2;
} gathered;

/* Columns [k0, k1) of M into the rows of the groups' blocks. */
static void gather_panel(const gathered *p, const float *panel, int64_t k0, int64_t k1,
                         const double *r_diagonal)
{
    for (int64_t k = k0; k < k1; k++) {
        int64_t first = p->columns[k] / p->group, c = p->seen[first]++;
        first *= p->group;
        int64_t *at = p->place + first;
        float *row = p->m + (first + c) * p->group;
        at[c] = k;
        p->r2[first + c] = r_diagonal[k] * r_diagonal[k];
        for (int64_t j = 0; j <= c; j++) row[j] = panel[at[j] * (k1 - k0) + k - k0];
        for (int64_t j = c + 1; j < p->group; j++) row[j] = 0;
    }
}

/* Storage for the walk, and order. */
static mq_status start_gathering(gathered *p, int64_t n, int32_t *order)
{
    MQ_TRY(check_groups(n, p->group));
    int64_t n_groups = n / p->group;
    MQ_TRY(mq_alloc(n_groups + n, sizeof *p->seen, "columns of groups", &p->seen));
    p->place = p->seen + n_groups;
    order_in_groups(n, p->group, p->columns, p->seen, order);
    for (int64_t g = 0; g < n_groups; g++) p->seen[g] = 0;
    return MQ_OK;
}

mq_status mq_gather_groups(int64_t n, int64_t group, const int64_t *columns,
                           const double *r_diagonal, mq_panel_source panel, void *context,
                           int32_t *order, float *m, double *r2)
{
    /* Panels are collective: a failure of this rank's own work must not stop it asking. */
    gathered p = {.group = group, .columns = columns, .m = m, .r2 = r2};
    mq_status own = start_gathering(&p, n, order), status = MQ_OK;
    for (int64_t k0 = 0; k0 < n && status == MQ_OK; k0 += MQ_SOLVE_PANEL) {
        int64_t k1 = mq_min_i64(k0 + MQ_SOLVE_PANEL, n);
        const float *block = NULL;
        status = panel(context, k0, k1, &block);
        if (own == MQ_OK && status == MQ_OK) gather_panel(&p, block, k0, k1, r_diagonal);
    }
    mq_free(&p.seen);
    return status != MQ_OK ? status : own;
}
