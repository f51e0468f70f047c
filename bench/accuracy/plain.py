"""Model folders as `mpiquant eval` reads them, from what other tools write."""
import json
import shutil
from pathlib import Path

import numpy as np

TAIL = "-plain"


def write(tensors, source, target):
    """A plain F32 folder of the given tensors with the configuration and tokenizer of source."""
    from safetensors.numpy import save_file
    target.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, target / name)
    save_file({k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()},
              str(target / "model.safetensors"))
    return target


def in_order(folder):
    """Whether the groups of a GPTQ folder are runs of columns, the only kind that eval reads."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return not config.get("quantization_config", {}).get("desc_act")


def readable(folder, source):
    """The folder itself where eval reads it, else a dequantised copy beside it.

    The tokenizer is the source's either way: some tools write it anew, with another checksum.
    """
    if in_order(folder):
        if not (folder / "mq_report.json").exists():
            shutil.copy(source / "tokenizer.json", folder / "tokenizer.json")
        return folder
    from gptq_reference import read_folder
    target = Path(str(folder) + TAIL)
    shutil.rmtree(target, ignore_errors=True)
    return write(read_folder(folder), source, target)


def remove(folder):
    """The folder and its dequantised copy."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(str(folder) + TAIL, ignore_errors=True)
