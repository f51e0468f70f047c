#!/usr/bin/env python3
"""Read a GPTQ folder into plain weights: an independent reader to test the writer with.

NumPy and safetensors only. Understands checkpoint_format gptq (v1, stored zeros are one too low)
and gptq_v2, 2/3/4/8 bits, group sizes that need not divide anything, g_idx in any order, and
overrides per module (`dynamic`).

    python tests/parity/gptq_reference.py DIR       lists the modules and checks every shape

    read_folder(DIR) -> {"X.weight": float32 array (n_out, n_in), every other tensor as stored}
"""
import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np

PARTS = ("qweight", "qzeros", "scales", "g_idx")
DTYPES = {"BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2",
          "I32": "<i4", "U32": "<u4", "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8"}


# ---------------------------------------------------------------- safetensors

def read_safetensors(path):
    """All tensors of one file. BF16 comes as float32, everything else in its own type."""
    from safetensors import deserialize
    result = {}
    for name, entry in deserialize(Path(path).read_bytes()):
        raw, shape = entry["data"], entry["shape"]
        if entry["dtype"] == "BF16":
            value = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            value = np.frombuffer(raw, DTYPES[entry["dtype"]])
        result[name] = value.reshape(shape)
    return result


def read_tensors(folder):
    """All tensors of a model folder, through its index if it has one."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(folder / "model.safetensors")
    weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    result = {}
    for name in sorted(set(weight_map.values())):
        for key, value in read_safetensors(folder / name).items():
            if weight_map.get(key) != name:
                raise ValueError(f"{name}: tensor {key} is not listed for this file in the index")
            result[key] = value
    missing = set(weight_map) - set(result)
    if missing:
        raise ValueError(f"{index}: not in their files: {sorted(missing)[:5]}")
    return result


# ---------------------------------------------------------------- settings

def module_settings(config, module):
    """bits, group_size, sym, desc_act of one module, or None if `dynamic` skips it.

    The patterns of `dynamic` are anchored at the start only. The first that matches decides:
    `-:` skips the module, `+:` or no prefix overrides settings.
    """
    settings = {key: config.get(key) for key in ("bits", "group_size", "sym", "desc_act")}
    for pattern, changes in (config.get("dynamic") or {}).items():
        skip = pattern.startswith("-:")
        plain = pattern[2:] if pattern[:2] in ("-:", "+:") else pattern
        if re.match(plain, module):
            return None if skip else {**settings, **(changes or {})}
    return settings


def quantization_config(folder):
    """The settings of a folder; quantize_config.json and config.json must not differ."""
    inner = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    inner = inner.get("quantization_config")
    path = Path(folder) / "quantize_config.json"
    outer = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if inner is None and outer is None:
        raise ValueError(f"{folder}: neither config.json nor quantize_config.json has settings")
    if inner is not None and outer is not None and inner != outer:
        raise ValueError(f"{folder}: quantize_config.json differs from config.json")
    config = inner or outer
    if config.get("quant_method") != "gptq":
        raise ValueError(f"{folder}: quant_method is {config.get('quant_method')!r}, not 'gptq'")
    return config


# ---------------------------------------------------------------- codes

def unpack_rows(words, bits, count):
    """Codes along axis 0: (words, n) int32 -> (count, n) uint8.

    The words of a column are one stream of bits, lowest first, in which code k starts at bit
    k * bits. For 2, 4 and 8 bits no code crosses a word. For 3 bits 32 codes fill 3 words:
    code 10 has two bits in word 0 and one in word 1, code 21 one in word 1 and two in word 2,
    which is the published layout.
    """
    bytes_ = np.ascontiguousarray(words.astype("<i4").T).view(np.uint8)     # (n, 4 * words)
    stream = np.unpackbits(bytes_, axis=1, bitorder="little", count=count * bits)
    stream = stream.reshape(words.shape[1], count, bits)
    weights = (1 << np.arange(bits)).astype(np.uint8)
    return (stream * weights).sum(-1, dtype=np.uint8).T


def dequantise(parts, settings, module, version):
    """(n_out, n_in) float32 of one module: scale[g_idx[k], n] * (q[k, n] - zero[g_idx[k], n])."""
    bits, group = settings["bits"], settings["group_size"]
    g_idx, scales = parts["g_idx"], parts["scales"]
    n_in, (n_groups, n_out) = len(g_idx), scales.shape
    expected = {
        "qweight": ("int32", (-(-n_in * bits // 32), n_out)),
        "qzeros": ("int32", (n_groups, -(-n_out * bits // 32))),
        "scales": ("float16", (1 if group == -1 else -(-n_in // group), n_out)),
        "g_idx": ("int32", (n_in,))}
    for part, (dtype, shape) in expected.items():
        if parts[part].dtype != dtype or parts[part].shape != shape:
            raise ValueError(f"{module}.{part}: expected {dtype} {shape}, "
                             f"found {parts[part].dtype} {parts[part].shape}")
    if g_idx.min() < 0 or g_idx.max() >= n_groups:
        raise ValueError(f"{module}.g_idx: outside [0, {n_groups})")
    codes = unpack_rows(parts["qweight"], bits, n_in).astype(np.int32)
    zeros = unpack_rows(parts["qzeros"].T, bits, n_out).T.astype(np.int32)
    if version == "gptq":
        zeros = zeros + 1
    if settings.get("sym") and (zeros != 1 << (bits - 1)).any():
        raise ValueError(f"{module}.qzeros: a symmetric zero is not {1 << (bits - 1)}")
    weight = scales.astype(np.float32)[g_idx] * (codes - zeros[g_idx]).astype(np.float32)
    return np.ascontiguousarray(weight.T)


def read_folder(folder):
    """All tensors of the model, quantised modules as `X.weight` in float32."""
    config, tensors = quantization_config(folder), read_tensors(folder)
    version = config.get("checkpoint_format") or config.get("format") or "gptq"
    if version not in ("gptq", "gptq_v2"):
        raise ValueError(f"{folder}: checkpoint_format {version!r} is not known")
    modules = sorted(name[:-len(".qweight")] for name in tensors if name.endswith(".qweight"))
    for module in modules:
        settings = module_settings(config, module)
        if settings is None:
            raise ValueError(f"{module}: quantised, although `dynamic` skips it")
        if f"{module}.weight" in tensors:
            raise ValueError(f"{module}: both .weight and .qweight")
        missing = [part for part in PARTS if f"{module}.{part}" not in tensors]
        if missing:
            raise ValueError(f"{module}: no {', '.join(missing)}")
        parts = {part: tensors.pop(f"{module}.{part}") for part in PARTS}
        tensors[f"{module}.weight"] = dequantise(parts, settings, module, version)
    return tensors


def main():
    """List the quantised modules of a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    try:
        config, tensors = quantization_config(args.folder), read_tensors(args.folder)
        weights = read_folder(args.folder)
    except (OSError, ValueError, KeyError) as error:
        print(f"gptq_reference: {error}", file=sys.stderr)
        return 3
    for name in sorted(tensors):
        if name.endswith(".qweight"):
            module = name[:-len(".qweight")]
            settings = module_settings(config, module)
            value = weights[f"{module}.weight"]
            print(f"{module}  bits {settings['bits']}  group {settings['group_size']}  "
                  f"shape {value.shape}  rms {np.sqrt((value.astype(float) ** 2).mean()):.6g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
