#ifndef MQ_SOLVE_SOLVE_H
#define MQ_SOLVE_SOLVE_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

/* The solver: pure mathematics on blocks of 128 rows of W. No MPI, no I/O, no file formats; panels
 * of M come through a callback. Grids: w ~ scale * (code - zero), scale on the output format's
 * grid. Symmetric: zero is 2^(bits-1), the scale possibly negative. With zero points: zero is an
 * integer per row and group, the scale positive (a negative one would be the grid of another
 * zero point). */

enum {
    MQ_ROW_BLOCK = 128,   /* rows of W that are solved together */
    MQ_SOLVE_PANEL = 128, /* columns of M asked for at once: MQ_FACTOR_PANEL of linalg */
};

/** How scales are stored; the solver rounds to it before it chooses codes. Short: F16 with 7
 *  significant bits and at most 4352, so that 0 to 15 times a scale is F16 too. Squares
 *  (base/squares.h) are positive, without zero points, and depend on the group. */
typedef enum mq_scale_grid {
    MQ_SCALE_F16,
    MQ_SCALE_F16_SHORT,
    MQ_SCALE_BF16,
    MQ_SCALE_F32,
    MQ_SCALE_SQUARES
} mq_scale_grid;

/** What one linear layer is quantised to. */
typedef struct mq_quant {
    int bits;      /* 2, 3, 4 or 8 */
    int64_t group; /* columns per scale; n_in for one scale a row */
    mq_scale_grid grid;
    bool positive;        /* no negative scales */
    bool zero_points;     /* else symmetric */
    int lowest_zero;      /* the smallest zero point that the output format can hold: 0 or 1 */
    const float *largest; /* MQ_SCALE_SQUARES: (G) largest scales of the layer's groups; borrowed */
} mq_quant;

/** Processing order: descending diagonal, ties by index; dead columns (diagonal 0) last.
 *  order[k] = original column processed k-th. */
void mq_order_columns(const double *diagonal, int64_t n, int64_t *order);

/** Replaces the zeros of a diagonal by the mean of its non-zero entries; returns how many were
 *  dead. All dead: they become 1. Only the diagonal of a dead column changes, its off-diagonal
 *  entries are zero already. */
int64_t mq_revive_dead(double *diagonal, int64_t n);

/** The damping ladder: lambda = factor * mean(diagonal). First the requested value, then the next
 *  larger ones of 0.01, 0.03, 0.1, 0.3, 1. Returns the factor of attempt 0, 1, ... or a negative
 *  number when the ladder ends. */
double mq_damping_factor(double requested, int attempt);

/** range[g] = the largest weight of live columns (weight > 0; of all where those are 0) in group g
 * of a row of w (n_rows, n_in), or what it is already: over all rows of a layer it says how large
 * its scales get. Columns in original order; range (n_in / group). */
void mq_widen_ranges(const float *w, int64_t n_rows, int64_t n_in, const double *weight,
                     int64_t group, double *range);

/** largest (n_groups): of square scales for groups of these ranges, in codes of so many bits. */
void mq_set_largest(const double *range, int64_t n_groups, int bits, float *largest);

/** Scales of one block of rows by search over shrink factors, ranges and both signs, with
 *  quant->zero_points also over zero points; the error is weighted by the Hessian's diagonal.
 *  w (n_rows, n_in) original order, finite; weight (n_in) >= 0 and finite, the scale of both does
 *  not matter; scales (n_rows, G) out, G = n_in / group, on quant->grid, never 0 or inf; zeros
 *  (n_rows, G) out, in [lowest_zero, 2^bits - 1]; NULL when symmetric.
 *  A group of zeros gets the smallest positive scale of the grid and the symmetric zero point. A
 *  group without any weight is searched with equal weights. Equal errors: symmetric before others,
 *  the widest candidate, full range before half a step less, positive before negative. Source:
 *  algorithms.md 3.
 *  Cost: 144 candidates * n_rows * n_in (10-100 ns a weight), 324 with zero points. Serial: the
 *  caller's tasks are row blocks. Errors: MQ_E_INTERNAL for a quant that does not fit n_in or zero
 *  points without room, MQ_E_MEMORY.
 *  Same result for any rank and thread count and any cut into rows: bitwise. */
mq_status mq_search_scales(const float *w, int64_t n_rows, int64_t n_in, const double *weight,
                           const mq_quant *quant, float *scales, uint8_t *zeros);

/** How the errors of the rows of a block add up in what they are an output for: rows of one set
 *  (the rows of one attention head) have the loss tr(A E H E^T) together. Algorithms.md 3. */
typedef struct mq_row_metric {
    int64_t row[MQ_ROW_BLOCK]; /* order in which rows are rounded, sets contiguous */
    int64_t begin[MQ_ROW_BLOCK], end[MQ_ROW_BLOCK]; /* of the set that the i-th of them is in */
    float n[MQ_ROW_BLOCK * MQ_ROW_BLOCK];           /* unit upper factor of A, in that order */
    float ratio[MQ_ROW_BLOCK * MQ_ROW_BLOCK];       /* A_ij / A_jj, likewise */
} mq_row_metric;

/** No row is coupled to another. */
void mq_metric_clear(mq_row_metric *metric);

/** Couples rows [first, first + m): a (m, m) is their A, symmetric, positive semi-definite; damping
 *  is a share of its mean diagonal. Not finite or all zero: they stay uncoupled.
 *  Cost: m^3 / 3 flops. */
void mq_metric_couple(mq_row_metric *metric, int64_t first, int64_t m, const double *a,
                      double damping);

/** One block of 128 rows (zero-padded) of one layer on its way through LDLQ. All row-major, columns
 *  in processing order unless said otherwise. */
typedef struct mq_row_block {
    float *w;             /* (128, n) weights */
    float *e;             /* (128, n) w - w_hat, filled */
    uint8_t *codes;       /* (128, n) unsigned codes, columns in ORIGINAL order, filled */
    const float *scales;  /* (128, G), G = n / quant.group, groups of original columns; the 0 of a
                             padding row counts as 1 */
    const uint8_t *zeros; /* (128, G) zero points; NULL when symmetric */
    const mq_row_metric *metric; /* NULL: rows are rounded one by one */
    mq_quant quant;
    double *loss;    /* (128) sum of (t - w_hat)^2 R_kk^2, filled: e (H + lambda I) e^T */
    double *energy;  /* (128) w (H + lambda I) w^T, filled */
    double *error2;  /* (128) sum of (w - w_hat)^2, filled */
    double *weight2; /* (128) sum of w^2, filled */
} mq_row_block;

/** Gives columns [k0, k1) of M, rows [0, k1), (k1, k1 - k0) f32; valid until the next call. */
typedef mq_status (*mq_panel_source)(void *context, int64_t k0, int64_t k1, const float **m);

/** Quantises all blocks column by column (algorithms.md 2): for each panel of 128 columns one
 *  product with the errors so far, then a sequential part inside the panel. Asks for every panel
 *  once, ascending, also when n_blocks is 0 (panels are collective).
 *  order (n), r_diagonal (n) in processing order. Threads over blocks. After a failure of this
 *  rank's own work it goes on asking for panels, and returns the failure at the end; a failure of
 *  the panel source must be the same on every rank, and is returned at once.
 *  Errors: MQ_E_INTERNAL for a quant that does not fit n or lacks its zero points, MQ_E_MEMORY,
 *  those of the source.
 *  Same result for any rank and thread count: bitwise. Cost: n_rows * n^2 flops, twice. */
mq_status mq_ldlq(mq_row_block *blocks, int64_t n_blocks, int64_t n, const int64_t *order,
                  const double *r_diagonal, mq_panel_source panel, void *context);

/** Moves the rows towards a target: w += B (H + lambda I)^-1, the correction of asymmetric
 *  calibration (algorithms.md 4), from the factor that LDLQ uses. Each block's e holds its rows of
 *  B (128, n) in processing order, divided by any scale that keeps f32 from overflow; pivot (n) =
 *  R_kk^2 divided by the same scale. Fills w; e is undefined afterwards.
 *  Asks for every panel twice, first descending, then ascending, also when n_blocks is 0; failures
 *  as in mq_ldlq. Same result for any rank and thread count: bitwise.
 *  Cost: 2 * n_rows * n^2 flops. Accuracy: f32, relative to the condition of H + lambda I. */
mq_status mq_correct_rows(mq_row_block *blocks, int64_t n_blocks, int64_t n, const double *pivot,
                          mq_panel_source panel, void *context);

/** Round-to-nearest codes for the same blocks, no feedback: the loud last resort. Fills codes, e,
 *  error2 and weight2; loss and energy are set to NaN (no factor to measure with). */
mq_status mq_round_nearest(mq_row_block *blocks, int64_t n_blocks, int64_t n, const int64_t *order);

/** dst (n) = scale * (code - zero) of one row, original order. zeros (G), or NULL when symmetric.
 */
void mq_dequantise_row(const uint8_t *codes, const float *scales, const uint8_t *zeros, int64_t n,
                       const mq_quant *quant, float *dst);

#endif
