#!/usr/bin/env python3
"""Compare two evaluations, as `mpiquant eval --json` and reference_forward.py print them.

    python tests/parity/same_figures.py OURS.json THEIRS.json

Both computed in float32, in different orders of summation: perplexity and KL must agree to a
relative 1e-4, the token count exactly, top-1 agreement within two tokens (near-ties may flip).
Exit code 1 when they do not.
"""
import json
import sys
from pathlib import Path

RELATIVE = 1e-4


def differences(ours, theirs):
    """One line for every figure that disagrees."""
    bounds = {"perplexity": RELATIVE * theirs["perplexity"], "kl": RELATIVE * theirs["kl"],
              "top1": 2 / theirs["tokens"], "tokens": 0}
    # Not (d <= bound), so that a NaN disagrees.
    return [f"{key}: {ours[key]!r} and {theirs[key]!r}, more than {bound:.3g} apart"
            for key, bound in bounds.items() if not abs(ours[key] - theirs[key]) <= bound]


def main():
    """Print both and what differs."""
    ours, theirs = (json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:3])
    for key in ("perplexity", "kl", "top1", "tokens"):
        print(f"{key:<11} {ours[key]:<20.12g} {theirs[key]:<20.12g}")
    wrong = differences(ours, theirs)
    print("\n".join(wrong) if wrong else "they agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
