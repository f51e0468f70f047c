#!/usr/bin/env python3
"""Read an EXL2 folder into plain weights by the formulas of ExLlamaV2's kernels: an independent reader.

NumPy and safetensors only. Any order of channels, groups of 2, 3, 4, 5, 6 and 8 bits, padded columns.

    python tests/parity/exl2_reference.py DIR        lists the modules and checks every shape

    read_folder(DIR) -> {"X.weight": float32 array (n_out, n_in), every other tensor as stored}
    pack(weight, widths, order) -> the five tensors of a layer, as ExLlamaV2's converter makes them
"""
import json
import sys
from pathlib import Path

import numpy as np
from gptq_reference import read_tensors, unpack_rows

PARTS = ("q_weight", "q_invperm", "q_groups", "q_scale_max", "q_scale")


def quantization_config(folder):
    """The settings of a folder."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    config = config.get("quantization_config") or {}
    if config.get("quant_method") != "exl2":
        raise ValueError(f"{folder}: not EXL2")
    return config


def group_rows(groups, n_words, n_in):
    """(bits, first word, end of its words, rows) of every group; the last takes what is left."""
    first = groups[1::2].astype(np.uint16).astype(int)
    ends, left, result = [*first[1:], n_words], n_in, []
    for bits, begin, end in zip(groups[::2].astype(int), first, ends):
        rows = left if len(result) + 1 == len(first) else (end - begin) * 32 // bits
        result.append((bits, begin, end, rows))
        left -= rows
    if min(g[-1] for g in result) <= 0 or [g[0] for g in result] != sorted(groups[::2], reverse=True):
        raise ValueError(f"groups {groups} do not make up {n_in} channels, the widest first")
    return result


def group_scales(scale_max, roots_less_one):
    """(G, n) float16: half precision at each step."""
    unit = (scale_max.astype(np.float32) * np.float32(1 / 256)).astype(np.float16)
    squares = ((roots_less_one.astype(int) + 1) ** 2).astype(np.float16)
    return squares * unit[:, None]


def dequantise(parts, n_out):
    """(n_out, n_in) float32 of one module: scale (q - 2^(bits-1)), rows back in the channels' order."""
    weight, invperm, n_groups = parts["q_weight"], parts["q_invperm"], len(parts["q_scale_max"])
    columns, n_in = -(-n_out // 32) * 32, len(invperm)
    expected = {"q_weight": ("int32", (len(weight), columns)), "q_invperm": ("int32", (n_in,)),
                "q_groups": ("int16", (2 * n_groups,)), "q_scale_max": ("float16", (n_groups,)),
                "q_scale": ("int32", (n_groups, columns // 8))}
    for name, (dtype, shape) in expected.items():
        if (str(parts[name].dtype), parts[name].shape) != (dtype, shape):
            raise ValueError(f"{name}: expected {dtype} {shape}, found {parts[name].dtype} {parts[name].shape}")
    if not np.array_equal(np.sort(invperm), np.arange(n_in)):
        raise ValueError("q_invperm is no permutation")
    scales = group_scales(parts["q_scale_max"], unpack_rows(parts["q_scale"].T, 4, columns).T)
    rows = []
    for scale, (bits, begin, end, count) in zip(scales, group_rows(parts["q_groups"], len(weight), n_in)):
        codes = unpack_rows(weight[begin:end], bits, count).astype(np.float32)
        rows.append(scale.astype(np.float32) * (codes - (1 << bits - 1)))
    return np.ascontiguousarray(np.concatenate(rows)[invperm, :n_out].T)


def read_folder(folder, n_out):
    """All tensors of the model, packed modules as `X.weight` in float32; n_out(X) is how many rows X has."""
    quantization_config(folder)
    tensors = read_tensors(folder)
    modules = [n.removesuffix(".q_weight") for n in tensors if n.endswith(".q_weight")]
    packed = {f"{m}.{p}" for m in modules for p in PARTS}
    result = {k: v for k, v in tensors.items() if k not in packed}
    for m in modules:
        result[f"{m}.weight"] = dequantise({p: tensors[f"{m}.{p}"] for p in PARTS}, n_out(m))
    return result


# ---------------------------------------------------------------- packing

def pack_stream(codes, bits):
    """Codes (k, n) as a stream of bits down each column, lowest first: (words, n) int32."""
    stream = (codes[..., None].astype(np.uint8) >> np.arange(bits, dtype=np.uint8) & 1).transpose(0, 2, 1)
    stream = stream.reshape(-1, codes.shape[1])
    stream = np.pad(stream, ((0, -len(stream) % 32), (0, 0)))
    bytes_ = np.packbits(np.ascontiguousarray(stream.T), axis=1, bitorder="little")
    return np.ascontiguousarray(bytes_.view("<i4").T)


def pack(weight, widths, order):
    """A layer rounded to nearest: widths [(bits, rows)] of the groups, order[k] the channel of row k."""
    n_out, n_in = weight.shape
    turned = np.pad(weight[:, order].T, ((0, 0), (0, -n_out % 32)))
    words, groups, largest, roots, k = [], [], [], [], 0
    for bits, rows in widths:
        part, half = turned[k:k + rows], 1 << bits - 1
        wanted = np.abs(part).max(0) / (half - 0.5) + 1e-12
        largest.append(np.float16(wanted.max()))
        roots.append(np.clip(np.rint(np.sqrt(wanted / wanted.max()) * 16), 1, 16).astype(int))
        scale = group_scales(np.array(largest[-1:]), roots[-1][None] - 1).astype(np.float32)
        codes = np.clip(np.rint(part / np.maximum(scale, 1e-12)) + half, 0, 2 * half - 1)
        groups += [bits, sum(map(len, words))]
        words.append(pack_stream(codes, bits))
        k += rows
    return {"q_weight": np.concatenate(words), "q_invperm": np.argsort(order).astype(np.int32),
            "q_groups": np.array(groups, np.int16), "q_scale_max": np.array(largest, np.float16),
            "q_scale": np.ascontiguousarray(pack_stream(np.array(roots).T - 1, 4).T)}


if __name__ == "__main__":
    for key, value in read_folder(sys.argv[1], lambda m: read_tensors(sys.argv[1])[f"{m}.q_weight"].shape[1]).items():
        print(key, value.shape)
