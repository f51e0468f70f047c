#!/usr/bin/env python3
"""Tests of tests/parity/exl2_reference.py on numbers worked out by hand.

    python tests/unit/test_exl2_reference.py        (needs numpy, safetensors)
"""
import sys
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))

import exl2_reference  # noqa: E402


class Exl2(unittest.TestCase):
    def test_scales_by_hand(self):
        """4 / 256 = 2^-6: roots 1, 2 and 16 give 2^-6, 2^-4 and 4; 2^-17 / 256 is below all halves."""
        scales = exl2_reference.group_scales(np.array([4, 2 ** -17], np.float16), np.array([[0, 1, 15]] * 2))
        np.testing.assert_array_equal(scales, np.array([[2 ** -6, 2 ** -4, 4], [0, 0, 0]], np.float16))

    def test_streams_by_hand(self):
        """Code k of 3 bits begins at bit 3 k: code 10 has two bits in word 0 and one in word 1."""
        codes = np.zeros((32, 2), int)
        codes[10, 1] = 7
        np.testing.assert_array_equal(exl2_reference.pack_stream(codes, 3).view(np.uint32),
                                      np.array([[0, 3 << 30], [0, 1], [0, 0]], np.uint32))

    def test_groups_by_hand(self):
        self.assertEqual(exl2_reference.group_rows(np.array([5, 0, 4, 5], np.int16), 13, 90),
                         [(5, 0, 5, 32), (4, 5, 13, 58)])
        for groups in ([4, 0, 5, 4], [5, 0, 4, 20]):
            with self.assertRaises(ValueError):
                exl2_reference.group_rows(np.array(groups, np.int16), 13, 90)

    def test_what_is_packed_comes_back(self):
        rng = np.random.default_rng(1)
        widths = [(8, 32), (6, 32), (5, 64), (4, 32), (3, 32), (2, 16), (2, 20)]
        weight = rng.standard_normal((37, sum(r for _, r in widths))).astype(np.float32)
        order = rng.permutation(weight.shape[1])
        back = exl2_reference.dequantise(exl2_reference.pack(weight, widths, order), 37)
        k = 0
        for bits, rows in widths:
            channels = order[k:k + rows]
            error = np.abs(back - weight)[:, channels].mean()
            self.assertLess(error, 3.0 / (1 << bits))
            self.assertGreater(error, 0.2 / (1 << bits))
            k += rows


if __name__ == "__main__":
    unittest.main()
