#!/usr/bin/env python3
"""Evaluate a model folder, original or GPTQ, with transformers: what `mpiquant eval` must match.

    python tests/parity/reference_forward.py MODEL --tokens F.h5 [--reference MODEL]
                                             [--precision f32|bf16] [--samples N]

Quantised weights are dequantised by gptq_reference.py, so no GPTQ library takes part. Prints one
JSON object:

    perplexity  exp(mean NLL) over all predicted positions of all samples. In a sample of n tokens
                position t = 0 .. n-2 predicts token t+1; samples of one token count for nothing.
    tokens      the number of predicted positions
    kl          with --reference: mean over the same positions of
                KL(reference || model) = sum_v p_ref(v) (log p_ref(v) - log p(v)), in nats
    top1        with --reference: share of the same positions at which both models have the same
                most likely token

Each sample runs alone, from position 0, without padding. f32: all weights and arithmetic in
float32, dequantised weights not rounded. bf16: weights rounded to BF16 (dequantised ones too, from
scale * (q - zero) in float32) and transformers' BF16 arithmetic. Softmax and sums are float64.
"""
import argparse
import json
import math
import sys
from pathlib import Path

import gptq_reference
import h5py
import numpy as np
import torch
import transformers

CHUNK = 128                 # positions whose softmax is taken at a time
PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16}


def is_quantised(folder):
    """Whether config.json names a quantisation."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return bool(config.get("quantization_config"))


def load_model(folder, precision):
    """The transformers model of a folder in one precision, quantised weights dequantised."""
    dtype = PRECISIONS[precision]
    config = transformers.AutoConfig.from_pretrained(folder)
    if is_quantised(folder):
        del config.quantization_config
        tensors = gptq_reference.read_folder(folder)
    else:
        tensors = gptq_reference.read_tensors(folder)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    state = {name: torch.from_numpy(np.array(value)).to(dtype)
             for name, value in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if set(missing) - tied or unexpected:
        raise ValueError(f"{folder}: missing {missing[:5]}, not understood {unexpected[:5]}")
    model.tie_weights()
    return model.eval()


def read_samples(path, limit=None):
    """The samples of a calib.h5 as int64 tensors."""
    with h5py.File(path) as file:
        tokens, offsets = file["tokens"][()], file["offsets"][()]
    samples = [torch.from_numpy(tokens[a:b].astype(np.int64))
               for a, b in zip(offsets, offsets[1:])]
    return samples[:limit]


def logits_of(model, sample):
    """Logits (n - 1, vocabulary) at the positions that predict a token of the sample."""
    with torch.no_grad():
        return model(sample[None], use_cache=False).logits[0, :-1]


class Totals:
    """Sums over positions."""

    def __init__(self):
        self.tokens, self.nll, self.kl, self.same = 0, 0.0, 0.0, 0

    def add(self, sample, logits, reference=None):
        """Add one sample's positions, a chunk at a time."""
        for start in range(0, len(logits), CHUNK):
            part = slice(start, start + CHUNK)
            log_p = logits[part].double().log_softmax(-1)
            target = sample[1:][part, None]
            self.tokens += len(target)
            self.nll -= log_p.gather(1, target).sum().item()
            if reference is not None:
                log_r = reference[part].double().log_softmax(-1)
                self.kl += (log_r.exp() * (log_r - log_p)).sum().item()
                self.same += (log_r.argmax(-1) == log_p.argmax(-1)).sum().item()

    def result(self, with_reference):
        """The object to print."""
        if self.tokens == 0:
            raise ValueError("no sample has two tokens")
        found = {"perplexity": math.exp(self.nll / self.tokens)}
        if with_reference:
            found.update(kl=self.kl / self.tokens, top1=self.same / self.tokens)
        return dict(found, tokens=self.tokens)


def evaluate(model, samples, reference=None):
    """perplexity, kl, top1 and tokens of a loaded model."""
    totals = Totals()
    for sample in samples:
        if len(sample) > 1:
            totals.add(sample, logits_of(model, sample),
                       None if reference is None else logits_of(reference, sample))
    return totals.result(reference is not None)


def main():
    """Exit codes: 0 done, 2 usage, 3 bad input."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=Path, required=True, metavar="F.h5")
    parser.add_argument("--reference", type=Path, metavar="MODEL")
    parser.add_argument("--precision", choices=PRECISIONS, default="f32")
    parser.add_argument("--samples", type=int, metavar="N", help="only the first N")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        samples = read_samples(args.tokens, args.samples)
        reference = args.reference and load_model(args.reference, args.precision)
        print(json.dumps(evaluate(load_model(args.model, args.precision), samples, reference)))
    except (OSError, ValueError, KeyError) as error:
        print(f"reference_forward: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
