#include "base/memory.h"
#include "model/block.h"

#include <inttypes.h>
#include <math.h>

static const double pi = 3.14159265358979323846;

/* Llama 3.1's scaling of one frequency: short waves are kept, long ones divided by the factor, and
 * those between blend the two. Every operation rounds to f32, as it does on f32 tensors. */
static float llama3_frequency(const mq_rope_kind *rope, float frequency)
{
    double positions = (double)rope->original_positions;
    float factor = (float)rope->factor, wave = (float)(2 * pi) / frequency;
    if (wave > (float)(positions / rope->low_freq)) return frequency / factor;
    if (wave < (float)(positions / rope->high_freq)) return frequency;
    float smooth = ((float)positions / wave - (float)rope->low_freq) /
                   (float)(rope->high_freq - rope->low_freq);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

float mq_rope_frequency(const mq_rope_kind *rope, int64_t i)
{
    float exponent = (float)(2 * i) / (float)rope->dim;
    float frequency = 1.0F / (float)pow((double)(float)rope->theta, (double)exponent);
    switch (rope->scaling) {
    case MQ_ROPE_PLAIN:
        break;
    case MQ_ROPE_LINEAR:
        return frequency / (float)rope->factor;
    case MQ_ROPE_LLAMA3:
        return llama3_frequency(rope, frequency);
    }
    return frequency;
}

mq_status mq_rope_table(const mq_rope_kind *rope, int64_t n_positions, float **out)
{
    int64_t half = rope->dim / 2;
    int64_t row_bytes = rope->dim * (int64_t)sizeof(float);
    *out = NULL;
    /* Positions beyond 2^24 are not f32 numbers any more. */
    if (n_positions < 0 || n_positions > (1 << 24)) {
        return mq_fail(MQ_E_INPUT, "rope for %" PRId64 " positions: at most 2^24", n_positions);
    }
    float *table = NULL;
    MQ_TRY(mq_alloc(n_positions, (size_t)row_bytes, "rope table", &table));
    for (int64_t i = 0; i < half; i++) {
        float frequency = mq_rope_frequency(rope, i);
        for (int64_t p = 0; p < n_positions; p++) {
            float angle = (float)p * frequency;
            table[p * rope->dim + i] = (float)cos((double)angle);
            table[p * rope->dim + half + i] = (float)sin((double)angle);
        }
    }
    *out = table;
    return MQ_OK;
}

mq_status mq_rope_tables_create(const mq_arch *arch, int64_t n_positions, mq_rope_tables *out)
{
    *out = (mq_rope_tables){.rope = NULL};
    MQ_TRY(mq_rope_table(&arch->rope, n_positions, &out->rope));
    if (!arch->own_sliding_rope) return MQ_OK;
    return mq_rope_table(&arch->sliding_rope, n_positions, &out->sliding_rope);
}

void mq_rope_tables_free(mq_rope_tables *tables)
{
    mq_free(&tables->rope);
    mq_free(&tables->sliding_rope);
}
