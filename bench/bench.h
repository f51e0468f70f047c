#ifndef MQ_BENCH_H
#define MQ_BENCH_H

#include <stdio.h>
#include <stdlib.h>

/* Times of several runs. Their median counts; the spread tells how far to trust it on a machine
 * that does other things besides. */

enum { BENCH_MAX_RUNS = 51 };

typedef struct series {
    int n;
    double seconds[BENCH_MAX_RUNS];
} series;

static inline int compare_seconds(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline void series_add(series *s, double seconds)
{
    if (s->n < BENCH_MAX_RUNS) s->seconds[s->n++] = seconds;
}

/* A copy in ascending order. */
static inline series series_sorted(const series *s)
{
    series sorted = *s;
    qsort(sorted.seconds, (size_t)sorted.n, sizeof sorted.seconds[0], compare_seconds);
    return sorted;
}

static inline double series_median(const series *s)
{
    series sorted = series_sorted(s);
    return sorted.seconds[sorted.n / 2];
}

/* work: of one run, in units of 1e9 (`unit` per second). */
static inline void series_print(const char *name, const series *s, double work, const char *unit)
{
    series sorted = series_sorted(s);
    printf("%-44s %8.3f s %8.2f %s  (%.2f to %.2f)\n", name, series_median(s),
           work / series_median(s), unit, work / sorted.seconds[s->n - 1],
           work / sorted.seconds[0]);
    fflush(stdout);
}

/* How fast `ours` is beside `plain`, run by run, so that what slows both down does not count; the
 * runs of both took turns. */
static inline void series_ratio(const char *name, const series *ours, const series *plain,
                                double target)
{
    series ratio = {.n = ours->n};
    for (int i = 0; i < ours->n; i++) ratio.seconds[i] = plain->seconds[i] / ours->seconds[i];
    series sorted = series_sorted(&ratio);
    printf("%-44s %8.2f   (%.2f to %.2f), target %.2f: %s\n", name, series_median(&ratio),
           sorted.seconds[0], sorted.seconds[ratio.n - 1], target,
           series_median(&ratio) >= target ? "reached" : "MISSED");
    fflush(stdout);
}

static inline void series_target(const char *name, const series *s, double most)
{
    printf("%-44s %8.3f   target %.2f: %s\n", name, series_median(s), most,
           series_median(s) <= most ? "reached" : "MISSED");
    fflush(stdout);
}

#endif
