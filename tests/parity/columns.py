"""Columns that a run scaled: what its packed layers stand for beside the source's norms."""
import re

import numpy as np

NORMS = {"input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
         "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj")}
NORM = re.compile(r"(model\.layers\.\d+)\.(" + "|".join(NORMS) + r")\.weight$")


def ratio(norm, original):
    """The powers of two between two norms; 1 where both are 0."""
    original = original.astype(np.float64)
    found = np.divide(norm, original, out=np.ones_like(original), where=original != 0)
    if (np.frexp(found)[0] != 0.5).any() or (norm[original == 0] != 0).any():
        raise ValueError("a norm is not that of the source times powers of two")
    return found.astype(np.float32)


def unscale(tensors, source):
    """The same model with the source's norms, exactly: their powers of two go back into the layers
    that read them. Tensors as gptq_reference.read_folder gives them, of the families of Llama."""
    result = dict(tensors)
    for name in filter(NORM.match, tensors):
        block, norm = NORM.match(name).groups()
        scale = ratio(tensors[name], source[name])
        result[name] = source[name]
        for layer in NORMS[norm]:
            weight = f"{block}.{layer}.weight"
            result[weight] = tensors[weight] * scale
    return result
