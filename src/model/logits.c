#include "base/checked.h"
#include "base/parallel.h"
#include "model/block.h"
#include "ops/gemm.h"

enum { VOCAB_TILE = 2048 };

/* h (n_rows, hidden) . head (vocab, hidden)T, a tile of the vocabulary a task. */
typedef struct product {
    const mq_arch *arch;
    const mq_outer_weights *outer;
    const void *h;
    int64_t n_rows;
    float *out;
} product;

static mq_status tile(void *context, int64_t i)
{
    const product *p = context;
    int64_t v0 = i * VOCAB_TILE, n = mq_min_i64(VOCAB_TILE, p->arch->vocab - v0);
    int64_t hidden = p->arch->hidden, vocab = p->arch->vocab;
    mq_gemm_shape shape = {.m = p->n_rows,
                           .n = n,
                           .k = hidden,
                           .lda = hidden,
                           .ldb = hidden,
                           .ldc = vocab,
                           .in = p->outer->dtype,
                           .out = MQ_F32,
                           .b_trans = true};
    const char *head = p->outer->head;
    float scale = (float)p->arch->logit_scale;
    double cap = p->arch->logit_cap;
    head += (size_t)(v0 * hidden) * mq_dtype_size(p->outer->dtype);
    MQ_TRY(mq_gemm(&shape, p->h, head, p->out + v0));
    for (int64_t t = 0; t < p->n_rows && scale != 1; t++) {
        for (int64_t v = v0; v < v0 + n; v++) p->out[t * vocab + v] *= scale;
    }
    for (int64_t t = 0; t < p->n_rows && cap > 0; t++)
        mq_soft_cap(p->out + t * vocab + v0, n, 1, cap);
    return MQ_OK;
}

mq_status mq_block_logits(const mq_outer_weights *outer, const mq_arch *arch, const void *x,
                          int64_t t0, int64_t t1, void *h, float *out)
{
    const char *from = x;
    from += (size_t)(t0 * arch->hidden) * mq_dtype_size(outer->dtype);
    MQ_TRY(mq_norm(arch->norm, from, t1 - t0, arch->hidden, outer->final_norm,
                   outer->final_norm_bias, arch->norm_eps, h, outer->dtype));
    product p = {.arch = arch, .outer = outer, .h = h, .n_rows = t1 - t0, .out = out};
    return mq_parallel_for(mq_ceil_div(arch->vocab, VOCAB_TILE), tile, &p);
}
