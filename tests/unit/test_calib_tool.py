#!/usr/bin/env python3
"""Tests of tools/mpiquant-calib: each kind of input, ragged samples, errors, determinism.

    python tests/unit/test_calib_tool.py        (needs tokenizers, h5py, numpy, jinja2, pyarrow)
"""
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

TOOL = Path(__file__).resolve().parents[2] / "tools" / "mpiquant-calib"
EOS = 0
TEMPLATE = ("{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}"
            "{% if m['role'] == 'bad' %}{{ raise_exception('unknown role') }}{% endif %}"
            "{% endfor %}")


def make_model(folder, vocab_size=None, bos=False):
    """A tokenizer of single bytes (id = rank of the byte's letter + 1; 0 ends a text)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|end|>": EOS, **{c: i + 1 for i, c in enumerate(letters)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|end|> $A", special_tokens=[("<|end|>", EOS)])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({
        "vocab_size": vocab_size or len(vocab), "hidden_size": 16, "num_attention_heads": 4,
        "head_dim": 8, "intermediate_size": 64, "eos_token_id": [EOS, 5]}))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "eos_token": {"content": "<|end|>"}, "chat_template": TEMPLATE}))
    return tokenizer


class CalibTool(unittest.TestCase):
    """Every test runs the tool as a user does and reads its file with h5py."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = Path(self.folder.name)
        self.model = self.path / "model"
        self.tokenizer = make_model(self.model)

    def run_tool(self, *arguments, code=0, output="out.h5"):
        """Run the tool, check its exit code, return the finished process."""
        command = [sys.executable, str(TOOL), *map(str, arguments), "-o",
                   str(self.path / output)]
        if "--tokenizer" not in arguments:
            command += ["--tokenizer", str(self.model)]
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              env=dict(os.environ, TOKENIZERS_PARALLELISM="false"))
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        if code:
            self.assertFalse((self.path / output).exists())
        self.assertEqual([p.name for p in self.path.glob(".*")], [])
        return done

    def samples(self, output="out.h5"):
        """The samples of an output file as lists of ids."""
        with h5py.File(self.path / output) as file:
            tokens, offsets = file["tokens"][()], file["offsets"][()]
        self.assertEqual(tokens.dtype, np.int32)
        self.assertEqual(offsets.dtype, np.int64)
        self.assertEqual((offsets[0], offsets[-1]), (0, len(tokens)))
        return [tokens[a:b].tolist() for a, b in zip(offsets, offsets[1:])]

    def texts(self, output="out.h5"):
        """The samples of an output file as text."""
        return [self.tokenizer.decode(s, skip_special_tokens=False)
                for s in self.samples(output)]

    def write(self, name, content):
        """A file in the test's folder; objects become lines of JSON."""
        path = self.path / name
        if isinstance(content, list):
            content = "".join(json.dumps(line) + "\n" for line in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def test_txt_is_one_document(self):
        text = self.write("a.txt", "first paragraph\n\nsecond é\n")
        self.run_tool(text, "--keep-documents")
        self.assertEqual(self.texts(), ["first paragraph\n\nsecond é\n"])

    def test_attributes(self):
        text = self.write("a.txt", "0123456789" * 20)
        self.run_tool(text, "--length", 16)
        digest = hashlib.sha256((self.model / "tokenizer.json").read_bytes()).hexdigest()
        with h5py.File(self.path / "out.h5") as file:
            self.assertEqual(file.attrs["format"], "mpiquant-calib")
            self.assertEqual(file.attrs["tokenizer_sha256"], digest)
            self.assertIn("a.txt", file.attrs["source"])
            for name, value in (("version", 1), ("vocab_size", 257)):
                self.assertEqual(file.attrs[name], value)
                self.assertEqual(file.attrs[name].dtype, np.int64)
            for name in ("format", "tokenizer_sha256", "source"):
                kind = file.attrs.get_id(name).get_type()
                self.assertTrue(kind.is_variable_str())
                self.assertEqual(kind.get_cset(), h5py.h5t.CSET_UTF8)
            self.assertEqual(file["tokens"].ndim, 1)

    def test_joined_samples_are_full(self):
        text = self.write("a.jsonl", [{"text": "x" * n} for n in range(1, 40)])
        self.run_tool(text, "--length", 50)
        samples = self.samples()
        total = sum(range(1, 40)) + 39          # an end-of-text token after each document
        self.assertEqual([len(s) for s in samples], [50] * (total // 50))
        ends = sum(s.count(EOS) for s in samples)
        self.assertGreater(ends, 30)
        runs = sorted(len(run) for run in "".join(self.texts()).split("<|end|>"))
        self.assertGreater(len(set(runs)), 25)  # whole documents survive

    def test_end_of_text_is_not_doubled(self):
        text = self.write("a.jsonl", [{"text": "abc<|end|>"}, {"text": "abc"}])
        self.run_tool(text, "--length", 8)
        self.assertEqual(self.texts(), ["abc<|end|>abc<|end|>"])

    def test_messages_go_through_the_template(self):
        talk = [{"role": "user", "content": "hi"}, {"role": "bot", "content": "yes"}]
        text = self.write("a.jsonl", [{"messages": talk}, {"text": "plain"}])
        self.run_tool(text, "--keep-documents")
        self.assertEqual(self.texts(), ["<|user|>hi<|end|><|bot|>yes<|end|>", "plain"])

    def test_template_file_comes_first(self):
        (self.model / "chat_template.jinja").write_text("T{{ messages[0]['content'] }}")
        text = self.write("a.jsonl", [{"messages": [{"role": "user", "content": "hi"}]}])
        self.run_tool(text, "--keep-documents")
        self.assertEqual(self.texts(), ["Thi"])

    def test_special_tokens_are_added_to_kept_texts_only(self):
        make_model(self.path / "bos", bos=True)
        text = self.write("a.jsonl", [{"text": "ab"},
                                      {"messages": [{"role": "u", "content": "c"}]}])
        chosen = ("--tokenizer", self.path / "bos")
        self.run_tool(text, *chosen, "--keep-documents")
        self.assertEqual(self.texts(), ["<|end|>ab", "<|u|>c<|end|>"])
        self.run_tool(self.write("b.txt", "abcdefg"), *chosen, "--length", 8)
        self.assertEqual(self.texts(), ["abcdefg<|end|>"])

    def test_parquet(self):
        import pyarrow
        from pyarrow import parquet
        parquet.write_table(pyarrow.table({"text": ["one", "two"], "other": [1, 2]}),
                            self.path / "a.parquet")
        talk = [{"role": "user", "content": "hi"}]
        parquet.write_table(pyarrow.table({"messages": [talk]}), self.path / "b.parquet")
        self.run_tool(self.path / "a.parquet", self.path / "b.parquet", "--keep-documents")
        self.assertEqual(self.texts(), ["one", "two", "<|user|>hi<|end|>"])

    def test_parquet_errors(self):
        import pyarrow
        from pyarrow import parquet
        parquet.write_table(pyarrow.table({"words": ["one"]}), self.path / "a.parquet")
        done = self.run_tool(self.path / "a.parquet", code=3)
        self.assertIn("neither a column `text` nor `messages`", done.stderr)
        done = self.run_tool(self.write("b.parquet", b"junk"), code=3)
        self.assertIn("b.parquet", done.stderr)
        parquet.write_table(pyarrow.table({"text": ["one", None]}), self.path / "c.parquet")
        self.assertIn("row 2", self.run_tool(self.path / "c.parquet", code=3).stderr)

    def test_ragged_samples_are_cut_and_empty_ones_dropped(self):
        text = self.write("a.jsonl", [{"text": "x" * n} for n in (3, 0, 20, 7)])
        done = self.run_tool(text, "--keep-documents", "--length", 10)
        self.assertEqual([len(s) for s in self.samples()], [3, 10, 7])
        self.assertIn("3 samples, 20 tokens", done.stdout)

    def test_same_seed_same_bytes(self):
        text = self.write("a.jsonl", [{"text": f"document {n} " * 5} for n in range(50)])
        contents = []
        for seed, name in ((1, "a.h5"), (1, "b.h5"), (2, "c.h5")):
            self.run_tool(text, "--length", 32, "--samples", 9, "--seed", seed, output=name)
            self.assertEqual([len(s) for s in self.samples(name)], [32] * 9)
            contents.append((self.path / name).read_bytes())
        self.assertEqual(contents[0], contents[1])
        self.assertNotEqual(contents[0], contents[2])

    def test_order_of_documents_is_fixed(self):
        """The shuffle depends on the seed alone, not on a library's version."""
        text = self.write("a.jsonl", [{"text": c} for c in "abcdefgh"])
        self.run_tool(text, "--length", 16, "--seed", 3)
        self.assertEqual(self.texts()[0].replace("<|end|>", ""), ORDER_FOR_SEED_3)

    def test_fewer_samples_than_wanted(self):
        text = self.write("a.txt", "x" * 99)
        done = self.run_tool(text, "--length", 20, "--samples", 7)
        self.assertIn("7 samples wanted, the text gives 5", done.stderr)
        self.assertEqual(len(self.samples()), 5)

    def test_text_below_one_sample(self):
        done = self.run_tool(self.write("a.txt", "short"), "--length", 100, code=3)
        self.assertIn("6 tokens, fewer than one sample of 100", done.stderr)
        done = self.run_tool(self.write("b.txt", ""), code=3)
        self.assertIn("empty", done.stderr)

    def test_coverage(self):
        text = self.write("a.txt", "x" * 319)
        done = self.run_tool(text, "--length", 32)
        self.assertIn("20.0  q, k, v, gate, up (hidden_size) = 16", done.stdout)
        self.assertIn("10.0  o (num_attention_heads x head_dim) = 32", done.stdout)
        self.assertIn("5.0  down (intermediate_size) = 64", done.stdout)
        self.assertIn("fewer than 10 tokens per input dimension for down", done.stderr)

    def test_errors_name_file_and_line(self):
        for name, content, expected in (
                ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl:2"),
                ("b.jsonl", b'\n{"words": 1}\n', "b.jsonl:2"),
                ("c.jsonl", b'{"text": "\xff"}\n', "c.jsonl:1"),
                ("d.jsonl", b'{"messages": ["x"]}\n', "d.jsonl:1"),
                ("e.jsonl", b'{"messages": [{"role": "bad", "content": "x"}]}\n', "unknown role"),
                ("f.jsonl", b'[1]\n', "f.jsonl:1"),
                ("g.txt", b"fine\nnot \xff fine\n", "g.txt:2")):
            with self.subTest(name):
                done = self.run_tool(self.write(name, content), code=3)
                self.assertIn(expected, done.stderr)
        self.assertIn("none.txt", self.run_tool(self.path / "none.txt", code=3).stderr)

    def test_bad_model(self):
        text = self.write("a.txt", "x" * 100)
        make_model(self.path / "small", vocab_size=60)
        chosen = ("--length", 10, "--tokenizer")
        done = self.run_tool(text, *chosen, self.path / "small", code=3)
        self.assertIn("vocabulary of 60", done.stderr)
        done = self.run_tool(text, *chosen, self.path / "none", code=3)
        self.assertIn("config.json", done.stderr)
        (self.model / "tokenizer.json").write_text("{}")
        self.assertIn("tokenizer.json", self.run_tool(text, *chosen, self.model, code=3).stderr)

    def test_end_of_text_from_the_tokenizer(self):
        config = json.loads((self.model / "config.json").read_text())
        del config["eos_token_id"]
        (self.model / "config.json").write_text(json.dumps(config))
        text = self.write("a.txt", "x" * 9)
        self.run_tool(text, "--length", 10)
        self.assertEqual(self.texts(), ["x" * 9 + "<|end|>"])
        (self.model / "tokenizer_config.json").unlink()
        (self.path / "out.h5").unlink()
        self.assertIn("end-of-text", self.run_tool(text, "--length", 10, code=3).stderr)

    def test_usage(self):
        text = self.write("a.txt", "x")
        self.run_tool(text, "--samples", 0, code=2)
        self.run_tool(text, "--length", "many", code=2)
        self.run_tool(self.write("a.doc", "x"), code=2)

    def test_output_cannot_be_written(self):
        text = self.write("a.txt", "x" * 20)
        done = self.run_tool(text, "--length", 5, code=4, output="no/such/folder.h5")
        self.assertIn("cannot write", done.stderr)


ORDER_FOR_SEED_3 = "edchbgfa"

if __name__ == "__main__":
    unittest.main()
