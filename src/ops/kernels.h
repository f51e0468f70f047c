#ifndef MQ_OPS_KERNELS_H
#define MQ_OPS_KERNELS_H

#include "base/dtype.h"

#include <stdbool.h>

/* The parts of a decoder block that are not matrix products. All take `dtype` = MQ_BF16 or MQ_F32
 * for activations, work in f32, and round once per stored value. Row-major. Threads over rows. */

typedef enum mq_norm_kind { MQ_NORM_RMS, MQ_NORM_LAYER } mq_norm_kind;

/** y (n_tok, d) = norm(x) * w + bias.  RMS: x / sqrt(mean(x^2) + eps). LAYER: (x - mean) / sqrt(var
 * + eps). w, bias (d) f32; bias NULL: none. x and y may be the same. Sums in f64-free, fixed order
 * f32 lanes. */
mq_status mq_norm(mq_norm_kind kind, const void *x, int64_t n_tok, int64_t d, const float *w,
                  const float *bias, double eps, void *y, mq_dtype dtype);

/** The same over heads of d inside rows: x[t * ld + h * d ...] for h < n_heads, in place.
 *  w (d) when per_head is false, (n_heads, d) when true; NULL: ones. */
mq_status mq_norm_heads(mq_norm_kind kind, void *x, int64_t n_tok, int64_t ld, int64_t n_heads,
                        int64_t d, const float *w, bool per_head, double eps, mq_dtype dtype);

/** Rotary embedding in place on heads of head_dim inside rows of x (n_tok, ld), of each on its
 *  first dim coordinates; nothing behind those of a row's last head is read or written. cos_sin
 * (max_position, dim): row p holds dim / 2 cosines, then dim / 2 sines of p * frequency_i. position
 * (n_tok) of each token in its sample. interleaved false: pairs (i, i + dim / 2), Llama; true:
 * pairs (2i, 2i + 1), Cohere. */
mq_status mq_rope(void *x, int64_t n_tok, int64_t ld, int64_t n_heads, int64_t head_dim,
                  int64_t dim, const float *cos_sin, const int32_t *position, bool interleaved,
                  mq_dtype dtype);

/** The same by n_axes positions a token: position (n_tok, n_axes), of which pair i < dim / 2 turns
 *  by number axis[i]. */
mq_status mq_rope_axes(void *x, int64_t n_tok, int64_t ld, int64_t n_heads, int64_t head_dim,
                       int64_t dim, const float *cos_sin, const int32_t *position, int n_axes,
                       const uint8_t *axis, bool interleaved, mq_dtype dtype);

/** Rows of x (n_tok, ld) that begin with n_heads pairs of a query and its gate, head_dim each,
 *  become all queries and then all gates, in place. Errors: MQ_E_MEMORY. */
mq_status mq_split_gates(void *x, int64_t n_tok, int64_t ld, int64_t n_heads, int64_t head_dim,
                         mq_dtype dtype);

/** Keys and values of latent attention. A row of kv (n_tok, n_heads * (nope + v)) holds for each
 *  head nope coordinates of its key, then its value. Keys go to k (n_tok, n_heads * (nope + rope)),
 *  each followed by the token's row of shared (n_tok, rope), the part that all heads have; values
 *  to the front of their rows, which stay n_heads * (nope + v) apart. Nothing is computed. */
mq_status mq_split_keys(void *kv, int64_t n_tok, int64_t n_heads, int64_t nope, int64_t v,
                        const void *shared, int64_t rope, void *k, mq_dtype dtype);

/** Shapes of causal attention over a unit of whole samples. */
typedef struct mq_attention_shape {
    int64_t n_heads, n_kv_heads, head_dim;
    int64_t value_dim;                /* of the heads of v and out; 0: head_dim */
    int64_t ld_q, ld_k, ld_v, ld_out; /* row strides, elements */
    double scale;                     /* of the scores, usually 1 / sqrt(head_dim) */
    double cap;                       /* scaled scores s become cap tanh(s / cap); 0: they stay */
    int64_t window;                   /* a query sees itself and window - 1 before it; 0: all */
    int64_t chunk;             /* and no key before position i / chunk * chunk, i its own; 0: all */
    const float *sink;         /* (n_heads) a score that joins the sum of a softmax; NULL: none */
    const float *query_factor; /* (longest sample) > 0: scores of a query times that of its position
                                  in the sample, before the cap; NULL: 1 */
} mq_attention_shape;

/** The first key that query i of a sample sees. */
static inline int64_t mq_attention_first_key(const mq_attention_shape *shape, int64_t i)
{
    int64_t window = shape->window > 0 && i >= shape->window ? i - shape->window + 1 : 0;
    int64_t chunk = shape->chunk > 0 ? i / shape->chunk * shape->chunk : 0;
    return window > chunk ? window : chunk;
}

/** Coordinates of a head of v, and of out. */
static inline int64_t mq_attention_value_dim(const mq_attention_shape *shape)
{
    return shape->value_dim > 0 ? shape->value_dim : shape->head_dim;
}

/** out (n_tok, n_heads * value_dim) = softmax(scale q kT, causal within each sample) v.
 *  Sample s is rows sample_offset[s] .. sample_offset[s + 1). Query head h uses kv head
 *  h / (n_heads / n_kv_heads). Blocked over queries: the full score matrix never exists; only the
 *  causal part is computed. Scores and softmax in f32; exp(score - maximum) is rounded to dtype
 *  before the product with v, and the sum of it divided out after, as PyTorch's
 *  scaled_dot_product_attention does. A sink takes its share of the sum and brings no value.
 * Threads over (sample, head, query block). head_dim and lengths may be anything. Cost: ~2 n^2 d
 * flops a head; 0.5 MB + 4.5 kB head_dim of scratch a thread. NaN and inf in v reach all queries of
 * their block of 128. Errors: MQ_E_INTERNAL for a shape that makes no sense (scale must be > 0);
 * MQ_E_MEMORY. */
mq_status mq_attention(const mq_attention_shape *shape, const void *q, const void *k, const void *v,
                       const int64_t *sample_offset, int64_t n_samples, void *out, mq_dtype dtype);

/** Added to the sum of squares that a query or key of linear attention is divided by the root of.
 */
#define MQ_DELTA_UNIT_EPS 1e-6

/** Shapes of linear attention by the gated delta rule. A key head's query and key serve
 *  n_v_heads / n_k_heads value heads, one after the other. */
typedef struct mq_delta_shape {
    int64_t n_k_heads, n_v_heads, k_dim, v_dim;
    int64_t kernel;   /* tokens that the convolution sees, of which its own is the last */
    bool grouped;     /* rows of x hold for each key head its query, key, values, and their gates z;
                         rows of b and a are one: for each key head all b, all a, and a points to
                         the first of these. Else all queries, all keys, all values, all z */
    int64_t ld_x;     /* row strides, elements: of x, */
    int64_t ld_rates; /* and of b and a */
    const float *conv; /* (2 n_k_heads k_dim + n_v_heads v_dim, kernel): of all queries, all keys,
                          all values, in this order */
    const float *a_log, *dt_bias; /* (n_v_heads) */
    const float *norm;            /* (v_dim) */
    double norm_eps;
} mq_delta_shape;

/** out (n_tok, n_v_heads * v_dim): of each value head, over the tokens of each sample,
 *      q, k, v = silu(convolution over the last `kernel` tokens), q and k then of length 1
 *      S = exp(-exp(a_log) softplus(a + dt_bias)) S,  S += k (sigmoid(b) (v - ST k))T,
 *      out = norm(ST q / sqrt(k_dim)) silu(z)
 *  S (k_dim, v_dim) is zero before a sample, norm is RMS. Sample s is rows sample_offset[s] ..
 *  sample_offset[s + 1). All in f32; out alone is rounded. Threads over (sample, value head); any
 *  sizes. Cost: 7 k_dim v_dim flops a token and value head; about 0.4 MB of scratch a thread at
 *  128. Errors: MQ_E_INTERNAL for a shape that makes no sense; MQ_E_MEMORY.
 *  Source: Gated Delta Networks, arXiv 2412.06464, eq. 10; transformers, modeling_qwen3_next. */
mq_status mq_delta(const mq_delta_shape *shape, const void *x, const float *b, const float *a,
                   const int64_t *sample_offset, int64_t n_samples, void *out, mq_dtype dtype);

/** x (n) becomes cap tanh(scale x / cap); NaN stays. Serial. */
void mq_soft_cap(float *x, int64_t n, double scale, double cap);

/* MQ_SIGMOID: the gate of attention's outputs. MQ_CLIPPED_SWIGLU, of gpt-oss: with g = min(gate,
 * limit) and u = up cut to [-limit, limit] it is g sigmoid(slope g) (u + 1), 1 in place of u + 1
 * without up. */
typedef enum mq_activation_kind {
    MQ_SILU,
    MQ_GELU_TANH,
    MQ_GELU_ERF,
    MQ_SIGMOID,
    MQ_CLIPPED_SWIGLU
} mq_activation_kind;

typedef struct mq_activation {
    mq_activation_kind kind;
    double limit, slope; /* of MQ_CLIPPED_SWIGLU, > 0 */
} mq_activation;

/** y (n_tok, d) = act(gate) * up, or act(gate) with up NULL; gate and up have row strides ld_gate,
 *  ld_up. y is contiguous, and may be up where ld_up is d. */
mq_status mq_gated(mq_activation activation, const void *gate, int64_t ld_gate, const void *up,
                   int64_t ld_up, int64_t n_tok, int64_t d, void *y, mq_dtype dtype);

/** out (n) = a - b. out may be a or b. */
mq_status mq_difference(const void *a, const void *b, int64_t n, void *out, mq_dtype dtype);

/** y (n) += factor (a - b), rounded once. */
mq_status mq_add_difference(const void *a, const void *b, double factor, int64_t n, void *y,
                            mq_dtype dtype);

/** y (n) += factor a, rounded once. */
mq_status mq_add_multiple(const void *a, double factor, int64_t n, void *y, mq_dtype dtype);

/** x (n_tok, d) = rows of an embedding table (vocab, d) of type table_dtype, times multiplier.
 *  Errors: MQ_E_INPUT naming a token outside [0, vocab). */
mq_status mq_embed(const void *table, mq_dtype table_dtype, int64_t vocab, int64_t d,
                   const int32_t *token, int64_t n_tok, double multiplier, void *x, mq_dtype dtype);

/** log(sum(exp(x))) over n > 0 values in f64 with the maximum taken out, and the index of the
 *  first maximum (0 when all are NaN). NaN in, NaN out. Serial. For eval. */
double mq_logsumexp(const float *x, int64_t n, int64_t *argmax);

#endif
