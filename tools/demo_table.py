#!/usr/bin/env python3
"""Print what tools/demo gained: sizes, quality and times of the original and the outputs."""
import json
import sys
from pathlib import Path


def weight_bytes(folder):
    """Bytes of all weight files of a model folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def main(model, out):
    """One line for the original and one for each number of bits."""
    log = out / "log"
    print(f"\n{'':12} {'weights':>10} {'perplexity':>11} {'KL':>8} {'same top-1':>11} "
          f"{'quantised in':>13}   folder")
    rows = [("original", "original", model)]
    rows += [(f"{bits} bits", f"w{bits}", out / f"demo-w{bits}") for bits in (4, 3)]
    for label, name, folder in rows:
        found = json.loads((log / f"demo-{name}.json").read_text())
        seconds = log / f"demo-{name}.seconds"
        kl = f"{found['kl']:.4f}" if "kl" in found else ""
        top1 = f"{100 * found['top1']:.1f} %" if "top1" in found else ""
        took = f"{seconds.read_text().strip()} s" if seconds.exists() else ""
        print(f"{label:12} {weight_bytes(folder) / 1e6:7.2f} MB {found['perplexity']:11.3f} "
              f"{kl:>8} {top1:>11} {took:>13}   {folder}")
    print("\nKL (nats per token) and top-1 compare each output with the original on held-out text.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
