#include "solve/tile.h"

#include "base/parallel.h"
#include "ops/ops.h"
#include "solve/grid.h"
#include "solve/simd.h"

#include <string.h>

enum { SCRATCH_SLOT = MQ_OPS_FIRST_SCRATCH - 1 };

mq_tile *mq_tile_scratch(void)
{
    return mq_scratch(SCRATCH_SLOT, sizeof(mq_tile));
}

void mq_tile_fill(mq_tile *tile, const mq_row_block *block, const mq_tile_place *place)
{
    for (int64_t r = 0; r < MQ_ROW_BLOCK; r++) {
        memcpy(tile->t + r * place->n, block->w + r * place->n_in + place->k0,
               (size_t)place->n * sizeof(float));
    }
}

/* Rows [r0, r0 + MQ_STRIP) of the tile. */
static void load_strip(mq_strip *s, const mq_row_block *block, const mq_tile_place *place,
                       const float *t, int64_t r0)
{
    int64_t n_groups = place->n_in / block->quant.group;
    for (int64_t l = 0; l < MQ_STRIP; l++) {
        const float *w = block->w + (r0 + l) * place->n_in + place->k0;
        const float *from = t + (r0 + l) * place->n;
        const float *scales = block->scales + (r0 + l) * n_groups;
        for (int64_t k = 0; k < place->n; k++) {
            int64_t group = place->order[place->k0 + k] / block->quant.group;
            float scale = scales[group];
            s->t[k][l] = from[k];
            s->w[k][l] = w[k];
            s->scale[k][l] = scale != 0 ? scale : 1; /* padding rows */
            s->zero[k][l] = (uint8_t)mq_zero_at(block, n_groups, r0 + l, group);
        }
        s->loss[l] = block->loss[r0 + l];
        s->error2[l] = block->error2[r0 + l];
        s->weight2[l] = block->weight2[r0 + l];
    }
}

/* Column k of the strip: rounds t, leaves e. */
static inline void quantise_column(mq_strip *s, int64_t k, double r_squared, float top)
{
    for (int l = 0; l < MQ_STRIP; l++) {
        float t = s->t[k][l], scale = s->scale[k][l], w = s->w[k][l], zero = s->zero[k][l];
        float q = mq_round_even(mq_clamp(t / scale, -zero, top - zero));
        float rest = t - q * scale, e = w - q * scale;
        s->code[k][l] = (uint8_t)(int)(q + zero);
        s->e[k][l] = e;
        s->loss[l] += (double)rest * (double)rest * r_squared;
        s->error2[l] += (double)e * (double)e;
        s->weight2[l] += (double)w * (double)w;
    }
}

MQ_SIMD static void quantise_strip(mq_strip *s, const mq_tile_place *place, int bits)
{
    float top = (float)((1 << bits) - 1);
    for (int64_t k = 0; k < place->n; k++) {
        quantise_column(s, k, place->r_squared[k], top);
        if (!place->m) continue;
        const float *m = place->m + k * place->n;
        for (int64_t j = k + 1; j < place->n; j++) {
            for (int l = 0; l < MQ_STRIP; l++) s->t[j][l] += s->e[k][l] * m[j];
        }
    }
}

static void store_strip(const mq_strip *s, mq_row_block *block, const mq_tile_place *place,
                        int64_t r0)
{
    for (int64_t l = 0; l < MQ_STRIP; l++) {
        float *e = block->e + (r0 + l) * place->n_in + place->k0;
        uint8_t *codes = block->codes + (r0 + l) * place->n_in;
        const int64_t *order = place->order + place->k0;
        for (int64_t k = 0; k < place->n; k++) {
            e[k] = s->e[k][l];
            codes[order[k]] = s->code[k][l];
        }
        block->loss[r0 + l] = s->loss[l];
        block->error2[r0 + l] = s->error2[l];
        block->weight2[r0 + l] = s->weight2[l];
    }
}

void mq_tile_quantise(mq_tile *tile, mq_row_block *block, const mq_tile_place *place)
{
    if (block->metric && place->m) {
        mq_metric_quantise(tile, block, place);
        return;
    }
    for (int64_t r0 = 0; r0 < MQ_ROW_BLOCK; r0 += MQ_STRIP) {
        load_strip(&tile->narrow, block, place, tile->t, r0);
        quantise_strip(&tile->narrow, place, block->quant.bits);
        store_strip(&tile->narrow, block, place, r0);
    }
}
