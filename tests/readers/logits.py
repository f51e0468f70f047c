#!/usr/bin/env python3
"""Load a GPTQ folder with GPTQModel and with transformers and compare their logits with ours.

    python tests/readers/logits.py DIR [--tokens F.h5] [--samples 1] [--length 256]
                                       [--reader gptqmodel|transformers|both]
                                       [--kernel torch|auto]

Ours: weights dequantised by gptq_reference.py, run by transformers in float32. Both readers run on
the CPU, in float16 and in bfloat16, with the torch kernel, or with --kernel auto with the one they
choose, which may compile itself for minutes first. One line per reader and type:

    KL          KL(ours || reader), mean over positions, in nats
    floor       the same for our own weights run in that type: what its arithmetic alone costs
    max diff    largest difference of a logit
    top-1       share of positions with the same most likely token

Exit code 1 if a reader fails to load the folder, or its KL exceeds 3 * floor + --slack. A folder
with overrides per module (`dynamic`) or a packed head is not counted against transformers, which
ignores both.

The folder needs tokenizer files, which GPTQModel loads. Needs gptqmodel, optimum, h5py, numpy,
safetensors, torch and transformers.
"""
import argparse
import gc
import json
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))

PRECISIONS = {"f16": torch.float16, "bf16": torch.bfloat16}


# ---------------------------------------------------------------- the readers

def load_gptqmodel(folder, dtype, kernel):
    """The folder through GPTQModel."""
    from gptqmodel import BACKEND, GPTQModel
    backend = BACKEND.GPTQ_TORCH if kernel == "torch" else BACKEND.AUTO
    return GPTQModel.load(str(folder), device="cpu", backend=backend, dtype=dtype).model


def load_transformers(folder, dtype, kernel):
    """The folder as transformers' users load it; the settings stay those of its config.json."""
    from transformers import AutoModelForCausalLM, GPTQConfig
    chosen = {}
    if kernel == "torch":       # of this object only the kernel counts for a quantised folder
        chosen["quantization_config"] = GPTQConfig(bits=4, backend="gptq_torch")
    return AutoModelForCausalLM.from_pretrained(str(folder), device_map="cpu", dtype=dtype,
                                                **chosen)


READERS = {"gptqmodel": load_gptqmodel, "transformers": load_transformers}


def kernels(model):
    """Class names of the modules that hold packed weights."""
    return sorted({type(m).__name__ for m in model.modules() if hasattr(m, "qweight")})


# ---------------------------------------------------------------- comparison

def token_samples(args):
    """The samples to compare on: from a file, or one of seeded random ids."""
    if args.tokens:
        from reference_forward import read_samples
        return [s[:args.length] for s in read_samples(args.tokens, args.samples)]
    config = json.loads((args.folder / "config.json").read_text(encoding="utf-8"))
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.integers(0, config["vocab_size"], args.length))
            for _ in range(args.samples)]


def beyond_transformers(folder):
    """Whether the settings treat some modules differently, or the head is packed."""
    from gptq_reference import quantization_config
    config = quantization_config(folder)
    return bool(config.get("dynamic")) or config.get("lm_head", False)


def log_probs(model, samples):
    """Log-probabilities (all positions, vocabulary) in float64, and the logits."""
    with torch.no_grad():
        logits = torch.cat([model(s[None].long(), use_cache=False).logits[0].double().cpu()
                            for s in samples])
    return logits.log_softmax(-1), logits


def compare(expected, found):
    """KL, largest difference of a logit, share of equal most likely tokens."""
    (log_e, logits_e), (log_f, logits_f) = expected, found
    kl = (log_e.exp() * (log_e - log_f)).sum(-1).mean().item()
    same = (log_e.argmax(-1) == log_f.argmax(-1)).double().mean().item()
    return kl, (logits_e - logits_f).abs().max().item(), same


def our_outputs(folder, samples):
    """Our float32 outputs, and per type the KL that its arithmetic costs."""
    from reference_forward import load_model
    model = load_model(folder, "f32")
    expected, floors = log_probs(model, samples), {}
    for name, dtype in PRECISIONS.items():
        floors[name] = compare(expected, log_probs(load_model(folder, "f32").to(dtype), samples))
    return expected, floors


def try_reader(args, reader, name, samples, expected, floor):
    """One row of the table: (text, whether it is good)."""
    start = time.monotonic()
    try:
        model = READERS[reader](args.folder, PRECISIONS[name], args.kernel).eval()
        used = ",".join(kernels(model)) or "none: nothing is quantised"
        kl, diff, same = compare(expected, log_probs(model, samples))
    except Exception as error:          # whatever a foreign library raises is a failed reader
        traceback.print_exc()
        reason = " ".join(str(error).split())[:120]
        return f"{reader:<13} {name:<5} FAILED: {type(error).__name__}: {reason}", False
    good = kl <= 3 * floor[0] + args.slack and not used.startswith("none")
    row = (f"{reader:<13} {name:<5} {kl:<10.3e} {floor[0]:<10.3e} {diff:<9.4f} {same:<7.4f} "
           f"{time.monotonic() - start:>6.1f}  {used}  {'ok' if good else 'DIFFERS'}")
    return row, good


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=Path, metavar="F.h5")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--length", type=int, default=256, help="tokens per sample at most")
    parser.add_argument("--reader", choices=[*READERS, "both"], default="both")
    parser.add_argument("--precision", choices=[*PRECISIONS, "both"], default="both")
    parser.add_argument("--kernel", choices=("torch", "auto"), default="torch")
    parser.add_argument("--slack", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    samples = token_samples(args)
    expected, floors = our_outputs(args.folder, samples)
    rows, all_good = [], True
    for reader in READERS if args.reader == "both" else [args.reader]:
        for name in PRECISIONS if args.precision == "both" else [args.precision]:
            row, good = try_reader(args, reader, name, samples, expected, floors[name])
            if not good and reader == "transformers" and beyond_transformers(args.folder):
                row, good = row + "  (expected: it ignores `dynamic`)", True
            rows.append(row)
            all_good = all_good and good
            gc.collect()
    print(f"\n{args.folder.name}: {sum(map(len, samples))} positions")
    print("reader        type  KL         floor      max diff  top-1   seconds  kernel")
    print("\n".join(rows))
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
