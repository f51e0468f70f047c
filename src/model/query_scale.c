#include "base/memory.h"
#include "model/block.h"

#include <math.h>

static double factor_at(const mq_query_scale *scale, int64_t p)
{
    switch (scale->kind) {
    case MQ_QUERY_STEPS:
        return 1 + scale->weight * log1p((double)((p + 1) / scale->positions));
    case MQ_QUERY_LOG:
        return p < scale->positions ? 1 : log((double)(p + 1)) / log((double)scale->positions);
    case MQ_QUERY_PLAIN:
        break;
    }
    return 1;
}

mq_status mq_query_factors(const mq_query_scale *scale, int64_t n_positions, float **out)
{
    MQ_TRY(mq_alloc(n_positions, sizeof **out, "factors of queries", out));
    for (int64_t p = 0; p < n_positions; p++) (*out)[p] = (float)factor_at(scale, p);
    return MQ_OK;
}
