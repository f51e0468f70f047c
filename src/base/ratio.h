#ifndef MQ_BASE_RATIO_H
#define MQ_BASE_RATIO_H

#include <stdint.h>

/* A mean per token from a sample of documents: tokens of one document are alike, so the documents
 * are the independent units, and the mean is a ratio of two sums over them. */

typedef struct mq_ratio {
    double value;          /* sum y / sum m; NaN when nothing was counted */
    double standard_error; /* of value; NaN for fewer than two documents */
    double half_width;     /* of its 95 % confidence interval; NaN for fewer than two documents */
    int64_t documents;     /* those with m > 0; the others tell nothing */
    double tokens;         /* sum m */
} mq_ratio;

/** The ratio R = sum y / sum m over n documents and its 95 % interval, by the jackknife: leaving
 * out document i moves R by d_i / (M - m_i), d_i = y_i - R m_i, M = sum m, hence
 *
 *      standard error^2 = (k - 1) / k * sum d_i^2 / (M - m_i)^2,      k documents with m > 0
 *
 *  and half width = t(0.975, k - 1) * standard error. Not collective.
 *  @param[in] y, m  (n) with `stride` doubles from one document to the next; y_i sums over the m_i
 *                   tokens of document i; m_i >= 0, and y_i = 0 where m_i = 0
 *  Cost: two passes. Sums run in the order given.
 *  Source: Quenouille-Tukey jackknife of a ratio; for equal m_i it is the linearised variance of
 *  cluster sampling (Cochran, Sampling Techniques, 3rd ed., chapter 6). */
mq_ratio mq_ratio_of(const double *y, const double *m, int64_t n, int64_t stride);

/** The 97.5 % point of Student's t with `freedom` degrees of freedom, at least 1; within 3e-8.
 *  Not collective. */
double mq_student_975(int64_t freedom);

#endif
