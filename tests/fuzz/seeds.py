#!/usr/bin/env python3
"""Write the inputs that the fuzz targets start from.

    seeds.py DIR        a folder in DIR for each

Needs nothing but Python.
"""
import json
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# in the order of fuzz_config.c
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "cohere", "smollm3", "cohere2", "hunyuan",
            "gemma3", "phi3", "starcoder2", "qwen2_5_vl", "qwen3_vl")


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
        if family.endswith("_vl"):
            mrope = {"rope_theta": 5e5, "mrope_section": [2, 3, 3], "mrope_interleaved": family == "qwen3_vl"}
            yield i, json.dumps({"model_type": family, "text_config": {**sizes, "head_dim": 16, "rope_parameters": mrope},
                                 "vision_config": {"depth": 1}, "tie_word_embeddings": False})
        yield 0x80, (ROOT / f"configs/arch/{family}.json").read_text(encoding="utf-8")


def text_of_gguf(text):
    """A string as GGUF has it."""
    return struct.pack("<Q", len(text)) + text.encode()


def filled(data):
    """Up to a multiple of 32 bytes."""
    return data + bytes(-len(data) % 32)


def gguf(pairs, tensors):
    """A GGUF file of pairs (key, kind, bytes) and tensors (name, dimensions, type, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for key, kind, value in pairs:
        head += text_of_gguf(key) + struct.pack("<I", kind) + value
    data = b""
    for name, dims, kind, body in tensors:
        head += text_of_gguf(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += filled(body)
    return filled(head) + data


def ggufs():
    """Files with a value of every kind, tensors of every type, and what is refused."""
    widths = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    scalars = [(f"k{kind}", kind, bytes(range(width))) for kind, width in widths.items()]
    arrays = [(f"a{kind}", 9, struct.pack("<IQ", kind, 3) + bytes(3 * width)) for kind, width in widths.items()]
    texts = [("general.architecture", 8, text_of_gguf("llama")),
             ("tokens", 9, struct.pack("<IQ", 8, 2) + text_of_gguf("a") + text_of_gguf(""))]
    tensors = [("token_embd.weight", (64, 3), 30, bytes(range(192)) * 2), ("blk.0.attn_q.weight", (64, 2), 2, bytes(72)),
               ("blk.0.attn_k.weight", (32, 3), 8, bytes(102)), ("blk.0.attn_v.weight", (32,), 3, bytes(20)),
               ("output_norm.weight", (5,), 0, bytes(20)), ("f16", (2, 1, 2, 1), 1, bytes(8))]
    yield gguf(texts, tensors[:5])
    yield gguf(scalars + texts, [])
    yield gguf(arrays, tensors)
    yield gguf([("general.alignment", 4, bytes([64, 0, 0, 0]))], tensors[:1])
    yield gguf(texts + texts[:1], tensors[:2] * 2)
    yield gguf([("nested", 9, struct.pack("<IQIQ", 9, 1, 4, 0))], [("x", (1 << 62, 4), 0, b"")])


def field(number, data):
    """A field of a protocol buffer that holds less than 128 bytes."""
    return bytes([number << 3 | 2, len(data)]) + data


def pieces(n):
    """A SentencePiece model: <unk>, a control token, bytes, pieces; trained with BPE, changes nothing."""
    texts = ["<unk>", "<s>", "<0x00>", "<0xFF>", *(f"\u2581{i}" for i in range(n - 4))]
    body = b"".join(field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", -i) + bytes([0x18, kind]))
                    for i, (text, kind) in enumerate(zip(texts, [2, 3, 6, 6] + [1] * n)))
    return body + field(2, b"\x18\x02") + field(3, field(1, b"identity") + b"\x18\x00\x20\x00")


def piece_models():
    """SentencePiece models: a sound one, one without types, other algorithms, other fields."""
    yield pieces(8)
    yield field(1, field(1, b"a")) + field(1, field(1, b"b") + b"\x18\x04")
    yield field(1, field(1, b"a") + b"\x15" + bytes(4)) + field(2, b"\x18\x01\x21" + bytes(8))
    yield field(3, field(2, b"table") + b"\x20\x01") + field(1, field(1, b"a")) + b"\xf8\xff\xff\xff\x0f\x01"


def tokenizers():
    """A first byte and four files, as fuzz_tokenizer.c has them."""
    vocab = {chr(97 + i): i for i in range(26)} | {"ab": 26, "bc": 27}
    bytes_last = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    split = {"type": "Split", "behavior": "Isolated", "invert": False,
             "pattern": {"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
                                  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}}
    cuts = [{"type": "ByteLevel", "add_prefix_space": False},
            {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                                   {"type": "ByteLevel"}]},
            {"type": "Sequence", "pretokenizers": [split, bytes_last]}]
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                                         {"Sequence": {"id": "A", "type_id": 0}}]}
    added = [{"id": 30, "content": "<s>", "special": True}, {"id": 31, "content": "<|im_end|>", "special": False},
             {"id": 32, "content": "word"}]
    settings = [{"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}, "chat_template": "{{ x }}"},
                {"add_bos_token": True, "bos_token": "<s>",
                 "chat_template": [{"name": "default", "template": "{{ y }}"}]}]
    config = {"bos_token_id": 30, "eos_token_id": 3, "pad_token_id": 99}
    for i, cut in enumerate(cuts):
        for ignore in (False, True):
            model = {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], "b c"], "ignore_merges": ignore}
            tokenizer = {"model": model, "pre_tokenizer": cut, "added_tokens": added, "normalizer": {"type": "NFC"},
                         "post_processor": [template, {"type": "Sequence", "processors": [template]}, None][i]}
            yield bytes([i]) + b"\0".join(json.dumps(x).encode() for x in (tokenizer, settings[i % 2], config))
    made_of = {"model": {"type": "BPE", "byte_fallback": True, "vocab": {"\u25810": 4}}, "added_tokens": added[:1]}
    yield b"\0" + b"\0".join([json.dumps(made_of).encode(), b"{}", b"{}", pieces(8)])


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
    write(out / "gguf", ggufs())
    write(out / "pieces", piece_models())
    write(out / "tokenizer", tokenizers())
    body = bytes(range(1, 200))
    write(out / "packed", [bytes([2, bits, 33, 2, 16, form]) + body for bits in range(4) for form in range(8)]
          + [bytes([1, bits, 33, 2, rows]) + body[:40] + bytes([any_]) + body for bits in range(6)
             for rows in (1, 5) for any_ in (0, 4)]
          + [bytes([3, 33, blocks]) + body[:40] + bytes([scale]) * 60 for blocks in (0, 2) for scale in (1, 127, 255)]
          + [bytes([0, 33, 64, rows, columns, rows]) + body for rows in (0, 7, 127) for columns in (0, 9, 127)])
    # kind, offsets (shape, count, steps), tokens (shape, count, values); then perhaps matrices
    good = bytes([0, 0, 4, 0, 5, 7, 3, 0, 15]) + bytes(range(15))
    matrix = bytes([0, 15, 1]) + b"\x80\x3f" * 30
    write(out / "calib", [bytes([kind]) + good[1:] + body for kind in range(0, 64, 3)]
          + [bytes([64]) + b"from a book" + bytes(4) + good[1:] + body]
          + [bytes([128]) + good[1:] + matrix + bytes([8, 3, 14]) + b"\x05\0" * 45 + matrix]
          + [bytes([128]) + good[1:] + rows + positions for rows in (matrix, bytes([7, 0, 0]))
             for positions in (bytes([8, 3, 14]) + b"\x05\0" * 45, bytes([14, 15, 0]) + b"\x09\0" * 15,
                               bytes([7, 0, 0]))]
          + [bytes([128]) + good[1:9] + bytes([240]) + bytes(15) + bytes([0, 15, 1]) + b"\x80\x7f" * 30 + bytes([7, 0, 0])])


if __name__ == "__main__":
    main()
