#include "base/memory.h"
#include "calib/calib.h"
#include "par/collectives.h"

/* count[l]: this rank's samples of l tokens, or where there are chunks the pieces that those cut
 * them into. */
static void count_lengths(const mq_calib *calib, int64_t chunk, int64_t *count)
{
    for (int64_t u = 0; u < calib->n_local_units; u++) {
        const mq_unit *unit = &calib->unit[u];
        for (int64_t s = 0; s < unit->n_samples; s++) {
            int64_t length = unit->offset[s + 1] - unit->offset[s];
            int64_t piece = chunk > 0 && chunk < length ? chunk : length;
            count[piece] += length / piece;
            count[length % piece]++; /* that of length 0 counts for nothing */
        }
    }
}

mq_status mq_calib_distances(const mq_comm *comm, const mq_calib *calib, int64_t window,
                             int64_t chunk, double **out, int64_t *n)
{
    int64_t longest = calib->longest, samples = 0, tokens = 0;
    int64_t *count = NULL;
    *out = NULL;
    *n = window > 0 && window < longest ? window : longest;
    mq_status status = mq_alloc(longest + 1, sizeof *count, "lengths of samples", &count);
    if (status == MQ_OK) status = mq_alloc(*n, sizeof **out, "distances", out);
    if (status == MQ_OK) count_lengths(calib, chunk, count);
    status = mq_agree(comm, status);
    if (status == MQ_OK) status = mq_sum_i64(comm, count, longest + 1);
    /* A sample of l tokens has l - d pairs at distance d. */
    for (int64_t d = longest - 1; d >= 0 && status == MQ_OK; d--) {
        samples += count[d + 1];
        tokens += (d + 1) * count[d + 1];
        if (d < *n) (*out)[d] = (double)(tokens - d * samples);
    }
    mq_free(&count);
    if (status != MQ_OK) mq_free(out);
    return status;
}
