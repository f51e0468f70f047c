#include "ops/naive.h"

#include "base/memory.h"

#include <math.h>

static double get(const void *x, int64_t i, mq_dtype dtype)
{
    if (dtype == MQ_BF16) return (double)mq_bf16_to_f32(((const uint16_t *)x)[i]);
    return (double)((const float *)x)[i];
}

static void put(void *x, int64_t i, double v, mq_dtype dtype)
{
    if (dtype == MQ_BF16) {
        ((uint16_t *)x)[i] = mq_f32_to_bf16((float)v);
    } else {
        ((float *)x)[i] = (float)v;
    }
}

void mq_naive_gemm(const mq_gemm_shape *s, const void *a, const void *b, void *c)
{
    for (int64_t i = 0; i < s->m; i++) {
        for (int64_t j = 0; j < s->n; j++) {
            double sum = s->accumulate ? get(c, i * s->ldc + j, s->out) : 0;
            for (int64_t l = 0; l < s->k; l++) {
                double x = get(a, s->a_trans ? l * s->lda + i : i * s->lda + l, s->in);
                double y = get(b, s->b_trans ? j * s->ldb + l : l * s->ldb + j, s->in);
                sum += x * y;
            }
            put(c, i * s->ldc + j, sum, s->out);
        }
    }
}

void mq_naive_norm(mq_norm_kind kind, const void *x, int64_t n_tok, int64_t d, const float *w,
                   const float *bias, double eps, void *y, mq_dtype dtype)
{
    for (int64_t t = 0; t < n_tok; t++) {
        double mean = 0, square = 0;
        if (kind == MQ_NORM_LAYER) {
            for (int64_t j = 0; j < d; j++) mean += get(x, t * d + j, dtype) / (double)d;
        }
        for (int64_t j = 0; j < d; j++) {
            square += pow(get(x, t * d + j, dtype) - mean, 2) / (double)d;
        }
        for (int64_t j = 0; j < d; j++) {
            double centred = get(x, t * d + j, dtype) - mean;
            double add = bias ? (double)bias[j] : 0;
            put(y, t * d + j, centred / sqrt(square + eps) * (double)w[j] + add, dtype);
        }
    }
}

void mq_naive_rope(void *x, int64_t n_tok, int64_t ld, int64_t n_heads, int64_t head_dim,
                   int64_t dim, const float *cos_sin, const int32_t *position, bool interleaved,
                   mq_dtype dtype)
{
    int64_t half = dim / 2;
    for (int64_t t = 0; t < n_tok; t++) {
        const float *row = cos_sin + position[t] * dim;
        for (int64_t h = 0; h < n_heads; h++) {
            for (int64_t i = 0; i < half; i++) {
                int64_t first = t * ld + h * head_dim + (interleaved ? 2 * i : i);
                int64_t second = first + (interleaved ? 1 : half);
                double c = (double)row[i], s = (double)row[half + i];
                double u = get(x, first, dtype), v = get(x, second, dtype);
                put(x, first, u * c - v * s, dtype);
                put(x, second, v * c + u * s, dtype);
            }
        }
    }
}

static double dot(const void *a, int64_t i, const void *b, int64_t j, int64_t n, mq_dtype dtype)
{
    double sum = 0;
    for (int64_t l = 0; l < n; l++) sum += get(a, i + l, dtype) * get(b, j + l, dtype);
    return sum;
}

/* One query and one head: query row t of a sample that starts at row t0. p has room for all
 * probabilities. */
static void attend(const mq_attention_shape *s, const void *q, const void *k, const void *v,
                   int64_t t0, int64_t t, int64_t h, double *p, void *out, mq_dtype dtype)
{
    int64_t d = s->head_dim, dv = mq_attention_value_dim(s), g = h / (s->n_heads / s->n_kv_heads);
    int64_t first = t0 + mq_attention_first_key(s, t - t0);
    double scale = s->query_factor ? s->scale * (double)s->query_factor[t - t0] : s->scale;
    double top = s->sink ? (double)s->sink[h] : -INFINITY, total = 0;
    for (int64_t u = first; u <= t; u++) {
        p[u - first] = scale * dot(q, t * s->ld_q + h * d, k, u * s->ld_k + g * d, d, dtype);
        if (s->cap > 0) p[u - first] = s->cap * tanh(p[u - first] / s->cap);
        top = fmax(top, p[u - first]);
    }
    if (s->sink) total = exp((double)s->sink[h] - top);
    for (int64_t u = first; u <= t; u++) {
        p[u - first] = exp(p[u - first] - top);
        total += p[u - first];
    }
    for (int64_t i = 0; i < dv; i++) {
        double sum = 0;
        for (int64_t u = first; u <= t; u++) {
            sum += p[u - first] / total * get(v, u * s->ld_v + g * dv + i, dtype);
        }
        put(out, t * s->ld_out + h * dv + i, sum, dtype);
    }
}

mq_status mq_naive_attention(const mq_attention_shape *shape, const void *q, const void *k,
                             const void *v, const int64_t *sample_offset, int64_t n_samples,
                             void *out, mq_dtype dtype)
{
    for (int64_t s = 0; s < n_samples; s++) {
        int64_t from = sample_offset[s], to = sample_offset[s + 1];
        double *p = NULL;
        MQ_TRY(mq_alloc(to - from, sizeof *p, "probabilities", &p));
        for (int64_t t = from; t < to; t++) {
            for (int64_t h = 0; h < shape->n_heads; h++) {
                attend(shape, q, k, v, from, t, h, p, out, dtype);
            }
        }
        mq_free(&p);
    }
    return MQ_OK;
}

void mq_naive_split_gates(const void *x, int64_t n_tok, int64_t ld, int64_t n_heads,
                          int64_t head_dim, void *y, mq_dtype dtype)
{
    for (int64_t t = 0; t < n_tok; t++) {
        for (int64_t j = 0; j < ld; j++) {
            int64_t part = j / head_dim, from = j; /* what stands behind the heads stays */
            if (part < 2 * n_heads) {
                int64_t pair = part < n_heads ? 2 * part : 2 * (part - n_heads) + 1;
                from = pair * head_dim + j % head_dim;
            }
            put(y, t * ld + j, get(x, t * ld + from, dtype), dtype);
        }
    }
}

/* NaN stays. */
static double clamp(double x, double low, double high)
{
    if (x < low) return low;
    return x > high ? high : x;
}

/* What the gate is multiplied by. */
static double multiplier(const mq_activation *act, double up)
{
    return act->kind == MQ_CLIPPED_SWIGLU ? clamp(up, -act->limit, act->limit) + 1 : up;
}

static double activate(const mq_activation *act, double x)
{
    const double root_2_over_pi = 0.79788456080286535588;
    switch (act->kind) {
    case MQ_SILU:
        return x / (1 + exp(-x));
    case MQ_SIGMOID:
        return 1 / (1 + exp(-x));
    case MQ_CLIPPED_SWIGLU:
        x = clamp(x, -INFINITY, act->limit);
        return x / (1 + exp(-act->slope * x));
    case MQ_GELU_TANH:
        return 0.5 * x * (1 + tanh(root_2_over_pi * (x + 0.044715 * x * x * x)));
    case MQ_GELU_ERF:
        break;
    }
    return 0.5 * x * erfc(-x / sqrt(2.0));
}

void mq_naive_gated(mq_activation activation, const void *gate, int64_t ld_gate, const void *up,
                    int64_t ld_up, int64_t n_tok, int64_t d, void *y, mq_dtype dtype)
{
    for (int64_t t = 0; t < n_tok; t++) {
        for (int64_t j = 0; j < d; j++) {
            double g = get(gate, t * ld_gate + j, dtype), u = get(up, t * ld_up + j, dtype);
            put(y, t * d + j, activate(&activation, g) * multiplier(&activation, u), dtype);
        }
    }
}

/* ---- linear attention ------------------------------------------------------------------------ */

/* A sample's rows of x begin at row0; its memory. */
typedef struct delta_sample {
    const mq_delta_shape *shape;
    const void *x;
    int64_t row0;
    mq_dtype dtype;
    double *state;     /* (k_dim, v_dim) */
    double *q, *k, *v; /* (k_dim), (k_dim), (v_dim) of one token and head */
} delta_sample;

/* A value of the convolution: of column `column` of x at token t, by weights of `channel`. */
static double mixed(const delta_sample *s, int64_t t, int64_t column, int64_t channel)
{
    int64_t kernel = s->shape->kernel;
    double sum = 0;
    for (int64_t j = 0; j < kernel; j++) {
        int64_t u = t - (kernel - 1) + j;
        if (u < 0) continue;
        sum += (double)s->shape->conv[channel * kernel + j] *
               get(s->x, (s->row0 + u) * s->shape->ld_x + column, s->dtype);
    }
    return sum / (1 + exp(-sum));
}

static void to_unit(double *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    for (int64_t i = 0; i < n; i++) x[i] /= sqrt(sum + MQ_DELTA_UNIT_EPS);
}

/* Query, key and value of head h at token t; returns the column where its gates begin. */
static int64_t delta_operands(const delta_sample *s, int64_t t, int64_t h)
{
    const mq_delta_shape *p = s->shape;
    int64_t d = p->k_dim, dv = p->v_dim, shared = p->n_v_heads / p->n_k_heads, g = h / shared;
    int64_t keys = p->n_k_heads * d, group = g * (2 * d + 2 * shared * dv);
    int64_t q_at = p->grouped ? group : g * d, k_at = p->grouped ? group + d : keys + g * d;
    int64_t v_at = p->grouped ? group + 2 * d + h % shared * dv : 2 * keys + h * dv;
    for (int64_t i = 0; i < d; i++) {
        s->q[i] = mixed(s, t, q_at + i, g * d + i);
        s->k[i] = mixed(s, t, k_at + i, keys + g * d + i);
    }
    for (int64_t j = 0; j < dv; j++) s->v[j] = mixed(s, t, v_at + j, 2 * keys + h * dv + j);
    to_unit(s->q, d);
    to_unit(s->k, d);
    return v_at + (p->grouped ? shared : p->n_v_heads) * dv;
}

/* The state after a token, and o (v_dim) = its product with the query, in the place of v. */
static void delta_step(const delta_sample *s, double decay, double beta)
{
    int64_t d = s->shape->k_dim, dv = s->shape->v_dim;
    for (int64_t j = 0; j < dv; j++) {
        double known = 0, o = 0;
        for (int64_t i = 0; i < d; i++) known += decay * s->state[i * dv + j] * s->k[i];
        for (int64_t i = 0; i < d; i++) {
            double *x = &s->state[i * dv + j];
            *x = decay * *x + s->k[i] * beta * (s->v[j] - known);
            o += *x * s->q[i] / sqrt((double)d);
        }
        s->v[j] = o;
    }
}

static void delta_output(const delta_sample *s, int64_t t, int64_t h, int64_t z_at, void *out)
{
    const mq_delta_shape *p = s->shape;
    double square = 0;
    for (int64_t j = 0; j < p->v_dim; j++) square += s->v[j] * s->v[j] / (double)p->v_dim;
    for (int64_t j = 0; j < p->v_dim; j++) {
        double z = get(s->x, (s->row0 + t) * p->ld_x + z_at + j, s->dtype);
        double normed = s->v[j] / sqrt(square + p->norm_eps) * (double)p->norm[j];
        put(out, ((s->row0 + t) * p->n_v_heads + h) * p->v_dim + j, normed * z / (1 + exp(-z)),
            s->dtype);
    }
}

static void delta_head(const delta_sample *s, int64_t length, int64_t h, const float *b,
                       const float *a, void *out)
{
    const mq_delta_shape *p = s->shape;
    int64_t shared = p->n_v_heads / p->n_k_heads;
    int64_t rate = p->grouped ? h / shared * 2 * shared + h % shared : h;
    for (int64_t i = 0; i < p->k_dim * p->v_dim; i++) s->state[i] = 0;
    for (int64_t t = 0; t < length; t++) {
        int64_t at = (s->row0 + t) * p->ld_rates + rate;
        double softplus = log1p(exp((double)a[at] + (double)p->dt_bias[h]));
        int64_t z_at = delta_operands(s, t, h);
        delta_step(s, exp(-exp((double)p->a_log[h]) * softplus), 1 / (1 + exp(-(double)b[at])));
        delta_output(s, t, h, z_at, out);
    }
}

mq_status mq_naive_delta(const mq_delta_shape *shape, const void *x, const float *b, const float *a,
                         const int64_t *sample_offset, int64_t n_samples, void *out, mq_dtype dtype)
{
    int64_t d = shape->k_dim, dv = shape->v_dim;
    delta_sample s = {.shape = shape, .x = x, .dtype = dtype};
    MQ_TRY(mq_alloc(d * dv + 2 * d + dv, sizeof *s.state, "a state", &s.state));
    s.q = s.state + d * dv;
    s.k = s.q + d;
    s.v = s.k + d;
    for (int64_t i = 0; i < n_samples; i++) {
        s.row0 = sample_offset[i];
        for (int64_t h = 0; h < shape->n_v_heads; h++) {
            delta_head(&s, sample_offset[i + 1] - s.row0, h, b, a, out);
        }
    }
    mq_free(&s.state);
    return MQ_OK;
}
