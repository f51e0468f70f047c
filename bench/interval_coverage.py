#!/usr/bin/env python3
"""How often do 95 % intervals from few documents hold the KL of many? For docs/user-guide.md.

    python bench/interval_coverage.py EVAL.json [--draws N] [--resamples N]

EVAL.json is what `mpiquant eval --reference R --json --per-document` prints for many documents, best
of unequal lengths: the population. Documents are drawn from it with replacement. Needs SciPy.
"""
import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import norm, t as student

NUMBERS = (3, 5, 12, 32, 128)


def ratio(y, m):
    return y.sum(-1) / m.sum(-1)


def jackknife(y, m, _):
    """What src/base/ratio.h computes."""
    k, r, total = len(m), ratio(y, m), m.sum()
    error = np.sqrt((k - 1) / k * (((y - r * m) / (total - m)) ** 2).sum())
    return r + student.ppf(0.975, k - 1) * error * np.array([-1, 1])


def linearised(y, m, _):
    k, r = len(m), ratio(y, m)
    error = np.sqrt(k / (k - 1) * ((y - r * m) ** 2).sum()) / m.sum()
    return r + student.ppf(0.975, k - 1) * error * np.array([-1, 1])


def percentile(_, __, resampled):
    return np.quantile(resampled, (0.025, 0.975))


def bca(y, m, resampled):
    """Efron 1987, equations 2.3 and 6.6 with jackknife acceleration."""
    r, n = ratio(y, m), len(resampled)
    bias = norm.ppf(np.clip((resampled < r).mean(), 1 / n, 1 - 1 / n))
    without = (y.sum() - y) / (m.sum() - m)
    d = without.mean() - without
    acceleration = (d ** 3).sum() / max(6 * (d ** 2).sum() ** 1.5, 1e-300)
    z = bias + norm.ppf((0.025, 0.975))
    return np.quantile(resampled, norm.cdf(bias + z / (1 - acceleration * z)))


METHODS = (jackknife, linearised, percentile, bca)


def coverage(y, m, k, draws, resamples, generator):
    """The share of draws of k documents whose interval holds the ratio of all, by method."""
    held = np.zeros(len(METHODS))
    for _ in range(draws):
        i = generator.integers(0, len(m), k)
        j = i[generator.integers(0, k, (resamples, k))]
        resampled = ratio(y[j], m[j])
        ends = np.array([method(y[i], m[i], resampled) for method in METHODS])
        held += (ends[:, 0] <= ratio(y, m)) & (ratio(y, m) <= ends[:, 1])
    return held / draws


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()
    columns = json.loads(args.evaluation.read_text(encoding="utf-8"))["per_document"]
    y, m = (np.array(columns[name], float) for name in ("kl_sum", "tokens"))
    y, m = y[m > 0], m[m > 0]
    print("documents " + " ".join(f"{method.__name__:>11}" for method in METHODS))
    generator = np.random.default_rng(0)
    for k in NUMBERS:
        row = coverage(y, m, k, args.draws, args.resamples, generator)
        print(f"{k:9d} " + " ".join(f"{100 * x:9.1f} %" for x in row), flush=True)


if __name__ == "__main__":
    main()
