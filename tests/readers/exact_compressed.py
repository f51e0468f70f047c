#!/usr/bin/env python3
"""Compare the weights that transformers makes of compressed-tensors folders with ours, bit for bit.

    python tests/readers/exact_compressed.py DIR...

Ours: compressed_reference.py in float32, rounded once to the type of the scales: a code less its zero
point is an exact integer there, and the library rounds its product with the scale once. Folders with
zero points go through the library's decompressor without transformers, which (5.23, with
compressed-tensors 0.19) makes room for unpacked zero points and refuses packed ones. One line per
folder; exit code 1 if a weight differs, or nothing is quantised.
"""
import sys
from pathlib import Path

import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
from compressed_reference import PARTS, module_weights, quantization_config, read_folder  # noqa: E402


def from_transformers(folder, _):
    """name -> weight as the model has it after its first forward, which unpacks the weights."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    with torch.no_grad():
        logits = model(torch.arange(5, 21)[None], use_cache=False).logits
    if not torch.isfinite(logits).all():
        raise ValueError(f"{folder}: logits that are not finite")
    return {name: module.weight for name, module in model.named_modules()
            if getattr(module, "quantization_scheme", None)}


def from_library(folder, config):
    """name -> weight as the library's decompressor makes it of a module's tensors."""
    tensors = {}
    for path in Path(folder).glob("*.safetensors"):
        tensors.update(load_file(path))
    result = {}
    for name in [n.removesuffix(".weight_packed") for n in tensors if n.endswith(".weight_packed")]:
        scheme = QuantizationScheme(targets=[name], weights=QuantizationArgs(**module_weights(config, name)))
        parts = {p: tensors[f"{name}.{p}"] for p in PARTS if f"{name}.{p}" in tensors}
        result[name] = PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
    return result


def check(folder):
    """Print a folder's line; whether all weights agree."""
    config, ours = quantization_config(folder), read_folder(folder)
    schemes = [g["weights"] for g in config["config_groups"].values()]
    source = from_transformers if all(s["symmetric"] for s in schemes) else from_library
    theirs, wrong = source(folder, config), 0
    for name, weight in theirs.items():
        expected = torch.from_numpy(np.ascontiguousarray(ours[f"{name}.weight"])).to(weight.dtype)
        wrong += int((expected != weight).sum())
    kinds = ", ".join(f"{s['num_bits']} bits {s['strategy']}" for s in schemes)
    print(f"{folder}: {source.__name__}, {len(theirs)} modules, {kinds}: {wrong} weights differ")
    return wrong == 0 and len(theirs) > 0


if __name__ == "__main__":
    sys.exit(0 if all([check(folder) for folder in sys.argv[1:]]) else 1)
