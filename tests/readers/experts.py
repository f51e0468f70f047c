#!/usr/bin/env python3
"""Models with experts, packed by us and loaded by readers that other people wrote.

    python tests/readers/experts.py make OUT          small random models, one folder for each family
    python tests/readers/experts.py check MODEL GPTQ COMPRESSED [--tokens N]

`check` holds the logits of three readers against those of transformers from the weights that our own
readers in tests/parity make of the packed folders: compressed-tensors through transformers in
float32, GPTQ through transformers and through GPTQModel in float16. One line for each. What is
known not to load is in REFUSED, with the reason in docs/formats.md: exit code 1 where a reader fails
that is not, or one succeeds that is.
"""
import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, GPTQConfig
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
import compressed_reference  # noqa: E402
import gptq_reference  # noqa: E402
import make_tiny  # noqa: E402

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
WIDE = {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 64, "num_key_value_heads": 4,
        "head_dim": 16, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64}
# GPTQModel does not know the dense blocks of these families
ROUTED = {"decoder_sparse_step": 1, "mlp_only_layers": [], "moe_layers": [0, 1]}
FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "glm4_moe", "granitemoe", "gpt_oss", "llama4_moe")
# families that a reader does not load, or computes other outputs of
REFUSED = {
    "compressed-tensors": ("granitemoe", "gpt_oss"),
    "transformers": FAMILIES,
    "gptqmodel": ("mixtral", "glm4_moe", "granitemoe", "gpt_oss"),
}
KL = 1e-3     # in half precision a token may go to another expert


# ---------------------------------------------------------------- models

def make(folder):
    """All families, with the demo model's tokenizer."""
    for seed, name in enumerate(FAMILIES):
        model_type, changes = make_tiny.CASES[name]
        sizes = {key: value for key, value in {**WIDE, **ROUTED}.items()
                 if key in changes or key in make_tiny.SIZES or key == "head_dim"}
        config = AutoConfig.for_model(model_type, **{**make_tiny.SIZES, **changes, **sizes})
        config.pad_token_id = None
        config.dtype = torch.bfloat16
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        make_tiny.randomise(model, seed)
        model.save_pretrained(folder / name)
        for file in DEMO.glob("*token*"):
            shutil.copy(file, folder / name)


# ---------------------------------------------------------------- what is expected

def stack_of(name, gate, up, down):
    """The tensors of stacked experts from lists of their weights, or biases, by the definition of the
    family in transformers."""
    interleaved, turned = name == "gpt_oss", name != "granitemoe"
    both = [torch.stack(pair, 1).flatten(0, 1) if interleaved else torch.cat(pair)
            for pair in zip(gate, up)]
    both, down = torch.stack(both), torch.stack(down)
    if turned and both.dim() == 3:
        both, down = both.mT, down.mT
    return both.contiguous(), down.contiguous()


STACKS = {
    "granitemoe": (("w1", "w3", "w2"), "block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"),
    "gpt_oss": (("gate_proj", "up_proj", "down_proj"), "mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    "llama4_moe": (("gate_proj", "up_proj", "down_proj"), "feed_forward.experts.gate_up_proj",
                   "feed_forward.experts.down_proj"),
}


def restack(name, tensors):
    """Modules of experts back to the source's tensors."""
    if name not in STACKS:
        return tensors
    leaves, *stacks = STACKS[name]
    for block in sorted({k.split(".experts.")[0] for k in tensors if ".experts.0." in k}):
        n = sum(k.startswith(f"{block}.experts.") and k.endswith(f"{leaves[0]}.weight") for k in tensors)
        for kind in ("weight", "bias"):
            parts = [[tensors.pop(f"{block}.experts.{e}.{leaf}.{kind}", None) for e in range(n)] for leaf in leaves]
            if parts[0][0] is None:
                continue
            prefix = ".".join(block.split(".")[:3])
            for stack, value in zip(stacks, stack_of(name, *parts)):
                tensors[f"{prefix}.{stack}" + ("_bias" if kind == "bias" else "")] = value
    return tensors


def expected(name, packed, reader, tokens):
    """Log-probabilities of the model that a packed folder stands for, in float32."""
    tensors = {}
    for key, value in reader.read_folder(packed).items():
        value = torch.from_numpy(np.array(value))
        if reader is compressed_reference and value.is_floating_point():
            value = value.to(torch.bfloat16)    # its readers round once
        tensors[key] = value.float() if value.is_floating_point() else value
    config = json.loads((packed / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config")
    with tempfile.TemporaryDirectory() as twin:
        (Path(twin) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file(restack(name, tensors), Path(twin) / "model.safetensors", metadata={"format": "pt"})
        return log_probs(load(twin, torch.float32), tokens)


# ---------------------------------------------------------------- the readers

def load(folder, dtype, **settings):
    """Through transformers; an error where tensors are missing or left over."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, **settings)
    for what in ("missing_keys", "unexpected_keys"):
        if info[what]:
            raise ValueError(f"{what}: {sorted(info[what])[0]}")
    return model.eval()


def load_transformers(folder):
    """GPTQ through transformers, with the kernel that takes all shapes."""
    return load(folder, torch.float16, device_map="cpu", quantization_config=GPTQConfig(bits=4, backend="gptq_torch"))


def load_gptqmodel(folder):
    """GPTQ through GPTQModel, which changes transformers' classes when it is loaded."""
    from gptqmodel import BACKEND, GPTQModel
    model = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.float16).model
    if not any("experts" in name and hasattr(module, "qweight") for name, module in model.named_modules()):
        raise ValueError("no expert is packed")
    return model.eval()


def log_probs(model, tokens):
    """(positions, vocabulary)"""
    with torch.no_grad():
        return model(tokens[None], use_cache=False).logits[0].double().log_softmax(-1)


def try_reader(name, reader, loader, folder, wanted, tokens):
    """Print a reader's line; whether it is as REFUSED says."""
    try:
        found = log_probs(loader(folder), tokens)
        kl = (wanted.exp() * (wanted - found)).sum(-1).mean().item()
        good, text = kl <= KL, f"KL {kl:.1e}"
    except Exception as error:      # whatever a foreign library raises is a failed reader
        good, text = False, f"{type(error).__name__}: {error}".replace("\n", " ")[:160]
    print(f"{name:12s} {reader:20s} {'loads' if good else 'fails'}  {text}", flush=True)
    return good == (name not in REFUSED[reader])


def check(args):
    """All readers of one family."""
    name = args.model.name
    tokens = torch.from_numpy(np.random.default_rng(0).integers(3, WIDE["vocab_size"], args.tokens))
    of_gptq = expected(name, args.gptq, gptq_reference, tokens)
    of_compressed = expected(name, args.compressed, compressed_reference, tokens)
    right = try_reader(name, "compressed-tensors", lambda f: load(f, torch.float32), args.compressed,
                       of_compressed, tokens)
    right &= try_reader(name, "transformers", load_transformers, args.gptq, of_gptq, tokens)
    right &= try_reader(name, "gptqmodel", load_gptqmodel, args.gptq, of_gptq, tokens)
    return right


def main():
    """Make models, or check the packed folders of one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("make").add_argument("out", type=Path)
    checks = commands.add_parser("check")
    for name in ("model", "gptq", "compressed"):
        checks.add_argument(name, type=Path)
    checks.add_argument("--tokens", type=int, default=40)
    args = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if args.command == "make":
        make(args.out)
        return 0
    return 0 if check(args) else 1


if __name__ == "__main__":
    sys.exit(main())
