#!/usr/bin/env python3
"""Where the time of a run goes on a block of Llama-3-8B: 4096 wide, MLP of 14336, 32 heads, 8 of them keys.

    bench/llama_block.py --work DIR [--samples 16] [--full 512] [--mpiquant PROGRAM] [OPTION...]

Makes a model of one such block with random weights, quantises it with 2048-token samples of random tokens
(skewed like those of a language), and prints the shares of the solver: of that run, and of one with --full
samples, in which the parts that grow with the tokens (forward, Hessian, residual stream) take so many times as
long. The widths are those of the real model, the numbers are not: times do not depend on them, but for the
damping of wide taps, which longer models measure in a few of their blocks only and this one in all of its one.
Other options go to `mpiquant quantize`. DIR needs 0.5 GB; memory: 90 MB a sample and 6 GB.

Needs h5py, numpy and safetensors (.venv of tools/setup).
"""
import argparse
import json
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]
HIDDEN, MLP, KV, VOCAB, LENGTH = 4096, 14336, 1024, 4096, 2048
WITH_TOKENS = ("forward", "hessian", "reduce")
SOLVER = ("damping", "factor", "correction", "scales", "heads", "ldlq")

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
          "hidden_size": HIDDEN, "intermediate_size": MLP, "num_attention_heads": 32,
          "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 1, "vocab_size": VOCAB,
          "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
          "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False}


def make_model(folder):
    """One block in F16: its numbers are small, and NumPy has no BF16."""
    rng = np.random.default_rng(0)

    def normal(rows, columns, size):
        return (size * rng.standard_normal((rows, columns), np.float32)).astype(np.float16)
    block, size = "model.layers.0", HIDDEN ** -0.5
    tensors = {"model.embed_tokens.weight": normal(VOCAB, HIDDEN, 1)}
    for name, rows in (("q", HIDDEN), ("k", KV), ("v", KV), ("o", HIDDEN)):
        tensors[f"{block}.self_attn.{name}_proj.weight"] = normal(rows, HIDDEN, size)
    tensors[f"{block}.mlp.gate_proj.weight"] = normal(MLP, HIDDEN, size)
    tensors[f"{block}.mlp.up_proj.weight"] = normal(MLP, HIDDEN, size)
    tensors[f"{block}.mlp.down_proj.weight"] = normal(HIDDEN, MLP, MLP ** -0.5)
    for name in (f"{block}.input_layernorm", f"{block}.post_attention_layernorm", "model.norm"):
        tensors[f"{name}.weight"] = np.ones(HIDDEN, np.float16)
    folder.mkdir(parents=True)
    save_file(tensors, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")


def write_tokens(path, samples):
    """Token t with a probability like 1 / (t + 10)."""
    weights = 1 / (np.arange(VOCAB) + 10)
    tokens = np.random.default_rng(1).choice(VOCAB, samples * LENGTH, p=weights / weights.sum())
    with h5py.File(path, "w") as file:
        file["tokens"] = tokens.astype(np.int32)
        file["offsets"] = np.arange(samples + 1, dtype=np.int64) * LENGTH
        file.attrs.update(format="mpiquant-calib", version=np.int64(1), vocab_size=np.int64(VOCAB),
                          tokenizer_sha256="", source="bench/llama_block.py")


def shares(seconds, factor):
    """The solver's sections and their sum, as shares of all with `factor` times as many tokens."""
    total = sum(t * (factor if name in WITH_TOKENS else 1) for name, t in seconds.items())
    parts = {name: seconds[name] / total for name in SOLVER}
    return {**parts, "solver": sum(parts.values())}


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--full", type=int, default=512)
    parser.add_argument("--mpiquant", default=ROOT / "build/mpiquant")
    args, options = parser.parse_known_args()
    model, tokens, out = args.work / "model", args.work / "tokens.h5", args.work / "out"
    if not model.exists():
        make_model(model)
    write_tokens(tokens, args.samples)
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run([str(args.mpiquant), "quantize", str(model), "--calib", str(tokens), "--output", str(out),
                    *options], check=True)
    timing = json.loads((out / "mq_report.json").read_text(encoding="utf-8"))["timing"]
    seconds = {name: spread["average"] for name, spread in timing.items()}
    for samples in (args.samples, args.full):
        found = shares(seconds, samples / args.samples)
        print(f"{samples} samples of {LENGTH}: "
              + ", ".join(f"{name} {100 * share:.1f} %" for name, share in found.items()))


if __name__ == "__main__":
    main()
