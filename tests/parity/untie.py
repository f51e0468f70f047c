#!/usr/bin/env python3
"""A copy of a model whose head is the embedding, with a head of its own, in F32.

    python tests/parity/untie.py MODEL OUT [--vocab N]

The head is the embedding times a column scale between 0.5 and 2, so that it is another matrix whose
outputs still make sense. --vocab: rows of both tables, the new ones random and small.
"""
import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from gptq_reference import read_tensors

EMBEDDING = "model.embed_tokens.weight"


def untie(source, target, vocab=None):
    """Writes the copy; returns its tensors."""
    from safetensors.numpy import save_file
    tensors = {k: np.ascontiguousarray(v, np.float32) for k, v in read_tensors(source).items()}
    rng = np.random.default_rng(0)
    table = tensors[EMBEDDING]
    more = rng.standard_normal((max((vocab or 0) - len(table), 0), table.shape[1]))
    table = np.concatenate([table, (0.1 * table.std() * more).astype(np.float32)])
    tensors[EMBEDDING] = table
    tensors["lm_head.weight"] = table * np.exp2(rng.uniform(-1, 1, table.shape[1])).astype(np.float32)
    target = Path(target)
    target.mkdir()
    config = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    config.update(tie_word_embeddings=False, vocab_size=len(table))
    (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (Path(source) / name).exists():
            shutil.copy(Path(source) / name, target)
    save_file(tensors, str(target / "model.safetensors"))
    return tensors


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocab", type=int)
    args = parser.parse_args()
    untie(args.model, args.out, args.vocab)


if __name__ == "__main__":
    main()
