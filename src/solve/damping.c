#include "solve/solve.h"

int64_t mq_revive_dead(double *diagonal, int64_t n)
{
    double sum = 0;
    int64_t n_dead = 0;
    for (int64_t j = 0; j < n; j++) {
        sum += diagonal[j];
        n_dead += diagonal[j] == 0;
    }
    if (n_dead == 0) return 0;
    double mean = n_dead < n ? sum / (double)(n - n_dead) : 1.0;
    for (int64_t j = 0; j < n; j++) {
        if (diagonal[j] == 0) diagonal[j] = mean;
    }
    return n_dead;
}

double mq_damping_factor(double requested, int attempt)
{
    static const double ladder[] = {0.01, 0.03, 0.1, 0.3, 1.0};
    enum { N_STEPS = sizeof ladder / sizeof ladder[0] };
    if (attempt <= 0) return requested;
    int larger = 0;
    for (int i = 0; i < N_STEPS; i++) {
        if (ladder[i] > requested && ++larger == attempt) return ladder[i];
    }
    return -1;
}
