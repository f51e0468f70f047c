#!/usr/bin/env python3
"""Tests of bench/accuracy: which cells are chosen, the figures of the tables, resuming.

    python tests/unit/test_accuracy.py        (needs numpy)
"""
import json
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench/accuracy"), str(ROOT / "tests/parity")]

import cells  # noqa: E402
import plain  # noqa: E402
import prepare  # noqa: E402
import results  # noqa: E402
import table  # noqa: E402


def text(kl_sums, top1=0.9, growth=0.01):
    """The figures of one text, 10 tokens a document."""
    kl = sum(kl_sums) / (10 * len(kl_sums))
    return {"kl": kl, "kl_interval": [0.9 * kl, 1.1 * kl], "top1": top1,
            "top1_interval": [top1 - 0.01, top1 + 0.02], "log_perplexity_difference": growth,
            "log_perplexity_difference_interval": [growth - 0.002, growth + 0.002],
            "documents": {"tokens": [10] * len(kl_sums), "kl_sum": kl_sums}}


def record(method, seed, kl_sums, **rest):
    """A line of results; the same on both texts."""
    return {"key": f"demo/w4/{method}/s{seed}", "model": "demo", "bits": 4, "method": method,
            "seed": seed, "seconds": 7.0, "program": "x", "heldout": text(kl_sums, **rest),
            "other": text(kl_sums, **rest)}


class Cells(unittest.TestCase):
    def test_keys_are_unique_and_found_again(self):
        every = cells.all_cells()
        self.assertEqual(len({c.key for c in every}), len(every))
        for cell in every:
            self.assertIs(cells.find(cell.key).method, cell.method)

    def test_the_table_that_was_asked_for_is_there(self):
        keys = {c.key for c in cells.all_cells()}
        for model in ("demo", "third", "smol"):
            for bits in (4, 3, 2):
                for seed in (0, 1, 2):
                    for method in ("fast", "default", "best", cells.BASELINE):
                        self.assertIn(f"{model}/w{bits}/{method}/s{seed}", keys)

    def test_selection_by_pattern_and_by_what_is_done(self):
        every = cells.all_cells()
        some = cells.select(every, re.compile("demo/w4/fast/s[01]"))
        self.assertEqual([c.key for c in some], ["demo/w4/fast/s0", "demo/w4/fast/s1"])
        rest = cells.select(every, re.compile("demo/w4/fast/s[01]"), {"demo/w4/fast/s0": {}})
        self.assertEqual([c.key for c in rest], ["demo/w4/fast/s1"])
        self.assertEqual(len(cells.select(every)), len(every))

    def test_the_command_lists_what_is_left(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "r.jsonl"
            results.append(path, record("fast", 1, [1.0, 2.0]))
            done = subprocess.run([sys.executable, ROOT / "bench/accuracy.py", "list", "--results",
                                   path, "--only", "demo/w4/fast"], capture_output=True, text=True,
                                  check=True)
        self.assertEqual(done.stdout.split(), ["demo/w4/fast/s0", "demo/w4/fast/s2"])


class Results(unittest.TestCase):
    def test_the_later_of_two_lines_counts(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sub/r.jsonl"
            self.assertEqual(results.read(path), {})
            for kl in (1.0, 2.0):
                results.append(path, record("fast", 0, [kl, kl]))
            self.assertEqual(results.read(path)["demo/w4/fast/s0"]["heldout"]["kl"], 0.2)

    def test_only_what_tables_need_is_kept(self):
        evaluation = {name: 1 / 3 for name in results.KEPT}
        evaluation |= {"seconds": 1.0, "kl_interval": None, "per_document": {
            "tokens": [511, 7], "kl_sum": [1 / 3, 2e-9 / 3], "nll_sum": [1.0, 2.0]}}
        kept = results.figures(evaluation)
        self.assertEqual(kept["kl"], 0.333333)
        self.assertIsNone(kept["kl_interval"])
        self.assertEqual(kept["documents"], {"tokens": [511, 7], "kl_sum": [0.333333, 6.66667e-10]})
        self.assertNotIn("seconds", kept)


class Table(unittest.TestCase):
    def test_student(self):
        for freedom, quantile in ((8, 2.30600), (11, 2.20099), (47, 2.01174), (1000, 1.96234)):
            self.assertAlmostEqual(table.student(freedom), quantile, delta=1e-3)

    def test_ratio_is_the_jackknife(self):
        generator = np.random.default_rng(5)
        above, below = generator.random(12) + 1, generator.random(12) + 1
        r, half = table.ratio(above, below)
        without = [(above.sum() - a) / (below.sum() - b) for a, b in zip(above, below)]
        error = np.sqrt(11 / 12 * np.sum((np.array(without) - r)**2))
        self.assertAlmostEqual(r, above.sum() / below.sum())
        self.assertAlmostEqual(half, table.student(11) * error)

    def test_ratio_pairs_documents_and_common_seeds(self):
        base = {0: record("b", 0, [1.0, 4.0, 2.0]), 1: record("b", 1, [2.0, 2.0, 2.0])}
        half = {0: record("a", 0, [0.5, 2.0, 1.0]), 2: record("a", 2, [9.0, 9.0, 9.0])}
        r, width = table.against(half, base, "heldout")
        self.assertAlmostEqual(r, 0.5)
        self.assertAlmostEqual(width, 0)
        self.assertIsNone(table.against({2: half[2]}, base, "heldout"))

    def test_row(self):
        seeds = {0: record("best", 0, [1.0, 2.0]), 1: record("best", 1, [1.2, 2.2])}
        line = table.row("best", seeds, {})
        self.assertEqual(line, "| best | 2 | 160 ± 16 (14) |  | 90.0 ± 1.5 | +1.00 ± 0.20 "
                               "| 160 ± 16 (14) |  | 90.0 ± 1.5 | +1.00 ± 0.20 | 7 |\n")

    def test_direction_counts_pairs_that_differ(self):
        methods = {"a": {0: record("a", 0, [1.0, 2.0, 1.5], top1=0.9, growth=0.01)},
                   "b": {0: record("b", 0, [2.0, 4.0, 3.0], top1=0.8, growth=0.001)},
                   "c": {0: record("c", 0, [1.0, 2.0, 1.5], top1=0.9, growth=0.01)}}
        self.assertEqual(table.direction(methods, "other"), [2, 2, 0, 2])

    def test_tables_are_sorted_and_replace_only_what_is_between_the_markers(self):
        lines = [record(cells.BASELINE, 0, [2.0, 4.0, 3.0]), record("fast", 0, [1.0, 2.0, 1.5]),
                 record("once measured", 0, [5.0, 5.0, 5.0])]
        made = table.tables(lines)
        self.assertNotIn("once measured", made)
        self.assertIn("tells 1 pairs of methods apart", made)
        self.assertLess(made.index("| fast |"), made.index(f"| {cells.BASELINE} |"))
        self.assertIn("| 0.50 ± 0.00 |", made)
        document = f"top\n{table.BEGIN}\nold\n{table.END}\nbottom\n"
        changed = table.replace(document, made)
        self.assertEqual(table.replace(changed, made), changed)
        self.assertTrue(changed.startswith("top\n") and changed.endswith("\nbottom\n"))
        self.assertNotIn("old", changed)


class Prepare(unittest.TestCase):
    def test_quotations_are_joined(self):
        self.assertEqual(prepare.join(["a" * 2999, "b", "c"]), ["a" * 2999 + "\n\n", "b\n\nc\n\n"])
        self.assertEqual(prepare.join([]), [])

    def test_seed_0_has_no_suffix(self):
        names = [prepare.calibration_file(Path("w"), "demo", s).name for s in prepare.SEEDS]
        self.assertEqual(names, ["demo-calib.h5", "demo-calib-s1.h5", "demo-calib-s2.h5"])


class Plain(unittest.TestCase):
    def test_act_order_is_seen(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for desc_act, wanted in ((True, False), (False, True)):
                (folder / "config.json").write_text(json.dumps(
                    {"quantization_config": {"desc_act": desc_act}}))
                self.assertEqual(plain.in_order(folder), wanted)
            (folder / "config.json").write_text("{}")
            self.assertTrue(plain.in_order(folder))


if __name__ == "__main__":
    unittest.main()
