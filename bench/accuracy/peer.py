"""What the runners of other tools share: their command line and the samples."""
import argparse
import json
from pathlib import Path

import h5py
import numpy as np


def arguments(description):
    """MODEL TOKENS OUT --bits N --group-size N --options JSON"""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--group-size", type=int, required=True)
    parser.add_argument("--options", type=json.loads, default={})
    return parser.parse_args()


def samples(path):
    """The samples of a token file as lists of ids."""
    with h5py.File(path) as file:
        tokens, offsets = file["tokens"][()].astype(np.int64), file["offsets"][()]
    return [tokens[a:b].tolist() for a, b in zip(offsets, offsets[1:])]
