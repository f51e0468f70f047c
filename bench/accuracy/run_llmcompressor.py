"""Quantise with llm-compressor: what bench/accuracy.py runs in that tool's own environment.

Options: "observer" and, of GPTQModifier, "actorder" (the default is "static"; null: none). Writes the
model dequantised, in F32: the codes are found again from its weights (BF16) and scales, so that
nothing is rounded twice.
"""
import json
import os

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from transformers import AutoModelForCausalLM

import peer
import plain


def recipe(args):
    """GPTQ on all linear layers of the blocks, symmetric, in groups."""
    observer = {"observer": args.options["observer"]} if "observer" in args.options else {}
    weights = QuantizationArgs(num_bits=args.bits, type="int", symmetric=True, strategy="group",
                               group_size=args.group_size, **observer)
    order = {"actorder": args.options["actorder"]} if "actorder" in args.options else {}
    return GPTQModifier(config_groups={"all": QuantizationScheme(targets=["Linear"], weights=weights)},
                        ignore=["lm_head"], **order)


def dequantised(module, group_size):
    """The exact weights (n_out, n_in) of a quantised layer: code times scale."""
    weight, scale = module.weight.float(), module.weight_scale.float()
    scale = scale.repeat_interleave(group_size, dim=1)
    return torch.round(weight / scale) * scale


def tensors(model, group_size):
    """All tensors of the model as the source names them."""
    result = {k: v.float().numpy() for k, v in model.state_dict().items()
              if not k.rsplit(".", 1)[-1].startswith("weight_")}
    if model.config.tie_word_embeddings:
        result.pop("lm_head.weight", None)
    for name, module in model.named_modules():
        if hasattr(module, "weight_scale"):
            result[name + ".weight"] = dequantised(module, group_size).numpy()
    return result


def main():
    args = peer.arguments(__doc__)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    samples = peer.samples(args.tokens)
    data = Dataset.from_dict({"input_ids": samples,
                              "attention_mask": [[1] * len(s) for s in samples]})
    source = json.loads((args.model / "config.json").read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=source.get("dtype", "bfloat16"))
    oneshot(model=model, dataset=data, recipe=recipe(args), max_seq_length=max(map(len, samples)),
            num_calibration_samples=len(samples), shuffle_calibration_samples=False)
    with torch.no_grad():
        plain.write(tensors(model, args.group_size), args.model, args.out)


if __name__ == "__main__":
    main()
