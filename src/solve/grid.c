#include "solve/grid.h"

#include "base/dtype.h"
#include "base/squares.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>

float mq_smallest_scale(const mq_quant *quant, int64_t g)
{
    mq_scale_grid grid = quant->grid;
    if (grid == MQ_SCALE_SQUARES) return mq_square_scale(quant->largest[g], 1);
    return grid == MQ_SCALE_F16 || grid == MQ_SCALE_F16_SHORT ? 0x1p-24f : FLT_MIN;
}

static float largest_scale(mq_scale_grid grid)
{
    switch (grid) {
    case MQ_SCALE_F16:
        return 65504.0f;
    case MQ_SCALE_F16_SHORT:
        return 4352.0f;
    case MQ_SCALE_BF16:
        return 0x1.FEp127f;
    default:
        return FLT_MAX;
    }
}

/* x > 0 to 7 significant bits, ties to even. A half below 2^-18 has fewer. */
static float round_short(float x)
{
    int exponent = 0;
    float fraction = frexpf(x, &exponent);
    float rounded = ldexpf(rintf(fraction * 0x1p7f), exponent - 7);
    return mq_f16_to_f32(mq_f32_to_f16(rounded));
}

/* The nearest root is one of its range whatever x is. */
static float round_to_square(float largest, float x)
{
    return mq_square_scale(largest, mq_square_root(largest, x));
}

float mq_round_scale(const mq_quant *quant, int64_t g, float x)
{
    mq_scale_grid grid = quant->grid;
    if (grid == MQ_SCALE_SQUARES) return round_to_square(quant->largest[g], x);
    if (!(x > mq_smallest_scale(quant, g))) return mq_smallest_scale(quant, g);
    if (x >= largest_scale(grid)) return largest_scale(grid);
    switch (grid) {
    case MQ_SCALE_F16:
        return mq_f16_to_f32(mq_f32_to_f16(x));
    case MQ_SCALE_F16_SHORT:
        return round_short(x);
    case MQ_SCALE_BF16:
        return mq_bf16_to_f32(mq_f32_to_bf16(x));
    default:
        return x;
    }
}

static mq_status check_squares(const mq_quant *quant)
{
    if (quant->largest && quant->positive && !quant->zero_points) return MQ_OK;
    return mq_fail(MQ_E_INTERNAL, "solver: square scales are positive, have no zero points, and "
                                  "need the largest of each group");
}

mq_status mq_check_quant(const mq_quant *quant, int64_t n)
{
    if (quant->bits != 2 && quant->bits != 3 && quant->bits != 4 && quant->bits != 8) {
        return mq_fail(MQ_E_INTERNAL, "solver: %d bits, expected 2, 3, 4 or 8", quant->bits);
    }
    if (n <= 0 || quant->group <= 0 || n % quant->group != 0) {
        return mq_fail(MQ_E_INTERNAL,
                       "solver: groups of %" PRId64 " columns do not divide %" PRId64 " columns",
                       quant->group, n);
    }
    if (quant->lowest_zero < 0 || quant->lowest_zero > 1) {
        return mq_fail(MQ_E_INTERNAL, "solver: zero points from %d, expected 0 or 1",
                       quant->lowest_zero);
    }
    return quant->grid == MQ_SCALE_SQUARES ? check_squares(quant) : MQ_OK;
}

mq_status mq_check_zeros(const mq_quant *quant, const uint8_t *zeros)
{
    if (!quant->zero_points || zeros) return MQ_OK;
    return mq_fail(MQ_E_INTERNAL, "solver: no room for zero points");
}
