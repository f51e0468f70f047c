#!/usr/bin/env python3
"""Print what tools/demo gained: sizes, quality and times of the original and the outputs."""
import json
import sys
from pathlib import Path


def weight_bytes(folder):
    """Bytes of all weight files of a model folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def row(label, folder, perplexity, kl="", top1="", took=""):
    """One line of the table."""
    print(f"{label:10} {weight_bytes(folder) / 1e6:7.2f} MB {perplexity:11.3f} {kl:>8} "
          f"{top1:>11} {took:>13}   {folder}")


def main(model, out):
    """One line for the original and one for each number of bits."""
    found = {bits: json.loads((out / "log" / f"demo-w{bits}.json").read_text()) for bits in (4, 3)}
    print(f"\n{'':10} {'weights':>10} {'perplexity':>11} {'KL':>8} {'same top-1':>11} "
          f"{'quantised in':>13}   folder")
    row("original", model, found[4]["reference_perplexity"])
    for bits, result in found.items():
        folder = out / f"demo-w{bits}"
        report = json.loads((folder / "mq_report.json").read_text())
        row(f"{bits} bits", folder, result["perplexity"], f"{result['kl']:.4f}",
            f"{100 * result['top1']:.1f} %", f"{report['environment']['seconds']:.1f} s")
    print("\nKL (nats per token) and top-1 compare each output with the original on held-out text.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
