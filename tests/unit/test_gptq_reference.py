#!/usr/bin/env python3
"""Tests of tests/parity/gptq_reference.py against codes packed one by one.

    python tests/unit/test_gptq_reference.py        (needs numpy, safetensors)
"""
import json
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "parity"))

import gptq_pack  # noqa: E402
import gptq_reference  # noqa: E402

TINY = TESTS / "data" / "tiny"


class Unpacking(unittest.TestCase):
    """Codes come back for every width, also where they do not fill the last word."""

    def test_every_width(self):
        rng = np.random.default_rng(0)
        for bits in (2, 3, 4, 8):
            for count in (1, 31, 32, 33, 96, 127):
                codes = rng.integers(0, 1 << bits, (count, 5))
                words = gptq_pack.pack_rows(codes, bits)
                self.assertEqual(words.shape, (-(-count * bits // 32), 5))
                back = gptq_reference.unpack_rows(words, bits, count)
                np.testing.assert_array_equal(back, codes)

    def test_known_words(self):
        codes = np.arange(8)[:, None]
        self.assertEqual(int(gptq_pack.pack_rows(codes, 4)[0, 0]), 0x76543210)
        symmetric = np.full((8, 1), 7)
        self.assertEqual(int(gptq_pack.pack_rows(symmetric, 4)[0, 0]), 0x77777777)
        ones = np.zeros((32, 1), int)
        ones[10], ones[21] = 7, 7
        words = gptq_reference.unpack_rows(gptq_pack.pack_rows(ones, 3), 3, 32)
        np.testing.assert_array_equal(words, ones)
        self.assertEqual([int(w) & 0xFFFFFFFF for w in gptq_pack.pack_rows(ones, 3)[:, 0]],
                         [0xC0000000, 0x80000001, 0x00000003])


class Settings(unittest.TestCase):
    """`dynamic`: anchored at the start, first match wins, `-:` skips."""

    def test_first_match_wins(self):
        config = {"bits": 4, "group_size": 32, "sym": True, "desc_act": False, "dynamic": {
            r"-:.*\.1\..*k_proj": {}, r"+:.*k_proj": {"bits": 8}, r".*\.0\.": {"group_size": 64},
            r"k_proj": {"bits": 2}}}

        def chosen(module):
            found = gptq_reference.module_settings(config, module)
            return found and (found["bits"], found["group_size"])
        self.assertIsNone(chosen("model.layers.1.self_attn.k_proj"))
        self.assertEqual(chosen("model.layers.0.self_attn.k_proj"), (8, 32))
        self.assertEqual(chosen("model.layers.0.self_attn.q_proj"), (4, 64))
        self.assertEqual(chosen("model.layers.1.self_attn.q_proj"), (4, 32))


class Folders(unittest.TestCase):
    """Whole folders, packed from the tiny models."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.output = Path(self.folder.name) / "out"

    def pack(self, name="llama2", bits=4, group=32, version="gptq", dynamic=None):
        """Pack a tiny model; returns what its codes stand for."""
        settings = gptq_pack.quantize_config(bits, group, version, dynamic or {})
        return gptq_pack.pack_folder(TINY / name, self.output, settings)

    def edit(self, change):
        """Change the settings in both places."""
        for name in ("config.json", "quantize_config.json"):
            path = self.output / name
            value = json.loads(path.read_text())
            change(value.get("quantization_config", value))
            path.write_text(json.dumps(value))

    def test_weights_come_back_exactly(self):
        for bits, group, version in ((2, 32, "gptq"), (3, 32, "gptq"), (4, -1, "gptq"),
                                     (4, 32, "gptq_v2"), (8, 16, "gptq")):
            with self.subTest(bits=bits, group=group, version=version):
                self.output = Path(self.folder.name) / f"{bits}{group}{version}"
                exact = self.pack("qwen2", bits, group, version)
                self.assertEqual(len(exact), 14)
                found = gptq_reference.read_folder(self.output)
                original = gptq_reference.read_tensors(TINY / "qwen2")
                self.assertEqual(set(found), set(original))
                for name, value in exact.items():
                    np.testing.assert_array_equal(found[name], value.astype(np.float32))
                    error = np.abs(found[name] - original[name]).max()
                    self.assertLess(error, np.abs(original[name]).max() / (1 << (bits - 1)))
                np.testing.assert_array_equal(found["model.norm.weight"],
                                              original["model.norm.weight"])

    def test_overrides(self):
        exact = self.pack(dynamic={"-:.*v_proj": {}, r"+:.*\.1\..*down": {"bits": 8}})
        found = gptq_reference.read_folder(self.output)
        self.assertNotIn("model.layers.0.self_attn.v_proj.weight", exact)
        self.assertIn("model.layers.0.self_attn.v_proj.weight", found)
        for name, value in exact.items():
            np.testing.assert_array_equal(found[name], value.astype(np.float32))

    def test_version_matters(self):
        self.pack()
        self.edit(lambda c: c.update(checkpoint_format="gptq_v2"))
        with self.assertRaisesRegex(ValueError, "symmetric zero"):
            gptq_reference.read_folder(self.output)

    def test_wrong_settings(self):
        self.pack()
        self.edit(lambda c: c.update(group_size=64))
        with self.assertRaisesRegex(ValueError, "scales: expected"):
            gptq_reference.read_folder(self.output)
        self.edit(lambda c: c.update(group_size=32, dynamic={"-:.*q_proj": {}}))
        with self.assertRaisesRegex(ValueError, "skips"):
            gptq_reference.read_folder(self.output)
        (self.output / "quantize_config.json").write_text("{}")
        with self.assertRaisesRegex(ValueError, "differs"):
            gptq_reference.read_folder(self.output)


if __name__ == "__main__":
    unittest.main()
