#!/usr/bin/env python3
"""Check the losses that a run reports, from the outside.

transformers runs the calibration samples through the model, once per linear layer, with the
quantised weights in place of every layer that the run had quantised before it; NumPy sums X^T X of
that layer's inputs in f64 and computes trace(E H E^T) / trace(W H W^T). The report must say the
same, up to what BF16 activations change.

    python tests/parity/losses.py OUTPUT --source MODEL --tokens calib.h5 [--blocks 2]
"""
import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from columns import unscale
from gptq_reference import read_folder, read_tensors
from reference_forward import read_samples

STAGES = (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",),
          ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))


def input_gram(model, module, samples):
    """Sum over all tokens of x x^T at the input of a module, f64."""
    n = module.weight.shape[1]
    total = torch.zeros(n, n, dtype=torch.float64)

    def hook(_, inputs):
        x = inputs[0].reshape(-1, n).double()
        total.add_(x.T @ x)
    handle = module.register_forward_pre_hook(hook)
    with torch.no_grad():
        for sample in samples:
            model(torch.as_tensor(sample)[None].long())
    handle.remove()
    return total


def check_block(model, block, samples, quantised, report):
    """Yields (name, reported, computed) for each layer, and leaves the block quantised."""
    for stage in STAGES:
        names = [f"model.layers.{block}.{leaf}" for leaf in stage]
        h = input_gram(model, model.get_submodule(names[0]), samples)
        for name in names:
            weight = model.get_submodule(name).weight
            w = weight.detach().double()
            e = w - torch.tensor(quantised[name + ".weight"]).double()
            yield name, report[name], float(((e @ h) * e).sum() / ((w @ h) * w).sum())
        for name in names:
            weight = model.get_submodule(name).weight
            weight.data = torch.tensor(quantised[name + ".weight"]).to(weight.dtype)


def main():
    """Prints a table and ends with 1 when a layer is off by more than the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=2, help="check the first so many")
    parser.add_argument("--tolerance", type=float, default=0.02, help="relative; BF16 against F32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(args.source, dtype=torch.float32).eval()
    samples = read_samples(args.tokens)
    quantised = unscale(read_folder(args.output), read_tensors(args.source))
    layers = json.loads((args.output / "mq_report.json").read_text())["layers"]
    report = {layer["name"]: layer["relative_loss"] for layer in layers}
    worst = 0.0
    for block in range(args.blocks):
        for name, said, found in check_block(model, block, samples, quantised, report):
            off = abs(said / found - 1)
            worst = max(worst, off)
            print(f"{name:40s} reported {said:.6e}  computed {found:.6e}  off {off:.2%}")
    print(f"worst {worst:.2%}")
    return worst > args.tolerance


if __name__ == "__main__":
    sys.exit(main())
