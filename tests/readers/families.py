#!/usr/bin/env python3
"""Every family of tests/data/tiny that transformers has, held against it by what `mpiquant` prints and writes.

    python tests/readers/families.py PROGRAM [NAME...]

Two lines for each:
  eval   losses of samples of LENGTHS tokens, which go through the program in units of several. In float32 they
         agree within 2e-5 of a sample's loss; in BF16 they are at most twice as far from transformers' float32
         as its own BF16 is (root mean square over the samples of what a token's loss differs by).
  packed compressed-tensors of 4 bits, read by transformers, beside the weights that our own reader in
         tests/parity makes of the folder: a KL divergence below 2e-6 in float32, of one with experts 1e-5.
Exit code 1 where one differs. Families of models with towers: tests/e2e/test_multimodal.py.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
import compressed_reference  # noqa: E402
import experts  # noqa: E402
import make_tiny  # noqa: E402

TINY = Path(__file__).resolve().parents[1] / "data" / "tiny"
LENGTHS = (1, 2, 63, 64, 65, 257)
REPEATS = 5
PACKED_LENGTH = 60
# no class in transformers, or experts that only its stacked form is read of (docs/formats.md)
WITHOUT_EVAL = ("qwen1", "internlm3")
WITHOUT_PACKED = ("qwen1", "internlm3", "gpt_oss", "granitemoe")


def write_tokens(path, samples):
    """A token file."""
    with h5py.File(path, "w") as file:
        file["tokens"] = np.concatenate(samples).astype(np.int32)
        file["offsets"] = np.cumsum([0] + [len(sample) for sample in samples]).astype(np.int64)
        file.attrs.update(format="mpiquant-calib", version=np.int64(1), tokenizer_sha256="", source="test",
                          vocab_size=np.int64(make_tiny.SIZES["vocab_size"]))


def run(program, *arguments):
    """Standard output of the program."""
    done = subprocess.run([program, *map(str, arguments)], text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return done.stdout


def load(folder, dtype):
    """Through transformers, attention step by step; an error where tensors are missing or left over."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager",
                                                       output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"missing: {sorted(info['missing_keys'])[0]}")
    return model.eval()


def log_probs(model, sample):
    """(positions, vocabulary) in float64"""
    with torch.no_grad():
        logits = model(torch.from_numpy(np.asarray(sample))[None], use_cache=False).logits[0]
    return logits.double().log_softmax(-1)


def losses(model, samples):
    """Sum over the predicted tokens of each sample."""
    return np.array([-log_probs(model, sample)[:-1].gather(1, torch.from_numpy(sample[1:])[:, None]).sum().item()
                     for sample in samples if len(sample) > 1])


def check_eval(program, folder, work):
    """The first line's text, and whether all is well."""
    generator = np.random.default_rng(5)
    samples = [generator.integers(3, make_tiny.SIZES["vocab_size"], n) for n in REPEATS * LENGTHS]
    write_tokens(work / "tokens.h5", samples)
    found = {}
    for precision in ("f32", "bf16"):
        text = run(program, "eval", folder, "--tokens", work / "tokens.h5", "--precision", precision, "--json",
                   "--per-document", "--unit-tokens", 200)
        sums = np.array(json.loads(text)["per_document"]["nll_sum"])
        found[precision] = sums[[len(sample) > 1 for sample in samples]]
    wanted, rounded = losses(load(folder, torch.float32), samples), losses(load(folder, torch.bfloat16), samples)
    exact = np.abs(found["f32"] / wanted - 1).max()
    root = np.sqrt([len(sample) - 1 for sample in samples if len(sample) > 1])
    own, theirs = (np.sqrt(np.mean(((x - wanted) / root) ** 2)) for x in (found["bf16"], rounded))
    good = exact < 2e-5 and own < 2 * theirs
    return good, f"eval    f32 {exact:.1e}  BF16 {own:.4f}, transformers' {theirs:.4f}"


def unpacked(name, packed, folder):
    """A folder of the weights that a packed one stands for, in float32."""
    folder.mkdir()
    tensors = {}
    for key, value in compressed_reference.read_folder(packed).items():
        value = torch.from_numpy(np.array(value))
        if value.is_floating_point() and ".experts." in key:
            value = value.to(torch.bfloat16)    # of experts its readers round once
        tensors[key] = value.float() if value.is_floating_point() else value
    config = json.loads((packed / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(experts.restack(name, tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def check_packed(program, folder, work):
    """The second line's."""
    generator = np.random.default_rng(6)
    write_tokens(work / "calib.h5", [generator.integers(3, 96, PACKED_LENGTH) for _ in range(8)])
    run(program, "quantize", folder, "--calib", work / "calib.h5", "--output", work / "packed", "--format",
        "compressed-tensors", "--group-size", 16, "--preset", "fast")
    sample = generator.integers(3, 96, PACKED_LENGTH)
    unpacked(folder.name, work / "packed", work / "twin")
    wanted, found = (log_probs(load(work / form, torch.float32), sample) for form in ("twin", "packed"))
    kl = (wanted.exp() * (wanted - found)).sum(-1).mean().item()
    routed = "experts" in (folder / "config.json").read_text(encoding="utf-8")
    return kl < (1e-5 if routed else 2e-6), f"packed  KL {kl:.1e}"


def main():
    """All families, or those that are named."""
    program, names = sys.argv[1], sys.argv[2:] or list(make_tiny.CASES)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    right = True
    for name in names:
        for check, without in ((check_eval, WITHOUT_EVAL), (check_packed, WITHOUT_PACKED)):
            if name in without:
                continue
            with tempfile.TemporaryDirectory() as work:
                try:
                    good, text = check(program, TINY / name, Path(work))
                except Exception as error:      # of a foreign library too
                    good, text = False, f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
            print(f"{name:18s} {'ok  ' if good else 'FAIL'} {text}", flush=True)
            right &= good
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
