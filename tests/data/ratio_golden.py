#!/usr/bin/env python3
"""Makes ratio_golden.h for tests/unit/test_base_ratio.c: ratios over documents with their 95 %
interval, with NumPy and SciPy by leaving out every document in turn, not by the closed form of
src/base/ratio.c.

    python3 tests/data/ratio_golden.py > tests/data/ratio_golden.h
"""
import numpy as np
from scipy.stats import t as student

FREEDOM = [1, 2, 3, 7, 20, 29, 30, 31, 32, 45, 63, 127, 500, 10**4, 10**6, 10**12]


def cases():
    """(name, y, m) of documents."""
    g = np.random.default_rng(20)
    lengths = np.round(np.exp(g.normal(4, 1.2, 45)))
    yield "equal lengths", g.gamma(2, 1, 12).round(3), np.full(12, 511.0)
    yield "unequal lengths", (lengths * g.gamma(9, 0.3, 45)).round(3), lengths
    yield "two", np.array([3.5, 20.25]), np.array([2.0, 31.0])
    yield "nearly all in one", np.array([1.5, 900.0, 0.25, 2.0]), np.array([3.0, 4000.0, 1.0, 2.0])
    yield "documents of one token", np.array([0, 4.5, 0, 1.25, 7, 0]), np.array([0, 5.0, 0, 1, 9, 0])
    yield "both signs", (g.normal(0, 1, 31) * 8).round(3), np.round(g.uniform(1, 30, 31))
    yield "all zero", np.zeros(5), np.arange(1.0, 6)
    yield "far from zero", 1e6 * np.arange(1.0, 9) + g.uniform(-1, 1, 8).round(3), np.arange(1.0, 9)
    yield "no documents", np.zeros(0), np.zeros(0)
    yield "one", np.array([3.0]), np.array([4.0])
    yield "one of three", np.array([0, 3.0, 0]), np.array([0, 4.0, 0])
    yield "nothing counted", np.zeros(2), np.zeros(2)


def ratio(y, m):
    """value, standard error, half width, number of documents."""
    y, m = y[m > 0], m[m > 0]
    k = len(m)
    if k == 0:
        return np.nan, np.nan, np.nan, 0
    value = y.sum() / m.sum()
    if k == 1:
        return value, np.nan, np.nan, 1
    without = np.array([np.delete(y, i).sum() / np.delete(m, i).sum() for i in range(k)])
    error = np.sqrt((k - 1) / k * ((without - value) ** 2).sum())
    return value, error, student.ppf(0.975, k - 1) * error, k


def number(x):
    return "NAN" if np.isnan(x) else f"{x:.17g}"


def main():
    print("/* Made by ratio_golden.py: do not edit. */\n/* clang-format off */")
    print("static const double golden_documents[][2] = { /* y, m */")
    every = list(cases())
    for name, y, m in every:
        print(f"    /* {name} */")
        for a, b in zip(y, m):
            print(f"    {{{number(a)}, {number(b)}}},")
    print("};\n")
    print("static const struct {\n    const char *name;\n    int64_t n, documents;")
    print("    double value, standard_error, half_width;\n} golden_ratios[] = {")
    for name, y, m in every:
        value, error, half, k = ratio(y, m)
        print(f'    {{"{name}", {len(y)}, {k}, {number(value)}, {number(error)}, {number(half)}}},')
    print("};\n")
    print("static const struct {\n    int64_t freedom;\n    double point;\n} golden_student[] = {")
    for freedom in FREEDOM:
        print(f"    {{{freedom}, {student.ppf(0.975, freedom):.17g}}},")
    print("};")


if __name__ == "__main__":
    main()
