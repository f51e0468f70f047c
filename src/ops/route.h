#ifndef MQ_OPS_ROUTE_H
#define MQ_OPS_ROUTE_H

#include "base/dtype.h"

#include <stdbool.h>

/* Which experts the tokens of a unit go to. */

/** How the outputs of a router become scores of experts. */
typedef enum mq_score_kind { MQ_SCORE_SOFTMAX, MQ_SCORE_SIGMOID } mq_score_kind;

/** What a group of experts is worth where only the experts of some groups can be chosen. */
typedef enum mq_group_score { MQ_GROUP_BEST, MQ_GROUP_BEST_TWO } mq_group_score;

typedef struct mq_routing_kind {
    mq_score_kind score;
    int64_t n_experts, top_k;
    int64_t n_groups, top_groups; /* neighbours are a group; all can be chosen when 1 of 1 */
    mq_group_score group_score;
    bool normalised;    /* the weights of a token are divided by their sum, */
    double least_sum;   /* or by this where that is larger, */
    double scale;       /* then multiplied by this */
    bool scales_inputs; /* what an expert reads is multiplied by its weight, not what it makes */
} mq_routing_kind;

/** Chooses top_k experts for every token and weighs them.
 *  @param[in]  logits     (n_tok, n_experts) f32: what the router makes
 *  @param[in]  correction (n_experts) added to scores for the choice alone, not for the weights, or
 *                         NULL
 *  @param[out] expert     (n_tok, top_k), the best first; of equal scores the lower number
 *  @param[out] weight     (n_tok, top_k)
 *  Softmax and sums in f64. NaN counts as less than anything. Threads over tokens. Not collective.
 *  Source: transformers, the MoE blocks of mixtral, qwen3_moe, deepseek_v3, ernie4_5_moe. */
mq_status mq_route(const mq_routing_kind *kind, const float *logits, const float *correction,
                   int64_t n_tok, int32_t *expert, float *weight);

/** y (n_tok, n_out) f32 = x (n_tok, n_in) . wT + bias, in f32 whatever the type of x: a router's
 *  choice turns on small differences. w (n_out, n_in) and bias (n_out) f32, bias NULL: none.
 *  Threads over tiles of 64 tokens. Errors: MQ_E_MEMORY, those of mq_gemm. */
mq_status mq_router_logits(const void *x, mq_dtype dtype, int64_t n_tok, int64_t n_in,
                           const float *w, const float *bias, int64_t n_out, float *y);

/** Rows of each expert, in the order of tokens: counting sort of what mq_route chose.
 *  @param[out] begin (n_experts + 1) where the rows of an expert begin
 *  @param[out] token (n_tok * top_k), @param[out] row_weight the same: token and weight of a row
 *  skipped (n_tok), or NULL: tokens that go nowhere. Serial. */
void mq_route_sort(const mq_routing_kind *kind, const int32_t *expert, const float *weight,
                   int64_t n_tok, const uint8_t *skipped, int64_t *begin, int32_t *token,
                   float *row_weight);

/** out (n, d) = rows token[i] of x (n_tok, d). Threads over rows. */
mq_status mq_gather_rows(const void *x, int64_t d, mq_dtype dtype, const int32_t *token, int64_t n,
                         void *out);

/** sum (n_tok, d) f32, rows token[i], += weight[i] * y[i]; y (n, d); weight NULL: 1. No token
 * twice. Threads over rows. */
mq_status mq_scatter_add(const void *y, int64_t d, mq_dtype dtype, const int32_t *token,
                         const float *weight, int64_t n, float *sum);

/** x (n, d): row i is multiplied by weight[i]. Threads over rows. */
mq_status mq_scale_rows(void *x, int64_t d, mq_dtype dtype, const float *weight, int64_t n);

/** x (n_tok, d) += factor * sum, sum f32; rounded once. Threads over rows. */
mq_status mq_add_sum(const float *sum, double factor, int64_t n_tok, int64_t d, void *x,
                     mq_dtype dtype);

#endif
