#!/usr/bin/env python3
"""Tests of tools/mpiquant-calib-multimodal on tiny random models, Qwen2.5-VL and Qwen3-VL.

    python tests/unit/test_calib_multimodal.py      (needs torch and transformers 5; without them, what needs
                                                     neither is tested)
"""
import importlib.machinery
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

try:
    import torch
    import transformers
except ImportError:
    torch = None

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "mpiquant-calib-multimodal"
TINY = ROOT / "tests" / "data" / "tiny"
IMAGE_TOKEN, IMAGE_ROWS = 90, (2, 3)


def load_tool():
    """The tool as a module."""
    loader = importlib.machinery.SourceFileLoader("calib_multimodal", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


class Processor:
    """Stands for a model's own: text is made of numbers, and an image of noise that its path decides."""

    def apply_chat_template(self, messages, **options):
        assert options["return_dict"] and options["tokenize"] and not options["add_generation_prompt"]
        ids, images = [], []
        for message in messages:
            parts = message["content"] if isinstance(message["content"], list) else [
                {"type": "text", "text": message["content"]}]
            for part in parts:
                if part["type"] == "text":
                    ids += [int(word) for word in part["text"].split()]
                    continue
                height, width = IMAGE_ROWS
                seed = torch.Generator().manual_seed(len(Path(part["path"]).read_bytes()))
                images.append(torch.randn((height * width, 12), generator=seed))
                ids += [92] + [IMAGE_TOKEN] * (height * width) + [93]
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones((1, len(ids)), dtype=torch.long)}
        if images:
            inputs["pixel_values"] = torch.cat(images)
            inputs["image_grid_thw"] = torch.tensor([[1, *IMAGE_ROWS]] * len(images))
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE_TOKEN).int()
        return inputs


def make_inputs(folder, name):
    """A model with a tokenizer.json, and samples: with none, with an image, with two, with none."""
    model = folder / "model"
    shutil.copytree(TINY / name, model)
    for file in ("config.v4.json", "expected.safetensors"):
        (model / file).unlink()
    vocabulary = {f"w{i}": i for i in range(96)}
    (model / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}}), encoding="utf-8")
    (folder / "a.bin").write_bytes(b"1")
    (folder / "b.bin").write_bytes(b"22")
    image = [{"type": "image", "path": name} for name in ("a.bin", "b.bin")]
    text = [{"type": "text", "text": " ".join(str(3 + (7 * i + k) % 80) for i in range(n))}
            for k, n in enumerate((9, 5, 20))]
    lines = [[{"role": "user", "content": text[1]["text"]}],
             [{"role": "user", "content": [text[0], image[0], text[1]]}],
             [{"role": "user", "content": [image[0], text[1], image[1]]},
              {"role": "assistant", "content": text[2]["text"]}],
             [{"role": "user", "content": text[2]["text"]}]]
    samples = folder / "samples.jsonl"
    samples.write_text("".join(json.dumps({"messages": line}) + "\n" for line in lines), encoding="utf-8")
    return model, samples


def make_file(tool, folder, output, *options, name="qwen2_5_vl"):
    """Runs the tool on the model in F32 with the processor above; returns its exit code and the model."""
    model_folder, samples = folder / "model", folder / "samples.jsonl"
    if not model_folder.exists():
        model_folder, samples = make_inputs(folder, name)
    model = transformers.AutoModelForMultimodalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tool.load = lambda _args: (model, Processor())
    return tool.main([str(samples), "--model", str(model_folder), "-o", str(output), *options]), model


class Tool(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="mpiquant-")
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def run_tool(self, *arguments):
        """The tool as a process of its own."""
        return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, check=False)

    def test_usage(self):
        self.assertIn("inputs_embeds", self.run_tool("--help").stdout)
        self.assertEqual(self.run_tool("x.jsonl").returncode, 2)
        done = self.run_tool("x.jsonl", "--model", self.root, "-o", self.root / "c.h5")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("config.json: no such file", done.stderr)

    @unittest.skipUnless(torch, "needs torch and transformers")
    def test_file(self):
        tool = load_tool()
        code, model = make_file(tool, self.root, self.root / "c.h5")
        self.assertEqual(code, 0)
        with h5py.File(self.root / "c.h5") as f:
            offsets, tokens = f["offsets"][()], f["tokens"][()]
            rows, positions = f["inputs_embeds"][()], f["position_ids"][()]
            self.assertEqual((f.attrs["format"], f.attrs["version"], f.attrs["vocab_size"]), ("mpiquant-calib", 1, 96))
        self.assertEqual(offsets.tolist(), [0, 5, 27, 68, 88])
        self.assertEqual(rows.shape, (88, 32))
        self.assertEqual((rows.dtype, positions.dtype, positions.shape), (np.uint16, np.int32, (3, 88)))
        self.assertEqual((tokens < 0).sum(), 18)
        embedded = model.get_input_embeddings().weight.detach().to(torch.bfloat16).view(torch.int16).numpy().view(
            np.uint16)
        np.testing.assert_array_equal(rows[tokens >= 0], embedded[tokens[tokens >= 0]])
        # text, an image of 2 x 3 whose cells have a row and a column, and text after the larger of the two
        np.testing.assert_array_equal(positions[0, 5:27], [*range(10), *[10] * 6, *range(13, 19)])
        np.testing.assert_array_equal(positions[1, 15:21], [10, 10, 10, 11, 11, 11])
        np.testing.assert_array_equal(positions[2, 15:21], [10, 11, 12, 10, 11, 12])
        np.testing.assert_array_equal(positions[:, 68:], [[*range(20)]] * 3)

    @unittest.skipUnless(torch, "needs torch and transformers")
    def test_deepstack(self):
        tool = load_tool()
        code, model = make_file(tool, self.root, self.root / "c.h5", name="qwen3_vl")
        self.assertEqual(code, 0)
        with h5py.File(self.root / "c.h5") as f:
            self.assertEqual([name for name in f if name.startswith("deep")], ["deepstack_embeds_0"])
            tokens, rows = f["tokens"][()], f["deepstack_embeds_0"][()]
        self.assertEqual((rows.shape, rows.dtype), ((88, 32), np.uint16))
        np.testing.assert_array_equal(tokens < 0, rows.any(axis=1))
        image = Processor().apply_chat_template([{"content": [{"type": "image", "path": self.root / "a.bin"}]}],
                                                return_dict=True, tokenize=True, add_generation_prompt=False)
        with torch.no_grad():
            seen = model.model.visual(image["pixel_values"], grid_thw=image["image_grid_thw"]).deepstack_features[0]
        np.testing.assert_array_equal(rows[15:21], tool.bf16(seen))

    @unittest.skipUnless(torch, "needs torch and transformers")
    def test_limits(self):
        tool = load_tool()
        self.assertEqual(make_file(tool, self.root, self.root / "c.h5", "--samples", "3", "--length", "12")[0], 0)
        with h5py.File(self.root / "c.h5") as f:
            self.assertEqual(f["offsets"].shape, (4,))
            self.assertEqual(max(np.diff(f["offsets"])), 12)
        (self.root / "a.bin").unlink()
        self.assertEqual(make_file(tool, self.root, self.root / "d.h5")[0], 3)
        self.assertEqual([p.name for p in self.root.glob("*.h5*")], ["c.h5"])


if __name__ == "__main__":
    unittest.main()
