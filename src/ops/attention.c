#include "base/checked.h"
#include "base/parallel.h"
#include "ops/gemm_impl.h"
#include "ops/kernels.h"
#include "ops/rows.h"
#include "ops/softmax.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Causal attention. A task is one head and QUERY_BLOCK queries of one sample:
 *
 *     for each chunk of at most KEY_CHUNK visible keys:
 *         s (128, width) = q kT                   f32
 *         p = exp(scale s - running maximum)      rounded to the type of the activations
 *         o (128, value_dim) = o * correction + p v   f32
 *     out = o / sum of p                          rounded once
 *
 * which is how PyTorch's scaled_dot_product_attention works (the eager code of transformers divides
 * before it rounds p; the difference is within the rounding of p). The sum is over p before it is
 * rounded. Blocks and chunks begin at multiples of 128 in a sample, and what overhangs its end is
 * zeros in scratch, so any mix of lengths runs on a few shapes of products. A NaN or inf in v
 * reaches all queries of its block, as in PyTorch, for 0 * NaN is NaN. */
enum { QUERY_BLOCK = 128, KEY_CHUNK = 1024, LD_SCORES = KEY_CHUNK + 16 };

typedef struct attention_job {
    const mq_attention_shape *shape;
    const void *q, *k, *v;
    const int64_t *sample_offset;
    int64_t n_samples;
    const int64_t *first_task; /* (n_samples + 1) */
    void *out;
    mq_dtype dtype;
} attention_job;

/* What one task computes, and its memory. */
typedef struct block {
    int64_t sample_row, length; /* the sample's first row and its tokens */
    int64_t head, kv_head;
    int64_t first, rows; /* queries [first, first + rows) of the sample */
    char *q, *k, *v;     /* room for padded copies, one head to a row */
    float *scores, *o;   /* (QUERY_BLOCK, LD_SCORES), (QUERY_BLOCK, value_dim) */
    mq_softmax state[QUERY_BLOCK];
} block;

/* An operand of a product: the caller's array or a padded copy. */
typedef struct operand {
    const void *data;
    int64_t ld;
} operand;

static void locate(const attention_job *job, int64_t task, block *b)
{
    int64_t lo = 0, hi = job->n_samples - 1; /* the last sample with first_task <= task */
    while (lo < hi) {
        int64_t middle = (lo + hi + 1) / 2;
        if (job->first_task[middle] <= task)
            lo = middle;
        else
            hi = middle - 1;
    }
    const mq_attention_shape *s = job->shape;
    b->sample_row = job->sample_offset[lo];
    b->length = job->sample_offset[lo + 1] - b->sample_row;
    int64_t blocks = mq_ceil_div(b->length, QUERY_BLOCK), local = task - job->first_task[lo];
    b->head = local / blocks;
    b->kv_head = b->head / (s->n_heads / s->n_kv_heads);
    b->first = (blocks - 1 - local % blocks) * QUERY_BLOCK; /* the longest first */
    b->rows = mq_min_i64(QUERY_BLOCK, b->length - b->first);
}

static mq_status get_memory(int64_t d, int64_t dv, size_t elem, block *b)
{
    mq_scratch_plan plan = {0};
    size_t q = mq_scratch_add(&plan, QUERY_BLOCK * d, elem);
    size_t k = mq_scratch_add(&plan, KEY_CHUNK * d, elem);
    size_t v = mq_scratch_add(&plan, KEY_CHUNK * dv, elem);
    size_t scores = mq_scratch_add(&plan, QUERY_BLOCK * LD_SCORES, sizeof(float));
    size_t o = mq_scratch_add(&plan, QUERY_BLOCK * dv, sizeof(float));
    char *base;
    MQ_TRY(mq_scratch_get(&plan, MQ_SLOT_KERNEL, &base));
    b->q = base + q;
    b->k = base + k;
    b->v = base + v;
    b->scores = (float *)(void *)(base + scores);
    b->o = (float *)(void *)(base + o);
    return MQ_OK;
}

/* Rows [row, row + have) of head `head` of x, as they lie or copied and padded to `want` rows. */
static operand head_rows(const void *x, int64_t ld, int64_t row, int64_t have, int64_t want,
                         int64_t head, int64_t d, mq_dtype dtype, char *room)
{
    const void *from = mq_at(x, row * ld + head * d, dtype);
    if (have == want) return (operand){.data = from, .ld = ld};
    size_t bytes = (size_t)d * mq_dtype_size(dtype);
    for (int64_t i = 0; i < have; i++) {
        memcpy(room + (size_t)i * bytes, mq_at(from, i * ld, dtype), bytes);
    }
    memset(room + (size_t)have * bytes, 0, (size_t)(want - have) * bytes);
    return (operand){.data = room, .ld = d};
}

/* Rounds a row of probabilities to bf16 in the front half of its own memory, piece by piece: what a
 * piece overwrites has been read. */
static void round_in_place(float *p, int64_t width)
{
    uint16_t piece[128];
    for (int64_t j = 0; j < width; j += 128) { /* width is a multiple of 128 */
        mq_row_store(p + j, 128, piece, MQ_BF16);
        memcpy((char *)p + (size_t)j * sizeof *piece, piece, sizeof piece);
    }
}

/* Scores of keys [c0, c0 + width) to probabilities; corrects what former chunks summed. */
static void soften(const attention_job *job, block *b, int64_t c0, int64_t width)
{
    const mq_attention_shape *shape = job->shape;
    int64_t d = mq_attention_value_dim(shape);
    for (int64_t r = 0; r < QUERY_BLOCK; r++) {
        float *s = b->scores + r * LD_SCORES;
        if (r >= b->rows) { /* below the end of the sample */
            memset(s, 0, (size_t)width * sizeof *s);
            continue;
        }
        int64_t i = b->first + r;
        int64_t lo = mq_max_i64(0, mq_attention_first_key(shape, i) - c0);
        int64_t hi = mq_min_i64(width, i + 1 - c0);
        double exact = shape->scale * (shape->query_factor ? (double)shape->query_factor[i] : 1);
        float scale = (float)exact;
        if (shape->cap > 0 && lo < hi) {
            mq_soft_cap(s + lo, hi - lo, exact, shape->cap);
            scale = 1;
        }
        float factor = mq_softmax_chunk(&b->state[r], s, width, lo, hi, scale);
        if (factor != 1.0f) mq_row_multiply(b->o + r * d, d, factor);
        if (job->dtype == MQ_BF16) round_in_place(s, width);
    }
}

static mq_status attend_chunk(const attention_job *job, block *b, const operand *q, int64_t c0,
                              int64_t width)
{
    const mq_attention_shape *s = job->shape;
    int64_t have = mq_min_i64(width, b->length - c0), row = b->sample_row + c0;
    int64_t d = s->head_dim, dv = mq_attention_value_dim(s);
    operand k = head_rows(job->k, s->ld_k, row, have, width, b->kv_head, d, job->dtype, b->k);
    operand v = head_rows(job->v, s->ld_v, row, have, width, b->kv_head, dv, job->dtype, b->v);
    mq_gemm_shape shape = {.m = QUERY_BLOCK,
                           .n = width,
                           .k = d,
                           .lda = q->ld,
                           .ldb = k.ld,
                           .ldc = LD_SCORES,
                           .in = job->dtype,
                           .out = MQ_F32,
                           .b_trans = true};
    MQ_TRY(mq_gemm(&shape, q->data, k.data, b->scores));
    soften(job, b, c0, width);
    shape = (mq_gemm_shape){.m = QUERY_BLOCK,
                            .n = dv,
                            .k = width,
                            .lda = job->dtype == MQ_BF16 ? 2 * LD_SCORES : LD_SCORES,
                            .ldb = v.ld,
                            .ldc = dv,
                            .in = job->dtype,
                            .out = MQ_F32,
                            .accumulate = true};
    return mq_gemm(&shape, b->scores, v.data, b->o);
}

static mq_status attention_task(void *context, int64_t i)
{
    const attention_job *job = context;
    const mq_attention_shape *s = job->shape;
    int64_t dv = mq_attention_value_dim(s);
    block b;
    locate(job, i, &b);
    MQ_TRY(get_memory(s->head_dim, dv, mq_dtype_size(job->dtype), &b));
    memset(b.o, 0, (size_t)(QUERY_BLOCK * dv) * sizeof *b.o);
    mq_softmax start = {.top = -INFINITY};
    if (s->sink) start = (mq_softmax){.top = s->sink[b.head], .total = 1}; /* exp(sink - top) */
    for (int r = 0; r < QUERY_BLOCK; r++) b.state[r] = start;
    operand q = head_rows(job->q, s->ld_q, b.sample_row + b.first, b.rows, QUERY_BLOCK, b.head,
                          s->head_dim, job->dtype, b.q);
    int64_t seen = mq_attention_first_key(s, b.first); /* later queries see none before it */
    int64_t end = b.first + QUERY_BLOCK;
    for (int64_t c = seen / QUERY_BLOCK * QUERY_BLOCK; c < end; c += KEY_CHUNK) {
        MQ_TRY(attend_chunk(job, &b, &q, c, mq_min_i64(KEY_CHUNK, end - c)));
    }
    for (int64_t r = 0; r < b.rows; r++) {
        int64_t row = b.sample_row + b.first + r;
        float *o = b.o + r * dv;
        mq_row_divide(o, dv, b.state[r].total);
        mq_row_store(o, dv, mq_at_mut(job->out, row * s->ld_out + b.head * dv, job->dtype),
                     job->dtype);
    }
    return MQ_OK;
}

static mq_status check(const mq_attention_shape *s)
{
    bool heads = s->n_kv_heads > 0 && s->n_heads % s->n_kv_heads == 0 && s->head_dim > 0 &&
                 s->value_dim >= 0;
    bool finite = isfinite(s->scale) && isfinite(s->cap);
    if (heads && finite && s->scale > 0 && s->cap >= 0 && s->window >= 0 && s->chunk >= 0) {
        return MQ_OK;
    }
    return mq_fail(MQ_E_INTERNAL,
                   "attention of %" PRId64 " heads over %" PRId64 " of %" PRId64
                   ", scale %g, cap %g, window %" PRId64 ", chunk %" PRId64 " makes no sense",
                   s->n_heads, s->n_kv_heads, s->head_dim, s->scale, s->cap, s->window, s->chunk);
}

mq_status mq_attention(const mq_attention_shape *shape, const void *q, const void *k, const void *v,
                       const int64_t *sample_offset, int64_t n_samples, void *out, mq_dtype dtype)
{
    MQ_TRY(check(shape));
    mq_scratch_plan plan = {0};
    mq_scratch_add(&plan, n_samples + 1, sizeof(int64_t));
    char *base;
    MQ_TRY(mq_scratch_get(&plan, MQ_SLOT_INDEX, &base));
    int64_t *first_task = (int64_t *)(void *)base;
    first_task[0] = 0;
    for (int64_t i = 0; i < n_samples; i++) {
        int64_t length = sample_offset[i + 1] - sample_offset[i];
        if (length < 0) {
            return mq_fail(MQ_E_INTERNAL, "sample %" PRId64 " of a unit has %" PRId64 " tokens", i,
                           length);
        }
        first_task[i + 1] = first_task[i] + shape->n_heads * mq_ceil_div(length, QUERY_BLOCK);
    }
    attention_job job = {.shape = shape,
                         .q = q,
                         .k = k,
                         .v = v,
                         .sample_offset = sample_offset,
                         .n_samples = n_samples,
                         .first_task = first_task,
                         .out = out,
                         .dtype = dtype};
    return mq_parallel_for(first_task[n_samples], attention_task, &job);
}
