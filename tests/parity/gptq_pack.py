#!/usr/bin/env python3
"""Write a GPTQ folder by rounding to nearest: test input for the readers.

    python tests/parity/gptq_pack.py MODEL OUT [--bits 4] [--group-size 32] [--v2]
                                     [--override 'REGEX=BITS,GROUP'] [--skip REGEX]

Packs code by code, straight from the format's description; slow, so for small models. Works on
all linear layers inside the blocks of a folder whose config.json has `num_hidden_layers`.
"""
import argparse
import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
from gptq_reference import module_settings, read_tensors

LINEAR = re.compile(r"(model\.layers\.\d+\..*_proj)\.weight$")


def three_bit_words(codes):
    """32 codes (32, n) in 3 words (3, n)."""
    words = np.zeros((3, codes.shape[1]), np.uint32)
    for j in range(10):
        words[0] |= codes[j] << np.uint32(3 * j)
        words[1] |= codes[11 + j] << np.uint32(3 * j + 1)
        words[2] |= codes[22 + j] << np.uint32(3 * j + 2)
    words[0] |= codes[10] << np.uint32(30)
    words[1] |= (codes[10] >> np.uint32(2)) & np.uint32(1)
    words[1] |= codes[21] << np.uint32(31)
    words[2] |= (codes[21] >> np.uint32(1)) & np.uint32(3)
    return words


def pack_rows(codes, bits):
    """Codes (k, n) along axis 0 into int32 words, padded with zero codes."""
    per_block = 32 if bits == 3 else 32 // bits
    pad = -len(codes) % per_block
    codes = np.pad(codes.astype(np.uint32), ((0, pad), (0, 0)))
    blocks = codes.reshape(-1, per_block, codes.shape[1])
    if bits == 3:
        words = np.concatenate([three_bit_words(block) for block in blocks])
    else:
        words = np.zeros((len(blocks), codes.shape[1]), np.uint32)
        for j in range(per_block):
            words |= blocks[:, j] << np.uint32(bits * j)
    used = -(-(len(codes) - pad) * bits // 32)
    return words[:used].view(np.int32)


def round_to_nearest(weight, bits, group):
    """Symmetric codes (n_in, n_out), F16 scales and zeros (n_groups, n_out) of (n_out, n_in)."""
    n_out, n_in = weight.shape
    group = n_in if group == -1 else group
    if n_in % group:
        raise ValueError(f"group size {group} does not divide {n_in}")
    half = 1 << (bits - 1)
    parts = weight.astype(np.float64).reshape(n_out, n_in // group, group)
    scales = np.maximum(np.abs(parts).max(-1) / (half - 0.5), 1e-6).astype(np.float16)
    codes = np.rint(parts / scales[..., None].astype(np.float64)) + half
    codes = np.clip(codes, 0, 2 * half - 1).reshape(n_out, n_in).T
    return codes, scales.T, np.full(scales.T.shape, half)


def pack_module(weight, settings, version):
    """qweight, qzeros, scales, g_idx of one linear layer."""
    bits, group = settings["bits"], settings["group_size"]
    codes, scales, zeros = round_to_nearest(weight, bits, group)
    stored = zeros - 1 if version == "gptq" else zeros
    n_in = weight.shape[1]
    return {"qweight": pack_rows(codes, bits),
            "qzeros": np.ascontiguousarray(pack_rows(stored.T, bits).T),
            "scales": np.ascontiguousarray(scales),
            "g_idx": (np.arange(n_in) // (n_in if group == -1 else group)).astype(np.int32)}


def safetensors_bytes(tensors, bf16):
    """One safetensors file; float32 arrays named in `bf16` are stored as BF16."""
    kinds = {"int32": "I32", "float16": "F16", "float32": "F32"}
    header, chunks, end = {"__metadata__": {"format": "pt"}}, [], 0
    for name in sorted(tensors):
        value, kind = tensors[name], kinds[str(tensors[name].dtype)]
        if name in bf16:
            value, kind = (value.view(np.uint32) >> 16).astype(np.uint16), "BF16"
        chunks.append(np.ascontiguousarray(value).tobytes())
        header[name] = {"dtype": kind, "shape": list(value.shape),
                        "data_offsets": [end, end + len(chunks[-1])]}
        end += len(chunks[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *chunks])


def quantize_config(bits, group_size, version, dynamic):
    """The settings as readers expect them."""
    return {"bits": bits, "group_size": group_size, "desc_act": False, "sym": True,
            "lm_head": False, "quant_method": "gptq", "method": "gptq", "format": version,
            "checkpoint_format": version, "pack_dtype": "int32", "dynamic": dynamic,
            "meta": {"quantizer": ["gptq_pack:0"], "damp_percent": 0.01}}


def pack_folder(source, output, settings):
    """Quantise a folder by rounding; returns {"X.weight": exactly what the codes stand for}."""
    source, output = Path(source), Path(output)
    output.mkdir(parents=True)
    tensors, exact = read_tensors(source), {}
    bf16 = {name for name, value in tensors.items() if value.dtype == np.float32}
    for name in [n for n in tensors if LINEAR.match(n)]:
        module = LINEAR.match(name).group(1)
        chosen = module_settings(settings, module)
        if chosen is None:
            continue
        weight = tensors.pop(name)
        parts = pack_module(weight, chosen, settings["checkpoint_format"])
        tensors.update({f"{module}.{part}": value for part, value in parts.items()})
        if f"{module}.bias" in tensors:
            tensors[f"{module}.bias"] = tensors[f"{module}.bias"].astype(np.float16)
            bf16.discard(f"{module}.bias")
        codes, scales, zeros = round_to_nearest(weight, chosen["bits"], chosen["group_size"])
        group = parts["g_idx"]
        exact[name] = (scales.astype(np.float32)[group] * (codes - zeros[group])).T
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja") and path.name != "model.safetensors.index.json":
            shutil.copyfile(path, output / path.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = settings
    (output / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (output / "quantize_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    (output / "model.safetensors").write_bytes(safetensors_bytes(tensors, bf16))
    return exact


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--bits", type=int, choices=(2, 3, 4, 8), default=4)
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--v2", action="store_true", help="checkpoint_format gptq_v2")
    parser.add_argument("--override", action="append", default=[], metavar="REGEX=BITS,GROUP")
    parser.add_argument("--skip", action="append", default=[], metavar="REGEX")
    args = parser.parse_args()
    dynamic = {f"-:{pattern}": {} for pattern in args.skip}
    for text in args.override:
        pattern, _, values = text.rpartition("=")
        bits, group = map(int, values.split(","))
        dynamic[f"+:{pattern}"] = {"bits": bits, "group_size": group}
    version = "gptq_v2" if args.v2 else "gptq"
    pack_folder(args.model, args.output,
                quantize_config(args.bits, args.group_size, version, dynamic))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
