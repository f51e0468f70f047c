"""Quantise with GPTQModel: what bench/accuracy.py runs in that tool's own environment.

Options: keywords of QuantizeConfig; "gptaq": true stands for its GPTAQConfig.
"""
import os

import torch
from gptqmodel import GPTQModel, QuantizeConfig
from gptqmodel.quantization.config import GPTAQConfig

import peer

args = peer.arguments(__doc__)
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
if args.options.get("gptaq"):
    args.options["gptaq"] = GPTAQConfig()
config = QuantizeConfig(bits=args.bits, group_size=args.group_size, **args.options)
model = GPTQModel.load(str(args.model), config, device="cpu")
model.quantize([{"input_ids": s, "attention_mask": [1] * len(s)} for s in peer.samples(args.tokens)],
               batch_size=1)
model.save(str(args.out))
