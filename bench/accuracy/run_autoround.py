"""Quantise with AutoRound: what bench/accuracy.py runs in that tool's own environment.

Options: keywords of AutoRound, such as "iters" (its default is 200 steps a block).
"""
import os
import shutil

import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer

import peer

BATCH = 8       # its default


def main():
    args = peer.arguments(__doc__)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    samples = torch.tensor(peer.samples(args.tokens))
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tool = AutoRound(model, tokenizer, bits=args.bits, group_size=args.group_size, sym=True,
                     dataset=list(samples.split(BATCH)), nsamples=len(samples),
                     seqlen=samples.shape[1], batch_size=BATCH, device_map="cpu", **args.options)
    tool.quantize_and_save(str(args.out), format="auto_gptq")
    inner = [p for p in args.out.iterdir() if p.is_dir()]
    if not (args.out / "config.json").exists() and len(inner) == 1:    # it may add a folder
        shutil.copytree(inner[0], args.out, dirs_exist_ok=True)
        shutil.rmtree(inner[0])


if __name__ == "__main__":
    main()
