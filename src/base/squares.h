#ifndef MQ_BASE_SQUARES_H
#define MQ_BASE_SQUARES_H

/* Scales that are squares, as EXL2 stores them: all rows share the largest scale of a group, and
 * each row has a root of 1 to 16 there. A row's scale is root^2 * (largest / 256), both the
 * quotient and the product rounded to half precision: what ExLlamaV2 computes. */

enum { MQ_LARGEST_ROOT = 16 };

/** The number nearest to x that `largest` below may be: 256 times a positive half, so that the
 *  quotient is exact and no scale is 0. */
float mq_squares_largest(float x);

float mq_square_scale(float largest, int root);

/** The root whose square is nearest to scale; the lower of two. */
int mq_square_root(float largest, float scale);

#endif
