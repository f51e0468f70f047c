#ifndef MQ_PIPELINE_TAP_RESULT_H
#define MQ_PIPELINE_TAP_RESULT_H

#include "par/node_share.h"
#include "plan/scheme.h"

/* What the solver makes of the layers of one tap, in memory that all ranks of a node see: codes,
 * scales, zero points and the sums that the report needs. Rows are cut into blocks of MQ_ROW_BLOCK,
 * zero-padded; block b of the tap belongs to rank b mod P. */

/* NEAREST_LOSS: of the row rounded to nearest under the same scales; NEAREST: 1 where that was
 * better and is what the row got. */
enum {
    MQ_STAT_LOSS,
    MQ_STAT_ENERGY,
    MQ_STAT_ERROR2,
    MQ_STAT_WEIGHT2,
    MQ_STAT_NEAREST_LOSS,
    MQ_STAT_NEAREST,
    MQ_N_STATS
};

typedef struct mq_tap_layer {
    mq_linear_id linear;
    mq_quant quant;
    int64_t n_out, n_groups;
    int64_t n_row_blocks, first_row_block; /* first: number within the tap */
    uint8_t *codes;                        /* (n_row_blocks * 128, n_in), original columns */
    float *scales;                         /* (n_row_blocks * 128, n_groups) */
    uint8_t *zeros;                        /* the same; NULL when symmetric */
    double *stats;                         /* (n_row_blocks, MQ_N_STATS, 128) */
    double *range;  /* (n_groups) how far groups reach, where scales are squares; else NULL */
    float *largest; /* (n_groups) what follows at quant.bits: quant.largest */
} mq_tap_layer;

typedef struct mq_tap_result {
    mq_share *share; /* room for the largest tap */
    int64_t n_in;
    int n_layers; /* layers of this tap that are quantised */
    int64_t n_row_blocks;
    mq_tap_layer layer[MQ_N_LINEARS];
    bool scaled;         /* codes and scales are those of W diag(1 / column_scale) */
    float *column_scale; /* (n_in) powers of two; room for any tap that a norm makes */
    int64_t n_groups;    /* of all layers */
    double *range;       /* storage of the layers */
    float *largest;
} mq_tap_result;

/** Room for any tap of the scheme, or for those of routed experts alone. Collective. */
mq_status mq_tap_result_create(const mq_comm *comm, const mq_scheme *scheme, mq_tap_result **out);
mq_status mq_tap_result_create_for_experts(const mq_comm *comm, const mq_scheme *scheme,
                                           mq_tap_result **out);
void mq_tap_result_destroy(mq_tap_result **result);

/** Bytes of that room on a node, checked. */
mq_status mq_tap_result_bytes(const mq_scheme *scheme, size_t *bytes);
mq_status mq_tap_result_bytes_of_experts(const mq_scheme *scheme, size_t *bytes);

/** Points the result at a tap of a block; n_layers is 0 when none of its layers is quantised. Not
 *  collective. Errors: MQ_E_MEMORY. */
mq_status mq_tap_result_bind(mq_tap_result *result, const mq_scheme *scheme, int64_t block,
                             mq_tap_id tap);

/** From a dequantised row (n_in) of a layer to its weights: nothing to do unless it is scaled. */
void mq_tap_result_unscale(const mq_tap_result *result, float *row);

/** Gives a layer so many bits, and where scales are squares what follows for them. */
void mq_tap_layer_set_bits(mq_tap_layer *layer, int bits);

/** Brings every row block from its owner to all nodes. Collective. */
mq_status mq_tap_result_publish(const mq_comm *comm, const mq_tap_result *result);

/** Brings all of it from one rank, which holds it in `from`, bound to the same tap. from: NULL on
 * the others. Collective. */
mq_status mq_tap_result_publish_from(const mq_comm *comm, mq_tap_result *result,
                                     const mq_tap_result *from, int owner);

/** The same for the statistics alone. Collective. */
mq_status mq_tap_result_publish_stats(const mq_comm *comm, const mq_tap_result *result);

/** Sum of a statistic over the rows of a layer, in row order. */
double mq_tap_result_sum(const mq_tap_layer *layer, int stat);

#endif
