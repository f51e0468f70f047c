#ifndef MQ_TEST_THREE_UNITS_H
#define MQ_TEST_THREE_UNITS_H

#include "pipeline/activations.h"

#include <string.h>

/* Three units of three samples each, of 1 to 73 tokens, dealt to the ranks in turn: with more ranks
 * than that some have nothing. */

enum { N_UNITS = 3, MOST_SAMPLES = 3, N_TOKENS = 330, LONGEST = 73 };
static const int64_t sample_offset[N_UNITS][MOST_SAMPLES + 1] = {
    {0, 40, 47, 120}, {0, 1, 60, 90}, {0, 60, 61, 120}};
static const int64_t first_token[N_UNITS + 1] = {0, 120, 210, N_TOKENS};

/** unit (N_UNITS) is storage and must outlive calib. Not collective. */
static inline void three_units(const mq_comm *comm, mq_unit *unit, mq_calib *calib)
{
    *calib = (mq_calib){.n_samples = N_UNITS * MOST_SAMPLES,
                        .n_tokens = N_TOKENS,
                        .n_units = N_UNITS,
                        .longest = LONGEST,
                        .shortest = 1,
                        .max_unit_tokens = 120,
                        .unit = unit};
    for (int u = comm->rank; u < N_UNITS; u += comm->size) {
        unit[calib->n_local_units++] = (mq_unit){.id = u,
                                                 .n_tokens = sample_offset[u][MOST_SAMPLES],
                                                 .n_samples = MOST_SAMPLES,
                                                 .first_sample = MOST_SAMPLES * u,
                                                 .token_begin = calib->n_local_tokens,
                                                 .offset = sample_offset[u]};
        calib->n_local_tokens += sample_offset[u][MOST_SAMPLES];
    }
}

/** This rank's rows of all (N_TOKENS, width) BF16. Caller frees *out. Not collective. */
static inline mq_status three_units_rows(const mq_calib *calib, const uint16_t *all, int64_t width,
                                         mq_activations *out)
{
    MQ_TRY(mq_activations_create(calib, width, MQ_BF16, "tokens", out));
    for (int64_t u = 0; u < calib->n_local_units; u++) {
        const mq_unit *unit = &calib->unit[u];
        memcpy(mq_activations_unit(out, calib, u), all + first_token[unit->id] * width,
               (size_t)(unit->n_tokens * width) * sizeof *all);
    }
    return MQ_OK;
}

#endif
