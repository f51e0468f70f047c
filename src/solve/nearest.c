#include "base/checked.h"
#include "base/parallel.h"
#include "solve/grid.h"
#include "solve/tile.h"

#include <math.h>

/* Round to nearest, and the way back from codes to weights. */

typedef struct walk {
    mq_row_block *blocks;
    int64_t n;
    const int64_t *order;
} walk;

static mq_status round_task(void *context, int64_t b)
{
    static const double no_factor[MQ_SOLVE_PANEL] = {0};
    const walk *p = context;
    mq_row_block *block = &p->blocks[b];
    mq_tile *tile = mq_tile_scratch();
    if (!tile) return mq_fail(MQ_E_MEMORY, "no memory for a tile of the solver");
    MQ_TRY(mq_check_quant(&block->quant, p->n));
    MQ_TRY(mq_check_zeros(&block->quant, block->zeros));
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++)
        block->loss[r] = block->error2[r] = block->weight2[r] = 0;
    for (int64_t k0 = 0; k0 < p->n; k0 += MQ_SOLVE_PANEL) {
        mq_tile_place place = {.k0 = k0,
                               .n = mq_min_i64(MQ_SOLVE_PANEL, p->n - k0),
                               .n_in = p->n,
                               .order = p->order,
                               .r_squared = no_factor};
        mq_tile_fill(tile, block, &place);
        mq_tile_quantise(tile, block, &place);
    }
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) block->loss[r] = block->energy[r] = (double)NAN;
    return MQ_OK;
}

mq_status mq_round_nearest(mq_row_block *blocks, int64_t n_blocks, int64_t n, const int64_t *order)
{
    walk p = {.blocks = blocks, .n = n, .order = order};
    return mq_parallel_for(n_blocks, round_task, &p);
}

void mq_dequantise_row(const uint8_t *codes, const float *scales, const uint8_t *zeros, int64_t n,
                       const mq_quant *quant, float *dst)
{
    for (int64_t g = 0; g < n / quant->group; g++) {
        int zero = zeros ? zeros[g] : 1 << (quant->bits - 1);
        for (int64_t j = g * quant->group; j < (g + 1) * quant->group; j++) {
            dst[j] = scales[g] * (float)(codes[j] - zero);
        }
    }
}
