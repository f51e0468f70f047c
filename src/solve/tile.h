#ifndef MQ_SOLVE_TILE_H
#define MQ_SOLVE_TILE_H

#include "solve/solve.h"

/* Private to the solver: the sequential part of LDLQ. A tile is one panel of columns of a block of
 * rows. It goes through in strips of MQ_STRIP rows, transposed so that each step works on MQ_STRIP
 * rows at once and a strip stays in the first-level cache. */

enum { MQ_STRIP = 32 };

typedef struct mq_strip {
    float t[MQ_SOLVE_PANEL][MQ_STRIP]; /* w + feedback so far */
    float w[MQ_SOLVE_PANEL][MQ_STRIP];
    float e[MQ_SOLVE_PANEL][MQ_STRIP]; /* w - w_hat */
    float scale[MQ_SOLVE_PANEL][MQ_STRIP];
    uint8_t zero[MQ_SOLVE_PANEL][MQ_STRIP];
    uint8_t code[MQ_SOLVE_PANEL][MQ_STRIP];
    double loss[MQ_STRIP]; /* running sums over columns */
    double error2[MQ_STRIP];
    double weight2[MQ_STRIP];
} mq_strip;

/** The same for rows that are rounded together (metric.c). */
typedef struct mq_wide_strip {
    float t[MQ_SOLVE_PANEL][MQ_ROW_BLOCK];
    float w[MQ_SOLVE_PANEL][MQ_ROW_BLOCK];
    float e[MQ_SOLVE_PANEL][MQ_ROW_BLOCK];
    float scale[MQ_SOLVE_PANEL][MQ_ROW_BLOCK];
    uint8_t zero[MQ_SOLVE_PANEL][MQ_ROW_BLOCK];
    uint8_t code[MQ_SOLVE_PANEL][MQ_ROW_BLOCK];
} mq_wide_strip;

/** Scratch of one task. */
typedef struct mq_tile {
    float t[MQ_ROW_BLOCK * MQ_SOLVE_PANEL]; /* (128, n) row-major: w + feedback of earlier panels */
    union {
        mq_strip narrow;
        mq_wide_strip wide;
    };
} mq_tile;

/** Columns [k0, k0 + n) of a layer, n <= MQ_SOLVE_PANEL, processing order. */
typedef struct mq_tile_place {
    int64_t k0, n;
    int64_t n_in;            /* columns of the layer */
    const int64_t *order;    /* (n_in) */
    const float *m;          /* rows k0 .. k0 + n of M's panel, (n, n); NULL: no feedback */
    const double *r_squared; /* (n) R_kk^2 */
} mq_tile_place;

/** The calling thread's tile, or NULL. */
mq_tile *mq_tile_scratch(void);

/** t = w. */
void mq_tile_fill(mq_tile *tile, const mq_row_block *block, const mq_tile_place *place);

/** Codes of the tile column by column, the feedback of each going to the columns after it. Fills
 *  the block's codes and e there and adds to its loss, error2 and weight2. */
void mq_tile_quantise(mq_tile *tile, mq_row_block *block, const mq_tile_place *place);

/** Its part for a block with a metric. */
void mq_metric_quantise(mq_tile *tile, mq_row_block *block, const mq_tile_place *place);

#endif
