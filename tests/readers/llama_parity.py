#!/usr/bin/env python3
"""Compare llama.cpp on model.gguf with transformers and tokenizers on the dense output.

    python tests/readers/llama_parity.py prompts MODEL >PROMPTS.json
    python tests/readers/llama_parity.py compare DENSE PROMPTS.json ANSWERS.json [--kl X]

DENSE: the same settings with --format dense. llama.cpp rounds activations to blocks of 8 bits before
it multiplies them with blocks of weights, so its logits differ a little; a wrong row order, name or
number of the header makes them differ by a hundred times --kl. Tokens must be the same.
Needs tokenizers, torch and transformers.
"""
import argparse
import json
import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

TEXTS = [
    "Hello world, it's 2024!\n\n  We'LL see: 3.14159, 1234567 and x_1 = y**2;\tdone. \n",
    "Größe, naïve, İstanbul, ÉCOLE, Straße, Ελληνικά, русский ТЕКСТ, עברית, العربية",
    "我想在apple工作1314151天～ 日本語とカタカナ 한국어 ภาษาไทย \U0001F680\U0001F999 ½ ² ①",
    "   leading and   inner   spaces   \n \n\n\t\tif (a<b) { return &c[0]; }\r\n\r\n",
    "<|begin|>a special<|end|> and [tool] added [tool]token<|endoftext|>",
    "", " ", "\n", "'S 'Re don't CAN'T y'all''s",
]


def prompts(model):
    """Texts, and prompts of several lengths that stay within a sliding window of 48."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    longest = 40 if config.get("sliding_window") else 200
    chance = random.Random(5)
    tokens = [[chance.randrange(3, 900) for _ in range(n)] for n in (1, 2, 17, longest)]
    json.dump({"texts": TEXTS, "tokens": tokens, "vocab": config["vocab_size"]}, sys.stdout)


def check_texts(tokenizer, texts, answers):
    """How many texts have other tokens."""
    different = 0
    for text, found in zip(texts, answers):
        expected = tokenizer.encode(text).ids
        if found != expected:
            different += 1
            print(f"    {text!r}: {found}, expected {expected}")
    return different


def divergences(dense, tokens, answers):
    """KL(transformers || llama.cpp) of every prompt, in nats, and whether the first tokens agree."""
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32, attn_implementation="eager").eval()
    result = []
    for prompt, found in zip(tokens, answers):
        with torch.no_grad():
            ours = model(torch.tensor([prompt]), use_cache=False).logits[0, -1].double().log_softmax(-1)
        theirs = torch.tensor(found, dtype=torch.float64)
        result.append((float((ours.exp() * (ours - theirs)).sum()), bool(ours.argmax() == theirs.argmax())))
    return result


def compare(args):
    """Print one line; False when something differs."""
    asked, answers = (json.loads(path.read_text(encoding="utf-8")) for path in (args.prompts, args.answers))
    tokenizer = Tokenizer.from_file(str(args.dense / "tokenizer.json"))
    different = check_texts(tokenizer, asked["texts"], answers["texts"])
    found = divergences(args.dense, asked["tokens"], answers["logprobs"])
    worst = max(kl for kl, _ in found)
    print(f"{args.dense.parent.name:16s} {len(asked['texts']) - different} of {len(asked['texts'])} texts; KL "
          + " ".join(f"{kl:.1e}" for kl, _ in found) + f"; top-1 {sum(same for _, same in found)} of {len(found)}")
    return different == 0 and worst <= args.kl


def main():
    """Make prompts, or compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("what", choices=("prompts", "compare"))
    parser.add_argument("dense", type=Path)
    parser.add_argument("prompts", type=Path, nargs="?")
    parser.add_argument("answers", type=Path, nargs="?")
    parser.add_argument("--kl", type=float, default=2e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "prompts":
        prompts(args.dense)
    elif not compare(args):
        sys.exit(1)


if __name__ == "__main__":
    main()
