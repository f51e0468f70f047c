#ifndef MQ_PIPELINE_TAP_SYSTEM_H
#define MQ_PIPELINE_TAP_SYSTEM_H

#include "linalg/factor.h"
#include "pipeline/run.h"

/* The linear system that all layers of a tap share: the Hessian in processing order, damped and
 * factored.
 *
 * Its columns may be scaled by powers of two s_j (column_scales.h): the layers then have the
 * weights W diag(1/s) and the Hessian diag(s) H diag(s). No second factorisation: H = M P M^T
 * becomes (S M S^-1)(S P S)(S M S^-1)^T, exactly. */

/** What is wrong with a Hessian, as the report names it. */
typedef enum mq_trouble {
    MQ_TROUBLE_NONE,
    MQ_TROUBLE_RANK,       /* fewer tokens than columns: singular whatever their values */
    MQ_TROUBLE_NUMERICAL,  /* not positive definite at the damping asked for, for all its tokens */
    MQ_TROUBLE_NOT_FINITE, /* all samples were left out */
} mq_trouble;

const char *mq_trouble_name(mq_trouble trouble);

typedef struct mq_tap_system {
    const mq_hessian *h;
    int64_t n;
    int64_t *order, *original; /* (n) processing order, and 0, 1, 2 ... */
    bool scaled;               /* its columns are */
    double *scale;             /* s_j, original order; all 1 otherwise */
    double *diagonal; /* of H, scaled, original order: 0 for dead columns; weights of the scale
                         search */
    double *added; /* scaled: what shrinkage, damping and, for dead columns, the mean of the others
                      add to it before it is factored; original order */
    double mean;   /* of the unscaled diagonal's live columns; 1 when all are dead */
    int64_t n_dead;
    mq_damping damping; /* that succeeded; NaN when none did */
    int attempts;
    mq_trouble trouble;
    mq_factor *factor; /* NULL when no damping made the matrix positive definite */
    double *r;         /* (n) its diagonal, scaled, processing order; there when the factor is */
    float *panel;      /* (n, MQ_FACTOR_PANEL) */
    double *rows;      /* (MQ_FACTOR_PANEL, n) */
} mq_tap_system;

/** Order, as the run's settings say, and diagonal; the groups are those of the first layer in
 *  run->result. h must outlive the system. Not collective. Errors: MQ_E_MEMORY. */
mq_status mq_tap_system_create(const mq_run *run, const mq_hessian *h, mq_tap_system *system);
void mq_tap_system_destroy(mq_tap_system *system);

/** Scales the columns of a factored system by powers of two (n, original order), or undoes that
 *  (NULL), exactly; what was done before does not matter. Not collective. */
void mq_tap_system_scale(mq_tap_system *system, const float *column_scale);

/** to (n) = a row of weights in original order, scaled and in processing order. */
void mq_tap_system_gather(const mq_tap_system *system, const float *row, float *to);

/** out (k1 - k0, n) f32: rows [k0, k1) of H in original order, MQ_FACTOR_PANEL at most, divided by
 *  the mean of the diagonal, so that nothing leaves f32. Without damping, not scaled. Not
 *  collective. Threads. */
mq_status mq_tap_system_rows(mq_tap_system *system, int64_t k0, int64_t k1, float *out);

/** Entries [i0, i1) x [j0, j1), in the system's order, of all less the system's Hessian: of the
 * other half where the system is of one half and `all` of both. out (i1 - i0, j1 - j0), at most
 *  MQ_FACTOR_PANEL rows. Not collective. */
mq_status mq_tap_system_others(const mq_tap_system *system, const mq_hessian *all, int64_t i0,
                               int64_t i1, int64_t j0, int64_t j1, double *out);

/** One attempt: factors with this damping. Collective on comm; root and distributed as in
 * mq_factor_create. Errors: those of mq_factor_create. */
mq_status mq_tap_system_try(const mq_run *run, const mq_comm *comm, mq_damping damping, int root,
                            mq_tap_system *system, int64_t *minor);

/** Climbs the damping ladder from damping.share until the matrix factors, each time from the intact
 * H. Leaves no factor when there are no tokens, or when the ladder ends and the run is to go on.
 * Collective. Errors: those of mq_factor_create but MQ_E_NOT_PD; MQ_E_NUMERIC when the ladder ends.
 */
mq_status mq_tap_system_factor(const mq_run *run, int64_t block, mq_tap_id tap, mq_damping damping,
                               mq_tap_system *system);

/** The panel source of the solver (mq_panel_source); context is the system. Collective. */
mq_status mq_tap_system_panel(void *system, int64_t k0, int64_t k1, const float **m);

#endif
