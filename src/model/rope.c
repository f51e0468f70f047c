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

/* The pair that makes so many turns in the original positions. */
static double yarn_pair(const mq_rope_kind *rope, double turns)
{
    double base = (double)rope->dim * log((double)rope->original_positions / (turns * 2 * pi));
    return base / (2 * log(rope->theta));
}

/* YaRN: pairs that turn fast are kept, slow ones divided by the factor, and a ramp over the pairs
 * between blends the two. power is theta^(2 i / dim). */
static float yarn_frequency(const mq_rope_kind *rope, float power, int64_t i)
{
    double low = yarn_pair(rope, rope->beta_fast), high = yarn_pair(rope, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)(rope->dim - 1));
    if (low == high) high += 0.001;
    float ramp = ((float)i - (float)low) / (float)(high - low);
    ramp = fminf(fmaxf(ramp, 0), 1);
    float keep = 1 - ramp, scaled = 1.0F / ((float)rope->factor * power);
    return scaled * (1 - keep) + 1.0F / power * keep;
}

int mq_rope_stage(const mq_rope_kind *rope, int64_t length)
{
    if (rope->scaling == MQ_ROPE_LONG) return length > rope->original_positions;
    int stage = 0;
    if (rope->scaling != MQ_ROPE_DOUBLING) return 0;
    while (stage < MQ_ROPE_STAGES - 1 && length > rope->original_positions << stage) stage++;
    return stage;
}

static double theta_of(const mq_rope_kind *rope)
{
    if (rope->scaling != MQ_ROPE_DOUBLING) return rope->theta;
    double alpha = (double)((INT64_C(2) << rope->stage) - 1), dim = (double)rope->dim;
    return rope->theta * pow(alpha, dim / (dim - 2));
}

float mq_rope_frequency(const mq_rope_kind *rope, int64_t i)
{
    float exponent = (float)(2 * i) / (float)rope->dim;
    float power = (float)pow((double)(float)theta_of(rope), (double)exponent);
    switch (rope->scaling) {
    case MQ_ROPE_PLAIN:
    case MQ_ROPE_NTK:
    case MQ_ROPE_DOUBLING:
        break;
    case MQ_ROPE_LINEAR:
        return 1.0F / power / (float)rope->factor;
    case MQ_ROPE_LLAMA3:
        return llama3_frequency(rope, 1.0F / power);
    case MQ_ROPE_YARN:
        return yarn_frequency(rope, power, i);
    case MQ_ROPE_LONG:
        return 1.0F / ((rope->stage > 0 ? rope->long_factor : rope->short_factor)[i] * power);
    }
    return 1.0F / power;
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
            float *row = table + p * rope->dim;
            row[i] = (float)cos((double)angle) * (float)rope->attention_factor;
            row[half + i] = (float)sin((double)angle) * (float)rope->attention_factor;
        }
    }
    *out = table;
    return MQ_OK;
}

/* Of samples longer than this a rope would turn in another way, if it could. */
static mq_status check_length(const mq_arch *arch, int64_t n_positions)
{
    if (arch->rope.scaling != MQ_ROPE_NTK || n_positions <= arch->max_position) return MQ_OK;
    return mq_fail(MQ_E_INPUT,
                   "%s: rope is scaled by \"dynamic\" NTK, which from max_position_embeddings = "
                   "%" PRId64 " on depends on the samples seen before; the longest sample has "
                   "%" PRId64 " tokens",
                   arch->where, arch->max_position, n_positions);
}

/* Each stage's table reaches as far as its samples do. */
static mq_status fill_stages(const mq_rope_kind *rope, int64_t n_positions, mq_rope_tables *out)
{
    int last = mq_rope_stage(rope, n_positions);
    mq_rope_kind kind = *rope;
    for (kind.stage = 0; kind.stage <= last; kind.stage++) {
        int64_t n = kind.stage < last ? rope->original_positions << kind.stage : n_positions;
        MQ_TRY(mq_rope_table(&kind, n, &out->rope[kind.stage]));
    }
    return MQ_OK;
}

static mq_status fill_tables(const mq_arch *arch, int64_t n_positions, mq_rope_tables *out)
{
    MQ_TRY(check_length(arch, n_positions));
    if (arch->query_scale.kind != MQ_QUERY_PLAIN) {
        MQ_TRY(mq_query_factors(&arch->query_scale, n_positions, &out->query_factor));
    }
    MQ_TRY(fill_stages(&arch->rope, n_positions, out));
    if (!arch->own_sliding_rope) return MQ_OK;
    return mq_rope_table(&arch->sliding_rope, n_positions, &out->sliding_rope);
}

mq_status mq_rope_tables_create(const mq_arch *arch, int64_t n_positions, mq_rope_tables *out)
{
    *out = (mq_rope_tables){.sliding_rope = NULL};
    mq_status status = fill_tables(arch, n_positions, out);
    if (status != MQ_OK) mq_rope_tables_free(out);
    return status;
}

void mq_rope_tables_free(mq_rope_tables *tables)
{
    mq_free(&tables->query_factor);
    for (int i = 0; i < MQ_ROPE_STAGES; i++) mq_free(&tables->rope[i]);
    mq_free(&tables->sliding_rope);
}
