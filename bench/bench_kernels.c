#include "base/log.h"
#include "base/memory.h"
#include "ops/gemm.h"
#include "ops/kernels.h"
#include "ops/ops.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Speed of the kernels at the shapes of SmolLM2-135M: 8 samples of 1024 tokens, hidden size 576, 9
 * query and 3 key heads of 64, intermediate size 1536; bf16.
 *
 *     bench_kernels [THREADS]
 *
 * Prints one line per kernel: the best of a few runs, in GFLOP/s (useful ones: the causal half of
 * attention, all of a Gram panel) or in GB/s of activations read and written. */

enum {
    SAMPLES = 8,
    LENGTH = 1024,
    TOKENS = SAMPLES * LENGTH,
    HIDDEN = 576,
    HEADS = 9,
    KV_HEADS = 3,
    HEAD_DIM = 64,
    QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM,
    WIDE = 1536,
    VOCAB = 49152,
    RUNS = 7
};

typedef struct buffers {
    uint16_t *x, *y, *qkv, *wide, *w, *table;
    float *norm, *cos_sin, *panel, *logits;
    double *sum;
    int32_t *position, *token;
    int64_t offset[SAMPLES + 1];
} buffers;

typedef mq_status (*kernel)(buffers *b);

static mq_status fill_bf16(int64_t n, float scale, uint16_t **out)
{
    MQ_TRY(mq_alloc(n, sizeof **out, "benchmark", out));
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        (*out)[i] = mq_f32_to_bf16(scale * ((float)(state >> 8) * 0x1p-23f - 1.0f));
    }
    return MQ_OK;
}

static mq_status make_buffers(buffers *b)
{
    MQ_TRY(fill_bf16((int64_t)TOKENS * HIDDEN, 1, &b->x));
    MQ_TRY(fill_bf16((int64_t)TOKENS * WIDE, 1, &b->y));
    MQ_TRY(fill_bf16((int64_t)TOKENS * QKV, 1, &b->qkv));
    MQ_TRY(fill_bf16((int64_t)TOKENS * WIDE * 2, 1, &b->wide));
    MQ_TRY(fill_bf16((int64_t)WIDE * WIDE, 0.05f, &b->w));
    MQ_TRY(fill_bf16((int64_t)VOCAB * HIDDEN, 1, &b->table));
    MQ_TRY(mq_alloc(WIDE, sizeof *b->norm, "benchmark", &b->norm));
    MQ_TRY(mq_alloc((int64_t)LENGTH * HEAD_DIM, sizeof *b->cos_sin, "benchmark", &b->cos_sin));
    MQ_TRY(mq_alloc((int64_t)WIDE * WIDE, sizeof *b->panel, "benchmark", &b->panel));
    MQ_TRY(mq_alloc((int64_t)64 * VOCAB, sizeof *b->logits, "benchmark", &b->logits));
    MQ_TRY(mq_alloc(WIDE, sizeof *b->sum, "benchmark", &b->sum));
    MQ_TRY(mq_alloc(TOKENS, sizeof *b->position, "benchmark", &b->position));
    MQ_TRY(mq_alloc(TOKENS, sizeof *b->token, "benchmark", &b->token));
    for (int i = 0; i < WIDE; i++) b->norm[i] = 1;
    for (int i = 0; i < LENGTH * HEAD_DIM; i++) b->cos_sin[i] = 0.7f;
    for (int64_t i = 0; i < (int64_t)64 * VOCAB; i++) b->logits[i] = (float)(i * 7 % 41) * 0.3f;
    for (int t = 0; t < TOKENS; t++) {
        b->position[t] = t % LENGTH;
        b->token[t] = (int32_t)((int64_t)t * 7919 % VOCAB);
    }
    for (int s = 0; s <= SAMPLES; s++) b->offset[s] = (int64_t)s * LENGTH;
    return MQ_OK;
}

static void free_buffers(buffers *b)
{
    mq_free(&b->x);
    mq_free(&b->y);
    mq_free(&b->qkv);
    mq_free(&b->wide);
    mq_free(&b->w);
    mq_free(&b->table);
    mq_free(&b->norm);
    mq_free(&b->cos_sin);
    mq_free(&b->panel);
    mq_free(&b->logits);
    mq_free(&b->sum);
    mq_free(&b->position);
    mq_free(&b->token);
}

/* The product of one row tile alone, in one thread: what the linear layers are measured against. */
static mq_status raw_product(buffers *b)
{
    const mq_gemm_shape s = {.m = 512,
                             .n = WIDE,
                             .k = HIDDEN,
                             .lda = HIDDEN,
                             .ldb = HIDDEN,
                             .ldc = WIDE,
                             .in = MQ_BF16,
                             .out = MQ_BF16,
                             .b_trans = true};
    return mq_gemm(&s, b->x, b->w, b->y);
}

static mq_status qkv_layer(buffers *b)
{
    return mq_linear(b->x, TOKENS, HIDDEN, b->w, QKV, NULL, b->qkv, QKV, MQ_BF16);
}

static mq_status up_layer(buffers *b)
{
    return mq_linear(b->x, TOKENS, HIDDEN, b->w, WIDE, NULL, b->y, WIDE, MQ_BF16);
}

static mq_status down_layer(buffers *b)
{
    return mq_linear_add(b->y, TOKENS, WIDE, b->w, HIDDEN, NULL, b->x, MQ_BF16);
}

static mq_status attention(buffers *b)
{
    const mq_attention_shape s = {.n_heads = HEADS,
                                  .n_kv_heads = KV_HEADS,
                                  .head_dim = HEAD_DIM,
                                  .ld_q = QKV,
                                  .ld_k = QKV,
                                  .ld_v = QKV,
                                  .ld_out = HIDDEN,
                                  .scale = 0.125};
    return mq_attention(&s, b->qkv, b->qkv + HEADS * HEAD_DIM,
                        b->qkv + (HEADS + KV_HEADS) * HEAD_DIM, b->offset, SAMPLES, b->y, MQ_BF16);
}

static mq_status gram(buffers *b)
{
    return mq_gram_panel(b->x, MQ_BF16, TOKENS, HIDDEN, 0, HIDDEN, 0, HIDDEN, b->panel);
}

static mq_status norm(buffers *b)
{
    return mq_norm(MQ_NORM_RMS, b->x, TOKENS, HIDDEN, b->norm, NULL, 1e-5, b->y, MQ_BF16);
}

static mq_status rope(buffers *b)
{
    return mq_rope(b->qkv, TOKENS, QKV, HEADS + KV_HEADS, HEAD_DIM, HEAD_DIM, b->cos_sin,
                   b->position, false, MQ_BF16);
}

static mq_status silu(buffers *b)
{
    return mq_gated((mq_activation){.kind = MQ_SILU}, b->wide, 2 * WIDE, b->wide + WIDE, 2 * WIDE,
                    TOKENS, WIDE, b->y, MQ_BF16);
}

static mq_status gelu(buffers *b)
{
    return mq_gated((mq_activation){.kind = MQ_GELU_ERF}, b->wide, 2 * WIDE, b->wide + WIDE,
                    2 * WIDE, TOKENS, WIDE, b->y, MQ_BF16);
}

static mq_status sumsq(buffers *b)
{
    return mq_column_sumsq(b->x, MQ_BF16, TOKENS, HIDDEN, b->sum);
}

static mq_status embed(buffers *b)
{
    return mq_embed(b->table, MQ_BF16, VOCAB, HIDDEN, b->token, TOKENS, 1, b->y, MQ_BF16);
}

static mq_status logsumexp(buffers *b)
{
    int64_t at;
    for (int64_t i = 0; i < 64; i++) b->sum[i] = mq_logsumexp(b->logits + i * VOCAB, VOCAB, &at);
    return MQ_OK;
}

static mq_status copy(buffers *b)
{
    memcpy(b->y, b->wide, sizeof(uint16_t) * TOKENS * WIDE);
    return MQ_OK;
}

/* work: floating-point operations or bytes of one run, in 1e9. */
static mq_status measure(const char *name, kernel run, double work, const char *unit, buffers *b)
{
    double best = INFINITY;
    for (int i = 0; i < RUNS; i++) {
        double start = mq_seconds();
        MQ_TRY(run(b));
        best = fmin(best, mq_seconds() - start);
    }
    printf("%-34s %9.3f ms %8.1f %s\n", name, best * 1e3, work / best, unit);
    return MQ_OK;
}

static mq_status measure_all(buffers *b)
{
    const double G = 1e-9, n = TOKENS;
    const double linear = 2 * n * G, pair = 4.0 * HEAD_DIM * HEADS * G; /* per query and key */
    MQ_TRY(measure("product 512 x 1536 x 576", raw_product, 512 * 2.0 * WIDE * HIDDEN * G,
                   "GFLOP/s (1 thread)", b));
    MQ_TRY(measure("linear 576 -> 960", qkv_layer, linear * HIDDEN * QKV, "GFLOP/s", b));
    MQ_TRY(measure("linear 576 -> 1536", up_layer, linear * HIDDEN * WIDE, "GFLOP/s", b));
    MQ_TRY(measure("linear 1536 -> 576, added", down_layer, linear * WIDE * HIDDEN, "GFLOP/s", b));
    MQ_TRY(measure("attention", attention, pair * SAMPLES * LENGTH * (LENGTH + 1) / 2,
                   "GFLOP/s useful", b));
    MQ_TRY(
        measure("Gram panel 576 x 576", gram, linear * HIDDEN * HIDDEN, "GFLOP/s (1 thread)", b));
    MQ_TRY(measure("copy", copy, n * WIDE * 4 * G, "GB/s (1 thread)", b));
    MQ_TRY(measure("RMS norm", norm, n * HIDDEN * 4 * G, "GB/s", b));
    MQ_TRY(measure("rope", rope, n * (HEADS + KV_HEADS) * HEAD_DIM * 4 * G, "GB/s", b));
    MQ_TRY(measure("silu(gate) * up", silu, n * WIDE * 6 * G, "GB/s", b));
    MQ_TRY(measure("gelu(gate) * up", gelu, n * WIDE * 6 * G, "GB/s", b));
    MQ_TRY(measure("column sums of squares", sumsq, n * HIDDEN * 2 * G, "GB/s", b));
    MQ_TRY(measure("embedding", embed, n * HIDDEN * 4 * G, "GB/s", b));
    return measure("log-sum-exp of 49152", logsumexp, 64.0 * VOCAB * 4 * G, "GB/s (1 thread)", b);
}

int main(int argc, char **argv)
{
    buffers b = {0};
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    mq_status status = mq_ops_start(threads, "");
    if (status == MQ_OK) status = make_buffers(&b);
    if (status == MQ_OK) printf("%s, %d threads\n", mq_ops_describe(), threads);
    if (status == MQ_OK) status = measure_all(&b);
    if (status != MQ_OK) fprintf(stderr, "bench_kernels: %s\n", mq_message());
    free_buffers(&b);
    mq_ops_stop();
    return mq_exit_code(status);
}
