#include "base/squares.h"
#include "solve/scale_search.h"

#include <math.h>

/* How far the weights of a group reach, and what follows for scales that its rows share in part. */

float mq_group_range(const float *w, const double *weight, int64_t group)
{
    float live = 0, all = 0;
    for (int64_t j = 0; j < group; j++) {
        float a = fabsf(w[j]);
        all = a > all ? a : all;
        live = weight[j] > 0 && a > live ? a : live;
    }
    return live > 0 ? live : all;
}

void mq_widen_ranges(const float *w, int64_t n_rows, int64_t n_in, const double *weight,
                     int64_t group, double *range)
{
    for (int64_t r = 0; r < n_rows; r++) {
        for (int64_t j = 0; j < n_in; j += group) {
            double reach = (double)mq_group_range(w + r * n_in + j, weight + j, group);
            if (reach > range[j / group]) range[j / group] = reach;
        }
    }
}

/* The largest weight over the wider of the two halves of a range that the search of scales begins
 * from. A larger or smaller one, by a tenth, makes no difference on the demo model. */
void mq_set_largest(const double *range, int64_t n_groups, int bits, float *largest)
{
    double half = (double)(1 << (bits - 1));
    for (int64_t g = 0; g < n_groups; g++) {
        largest[g] = mq_squares_largest((float)(range[g] / (half - 0.5)));
    }
}
