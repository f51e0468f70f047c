#include "base/squares.h"

#include "base/dtype.h"

#include <math.h>
#include <stdbool.h>

static const float squares = MQ_LARGEST_ROOT * MQ_LARGEST_ROOT;

static float to_half(float x)
{
    return mq_f16_to_f32(mq_f32_to_f16(x));
}

float mq_squares_largest(float x)
{
    static const float smallest = 0x1p-24f, highest = 65504;
    float unit = fminf(fmaxf(x / squares, smallest), highest / squares);
    return to_half(unit) * squares;
}

float mq_square_scale(float largest, int root)
{
    return to_half((float)(root * root) * to_half(largest / squares));
}

int mq_square_root(float largest, float scale)
{
    double ratio = (double)scale / (double)to_half(largest / squares), root = floor(sqrt(ratio));
    if (!(ratio > 1)) return 1;
    if (!(root < MQ_LARGEST_ROOT)) return MQ_LARGEST_ROOT;
    bool above = ratio - root * root > (root + 1) * (root + 1) - ratio;
    return (int)root + above;
}
