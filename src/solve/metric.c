#include "solve/grid.h"
#include "solve/simd.h"
#include "solve/tile.h"

#include <math.h>
#include <string.h>

/* Rows that share an output metric A have the loss tr(A E H E^T). With A + lambda_A I = R_A R_A^T
 * and N = R_A / diag(R_A), LDLQ over both sides rounds entry (i, k) with the feedback of all
 * entries (i', j), i' <= i, j <= k, but itself:
 *     t_ik = S_ik + sum_{i' < i} N_i'i (S_i'k - w^_i'k),   S_ik = w_ik + sum_{j < k} e_ij M_jk,
 * so what one-sided LDLQ keeps along the row is all that is needed: the second side is a recursion
 * down each column. */

/* R with a = R R^T, R upper triangular, from the last row to the first; false where a pivot is not
 * positive. a (m, m) with leading dimension MQ_ROW_BLOCK becomes R. */
static bool factor_upper(double *a, int64_t m)
{
    enum { LD = MQ_ROW_BLOCK };
    for (int64_t j = m - 1; j >= 0; j--) {
        double pivot = a[j * LD + j];
        for (int64_t k = j + 1; k < m; k++) pivot -= a[j * LD + k] * a[j * LD + k];
        if (!(pivot > 0) || !isfinite(pivot)) return false;
        a[j * LD + j] = sqrt(pivot);
        for (int64_t i = j - 1; i >= 0; i--) {
            double sum = a[i * LD + j];
            for (int64_t k = j + 1; k < m; k++) sum -= a[i * LD + k] * a[j * LD + k];
            a[i * LD + j] = sum / a[j * LD + j];
        }
    }
    return true;
}

void mq_metric_clear(mq_row_metric *metric)
{
    memset(metric->n, 0, sizeof metric->n);
    memset(metric->ratio, 0, sizeof metric->ratio);
    for (int64_t i = 0; i < MQ_ROW_BLOCK; i++) {
        metric->ratio[i * MQ_ROW_BLOCK + i] = 1;
        metric->row[i] = i;
        metric->begin[i] = i;
        metric->end[i] = i + 1;
    }
}

/* The rows of the set in the order of mq_order_columns. */
static void order_rows(mq_row_metric *metric, const double *a, int64_t first, int64_t m)
{
    double diagonal[MQ_ROW_BLOCK] = {0};
    for (int64_t i = 0; i < m; i++) diagonal[i] = a[i * m + i];
    mq_order_columns(diagonal, m, metric->row + first);
}

/* The set's part of `n`, from the factor, or of `ratio`, from A itself. */
static void store_factor(mq_row_metric *metric, int64_t first, int64_t m, const double *r)
{
    for (int64_t i = 0; i < m; i++) {
        float *to = metric->n + (first + i) * MQ_ROW_BLOCK + first;
        for (int64_t j = i + 1; j < m; j++) {
            to[j] = (float)(r[i * MQ_ROW_BLOCK + j] / r[j * MQ_ROW_BLOCK + j]);
        }
        metric->begin[first + i] = first;
        metric->end[first + i] = first + m;
    }
}

static void store_ratio(mq_row_metric *metric, int64_t first, int64_t m, const double *a)
{
    for (int64_t i = 0; i < m; i++) {
        float *to = metric->ratio + (first + i) * MQ_ROW_BLOCK + first;
        for (int64_t j = 0; j < m; j++) {
            to[j] = (float)(a[i * MQ_ROW_BLOCK + j] / a[j * MQ_ROW_BLOCK + j]);
        }
    }
}

void mq_metric_couple(mq_row_metric *metric, int64_t first, int64_t m, const double *a,
                      double damping)
{
    double mean = 0, damped[MQ_ROW_BLOCK * MQ_ROW_BLOCK], r[MQ_ROW_BLOCK * MQ_ROW_BLOCK];
    int64_t *row = metric->row + first;
    order_rows(metric, a, first, m);
    for (int64_t i = 0; i < m; i++) mean += a[i * m + i] / (double)m;
    for (int64_t i = 0; i < m; i++) {
        double *to = damped + i * MQ_ROW_BLOCK;
        for (int64_t j = 0; j < m; j++) to[j] = a[row[i] * m + row[j]];
        to[i] += damping * mean;
        memcpy(r + i * MQ_ROW_BLOCK, to, (size_t)m * sizeof *to);
    }
    for (int64_t i = 0; i < m; i++) row[i] += first;
    if (!(mean > 0) || !factor_upper(r, m)) return;
    store_factor(metric, first, m, r);
    store_ratio(metric, first, m, damped);
}

static void load(mq_wide_strip *s, const float *t, const mq_row_block *block,
                 const mq_tile_place *place)
{
    int64_t n_groups = place->n_in / block->quant.group;
    for (int64_t i = 0; i < MQ_ROW_BLOCK; i++) {
        int64_t r = block->metric->row[i];
        const float *w = block->w + r * place->n_in + place->k0;
        const float *scales = block->scales + r * n_groups;
        for (int64_t k = 0; k < place->n; k++) {
            int64_t group = place->order[place->k0 + k] / block->quant.group;
            float scale = scales[group];
            s->t[k][i] = t[r * place->n + k];
            s->w[k][i] = w[k];
            s->scale[k][i] = scale != 0 ? scale : 1; /* padding rows */
            s->zero[k][i] = (uint8_t)mq_zero_at(block, n_groups, r, group);
        }
    }
}

/* Column k: rounds the rows one after the other, each with the feedback of those before it. */
MQ_SIMD static void round_column(mq_wide_strip *s, const mq_row_metric *metric, int64_t k,
                                 float top)
{
    float shift[MQ_ROW_BLOCK] = {0};
    for (int64_t i = 0; i < MQ_ROW_BLOCK; i++) {
        float base = s->t[k][i], scale = s->scale[k][i], zero = s->zero[k][i];
        float q = mq_round_even(mq_clamp((base + shift[i]) / scale, -zero, top - zero));
        float rest = base - q * scale;
        const float *n = metric->n + i * MQ_ROW_BLOCK;
        s->code[k][i] = (uint8_t)(int)(q + zero);
        s->e[k][i] = s->w[k][i] - q * scale;
        s->t[k][i] = rest;
        for (int64_t j = i + 1; j < metric->end[i]; j++) shift[j] += rest * n[j];
    }
}

MQ_SIMD static void feed_columns(mq_wide_strip *s, int64_t k, const float *m, int64_t n)
{
    for (int64_t j = k + 1; j < n; j++) {
        for (int l = 0; l < MQ_ROW_BLOCK; l++) s->t[j][l] += s->e[k][l] * m[j];
    }
}

/* t holds S - w^ by now: e (H + lambda I) e^T is the sum of its squares times R_kk^2. */
static void store(const mq_wide_strip *s, mq_row_block *block, const mq_tile_place *place)
{
    for (int64_t i = 0; i < MQ_ROW_BLOCK; i++) {
        int64_t r = block->metric->row[i];
        float *e = block->e + r * place->n_in + place->k0;
        uint8_t *codes = block->codes + r * place->n_in;
        const int64_t *order = place->order + place->k0;
        for (int64_t k = 0; k < place->n; k++) {
            double rest = (double)s->t[k][i], error = (double)s->e[k][i], w = (double)s->w[k][i];
            e[k] = s->e[k][i];
            codes[order[k]] = s->code[k][i];
            block->loss[r] += rest * rest * place->r_squared[k];
            block->error2[r] += error * error;
            block->weight2[r] += w * w;
        }
    }
}

void mq_metric_quantise(mq_tile *tile, mq_row_block *block, const mq_tile_place *place)
{
    mq_wide_strip *s = &tile->wide;
    float top = (float)((1 << block->quant.bits) - 1);
    load(s, tile->t, block, place);
    for (int64_t k = 0; k < place->n; k++) {
        round_column(s, block->metric, k, top);
        feed_columns(s, k, place->m + k * place->n, place->n);
    }
    store(s, block, place);
}
