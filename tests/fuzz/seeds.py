#!/usr/bin/env python3
"""Write the inputs that the fuzz targets start from.

    seeds.py DIR        DIR/header, DIR/index, DIR/config, DIR/packed, DIR/calib

Needs nothing but Python.
"""
import json
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# in the order of fuzz_config.c
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "cohere", "smollm3", "cohere2", "hunyuan",
            "gemma3", "phi3", "starcoder2")


def entry(dtype, shape, begin, end):
    """A tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def headers():
    """Length of the data and header text: sound ones, and what the reference refuses."""
    two = {"a": entry("F32", [2, 3], 0, 24), "b": entry("BF16", [4], 24, 32)}
    yield 32, json.dumps(two)
    yield 32, json.dumps({"__metadata__": {"format": "pt"}, **two}) + "    "
    yield 0, json.dumps({"empty": entry("F16", [0, 7], 0, 0)})
    yield 6, json.dumps({"\\n\u00fc": entry("F6_E2M3", [8], 0, 6)})
    yield 2 * 3145728000, json.dumps({"embed": entry("BF16", [256000, 12288], 0, 6291456000)})
    yield 32, json.dumps(two).replace("24, 32", "25, 33")
    yield 4, '{"x":{"dtype":"U8","shape":[4],"data_offsets":[00,4]}}'
    yield 8, '{"x":{"dtype":"I64","shape":[],"data_offsets":[0,8],"more":[1,{"y":null}]}}'
    yield 1, '{"\\ud800":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1e0]}}'
    data = (ROOT / "models/demo/model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    yield len(data) - 8 - length, data[8:8 + length].decode()


def indexes():
    """Texts of an index for the shards a.safetensors (tensor x) and b.safetensors (tensor y)."""
    good = {"metadata": {"total_size": 8}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    yield json.dumps(good)
    yield json.dumps({"weight_map": {**good["weight_map"], "z": "a.safetensors"}})
    yield json.dumps({"weight_map": {"x": "../a.safetensors", "y": "/b.safetensors"}})
    yield json.dumps({"weight_map": {"x": "a.safetensors"}, "metadata": None})
    yield json.dumps({"weight_map": {"x": 1, "y": ["b.safetensors"]}})


def configs():
    """A first byte (which descriptor, or 0x80: the text is one) and a text."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
             "rope_theta": 10000.0, "hidden_act": "silu", "layer_norm_eps": 1e-5, "tie_word_embeddings": True}
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32}
    gptq = {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}
    packed = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    exl2 = {"quant_method": "exl2", "bits": 4.0}
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    floats = {"quant_method": "compressed-tensors", "format": "float-quantized",
              "config_groups": {"group_0": {"weights": {"block_structure": [1, 64]}}}}
    for i, family in enumerate(FAMILIES):
        yield i, json.dumps({"model_type": family, **sizes})
        yield i, json.dumps({"model_type": family, **sizes, "rope_scaling": rope, "quantization_config": gptq})
        yield i, json.dumps({"model_type": family, **sizes, "rope_parameters": {**rope, "rope_theta": 5e5},
                             "sliding_window": 16, "layer_types": ["full_attention"] * 2,
                             "quantization_config": packed})
        yield i, json.dumps({"model_type": family, **sizes, "quantization_config": [fp8, floats, exl2][i % 3]})
        yield 0x80, (ROOT / f"configs/arch/{family}.json").read_text(encoding="utf-8")


def write(folder, inputs):
    """One file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(inputs):
        (folder / f"seed{i}").write_bytes(data)


def main():
    """All of them."""
    out = Path(sys.argv[1])
    write(out / "header", (struct.pack("<Q", n) + text.encode() for n, text in headers()))
    write(out / "index", (text.encode() for text in indexes()))
    write(out / "config", (bytes([kind]) + text.encode() for kind, text in configs()))
    body = bytes(range(1, 200))
    write(out / "packed", [bytes([2, bits, 33, 2, 16, form]) + body for bits in range(4) for form in range(8)]
          + [bytes([1, bits, 33, 2, rows]) + body[:40] + bytes([any_]) + body for bits in range(6)
             for rows in (1, 5) for any_ in (0, 4)]
          + [bytes([0, 33, 64, rows, columns, rows]) + body for rows in (0, 7, 127) for columns in (0, 9, 127)])
    # kind, offsets (shape, count, steps), tokens (shape, count, values)
    good = bytes([0, 0, 4, 0, 5, 7, 3, 0, 15]) + bytes(range(15))
    write(out / "calib", [bytes([kind]) + good[1:] + body for kind in range(0, 64, 3)])


if __name__ == "__main__":
    main()
