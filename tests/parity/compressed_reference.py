#!/usr/bin/env python3
"""Read a compressed-tensors folder (pack-quantized) into plain weights: an independent reader.

NumPy and safetensors only. 2, 4 and 8 bits, groups and whole rows, with and without zero points.

    python tests/parity/compressed_reference.py DIR        lists the modules and checks every shape

    read_folder(DIR) -> {"X.weight": float32 array (n_out, n_in), every other tensor as stored}
"""
import json
import re
import sys
from pathlib import Path

import numpy as np
from gptq_reference import read_tensors, unpack_rows

PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")


def quantization_config(folder):
    """The settings of a folder."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    config = config.get("quantization_config") or {}
    if (config.get("quant_method"), config.get("format")) != ("compressed-tensors", "pack-quantized"):
        raise ValueError(f"{folder}: not packed by compressed-tensors")
    return config


def module_weights(config, module):
    """The `weights` settings of a Linear module, or None if it is not quantised: a group that names
    it (or has a pattern for it) before one of all Linear modules."""
    def named(patterns):
        return any(re.match(p[3:], module) if p.startswith("re:") else p == module for p in patterns)
    if named(config["ignore"]):
        return None
    groups = config["config_groups"].values()
    found = [g for g in groups if named(g["targets"])] or [g for g in groups if "Linear" in g["targets"]]
    return found[0]["weights"] if found else None


def dequantise(tensors, weights, module):
    """(n_out, n_in) float32 of one module: scale[n, g] * (q[n, k] - zero[n, g])."""
    bits, part = weights["num_bits"], {p: tensors.get(f"{module}.{p}") for p in PARTS}
    n_out, n_in = part["weight_shape"]
    scale = part["weight_scale"].astype(np.float32)
    group = n_in if weights["strategy"] == "channel" else weights["group_size"]
    expected = {"weight_packed": (n_out, -(-n_in * bits // 32)), "weight_scale": (n_out, n_in // group)}
    if not weights["symmetric"]:
        expected["weight_zero_point"] = (-(-n_out * bits // 32), n_in // group)
    for name, shape in expected.items():
        if part[name].shape != tuple(shape):
            raise ValueError(f"{module}.{name}: expected {shape}, found {part[name].shape}")
    if weights["symmetric"] and part["weight_zero_point"] is not None:
        raise ValueError(f"{module}.weight_zero_point: of a symmetric layer")
    half = 1 << (bits - 1)
    codes = unpack_rows(part["weight_packed"].T, bits, n_in).T.astype(np.int32) - half
    zeros = np.zeros(scale.shape, np.int32)
    if not weights["symmetric"]:
        zeros = unpack_rows(part["weight_zero_point"], bits, n_out).astype(np.int32) - half
    spread = np.arange(n_in) // group
    return scale[:, spread] * (codes - zeros[:, spread]).astype(np.float32)


def read_folder(folder):
    """All tensors of the model, quantised modules as `X.weight` in float32."""
    config, tensors = quantization_config(folder), read_tensors(folder)
    modules = [n.removesuffix(".weight_packed") for n in tensors if n.endswith(".weight_packed")]
    packed = {f"{m}.{p}" for m in modules for p in PARTS}
    result = {k: v for k, v in tensors.items() if k not in packed}
    for module in modules:
        weights = module_weights(config, module)
        if weights is None:
            raise ValueError(f"{module}: packed, but by config.json it is not quantised")
        result[f"{module}.weight"] = dequantise(tensors, weights, module)
    return result


if __name__ == "__main__":
    for key, value in read_folder(sys.argv[1]).items():
        print(key, value.shape)
