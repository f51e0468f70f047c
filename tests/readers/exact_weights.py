#!/usr/bin/env python3
"""Compare the weights that other readers make of GPTQ folders with ours, bit for bit.

    python tests/readers/exact_weights.py DIR... [--reader gptqmodel|transformers|compressed-tensors]

Ours: gptq_reference.py in float32, rounded to float16 once. A code less its zero point is an exact
integer and the product with a float16 scale is rounded once by every reader, so all must agree.

    gptqmodel           GPTQModel's torch kernel, dequantize_weight() of every packed module
    transformers        the same kernel, through AutoModelForCausalLM
    compressed-tensors  its dequantize() and unpack_from_int32() on our codes, zero points, scales

One line per folder and reader: modules, share of negative scales, share of zero points that are not
2^(bits-1), and how many weights differ. Exit code 1 if any does, or a reader finds no module.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from logits import READERS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
from gptq_reference import (PARTS, module_settings, quantization_config, read_folder,  # noqa: E402
                            read_tensors, unpack_rows)


def from_kernel(reader):
    """The packed modules of a folder, dequantised by the kernel that the reader chooses."""
    def weights(folder):
        model = READERS[reader](folder, torch.float16, "torch").eval()
        for name, module in model.named_modules():
            if hasattr(module, "qweight"):
                with torch.no_grad():
                    yield name.removeprefix("model.model."), module.dequantize_weight().T.numpy()
    return weights


def from_compressed_tensors(folder):
    """Our codes in that library's layout, packed, unpacked and dequantised by its own functions."""
    from compressed_tensors.compressors.pack_quantized import pack_to_int32, unpack_from_int32
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize
    config, tensors = quantization_config(folder), read_tensors(folder)
    offset = 0 if config["checkpoint_format"] == "gptq_v2" else 1
    for name in [n.removesuffix(".qweight") for n in tensors if n.endswith(".qweight")]:
        settings = module_settings(config, name)
        bits, half = settings["bits"], 1 << (settings["bits"] - 1)
        words, zeros, scales, g_idx = (tensors[f"{name}.{part}"] for part in PARTS)
        n_in, n_out = len(g_idx), scales.shape[1]
        signed = (unpack_rows(words, bits, n_in).T.astype(np.int16) - half).astype(np.int8)
        codes = unpack_from_int32(pack_to_int32(torch.from_numpy(signed), bits), bits, signed.shape)
        zeros = unpack_rows(zeros.T, bits, n_out).astype(np.int16) + offset - half
        args = QuantizationArgs(num_bits=bits, symmetric=settings["sym"], strategy="group",
                                group_size=n_in // scales.shape[0])
        value = dequantize(codes, torch.from_numpy(scales.T.copy()),
                           torch.from_numpy(zeros.astype(np.int8)), args)
        yield name, value.numpy()


SOURCES = {"gptqmodel": from_kernel("gptqmodel"), "transformers": from_kernel("transformers"),
           "compressed-tensors": from_compressed_tensors}


def what_is_stored(folder):
    """Share of negative scales, and of zero points that a symmetric folder does not have."""
    config, tensors = quantization_config(folder), read_tensors(folder)
    offset, negative, moved = 0 if config["checkpoint_format"] == "gptq_v2" else 1, [], []
    for name in [n.removesuffix(".qweight") for n in tensors if n.endswith(".qweight")]:
        bits, scales = module_settings(config, name)["bits"], tensors[f"{name}.scales"]
        zeros = unpack_rows(tensors[f"{name}.qzeros"].T, bits, scales.shape[1]) + offset
        negative.append((scales < 0).ravel())
        moved.append((zeros != 1 << (bits - 1)).ravel())
    return np.concatenate(negative).mean(), np.concatenate(moved).mean()


def compare(folder, source):
    """(modules, weights that differ) of one reader."""
    expected, modules, differ = read_folder(folder), 0, 0
    for name, found in source(folder):
        key = next(k for k in expected if k.endswith(f"{name}.weight"))
        exact = expected[key].astype(np.float16)
        differ += int((exact != found).sum()) if exact.shape == found.shape else exact.size
        modules += 1
    return modules, differ


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--reader", action="append", choices=SOURCES)
    args = parser.parse_args()
    good = True
    print("folder       reader             modules  negative  moved  differ")
    for folder in args.folder:
        negative, moved = what_is_stored(folder)
        for reader in args.reader or ["gptqmodel", "transformers"]:
            modules, differ = compare(folder, SOURCES[reader])
            good = good and modules > 0 and differ == 0
            print(f"{folder.name:<12} {reader:<18} {modules:>7}  {negative:>8.3f} {moved:>6.3f} "
                  f"{differ:>7}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
