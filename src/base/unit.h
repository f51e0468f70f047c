#ifndef MQ_BASE_UNIT_H
#define MQ_BASE_UNIT_H

#include <stdint.h>

/** A run of whole samples that goes through the model at once: the shape of every product of the
 *  forward follows from it alone, whichever rank has it. */
typedef struct mq_unit {
    int64_t id; /* global number of the unit */
    int64_t n_tokens;
    int64_t n_samples;
    int64_t first_sample;         /* number in the file of its first sample */
    int64_t token_begin;          /* into mq_calib.token */
    const int64_t *offset;        /* (n_samples + 1) token offsets inside the unit */
    const int32_t *position;      /* (n_tokens) position of each token in its sample */
    int n_axes;                   /* with rope_position: positions that each has for rope */
    const int32_t *rope_position; /* (n_tokens, n_axes) where they are given; NULL: position */
} mq_unit;

/** Tokens of the first half where a unit is cut in two: at a sample, from the file alone. Of an odd
 *  number of samples the larger part goes to one half and to the other in turn. */
static inline int64_t mq_unit_half(const mq_unit *unit)
{
    return unit->offset[(unit->n_samples + (unit->id % 2 == 0)) / 2];
}

#endif
