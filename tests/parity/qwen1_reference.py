"""The forward pass of the first generation of Qwen in NumPy, which transformers does not have.

Written from the technical report (arXiv:2309.16609) and the behaviour that the models' own files
describe:

    block    x += c_proj(attention(ln_1(x))); x += c_proj(w1(y) * silu(w2(y))), y = ln_2(x)
    c_attn   one layer with a bias, its rows those of q, then k, then v
    rope     halves of a head; for a sample of n tokens with use_dynamic_ntk theta is multiplied by
             alpha ** (d / (d - 2)), alpha = max(2 ** ceil(log2(n / seq_length) + 1) - 1, 1)
    logn     with use_logn_attn the query at position p = 0, 1, ... is multiplied by
             log(p + 1) / log(seq_length) where that is above 1

    forward(config, tensors, tokens) -> residual stream after each block, logits

float64, but for frequencies and angles of the rope, which are float32 wherever it is computed.
"""
import math

import numpy as np

DEFAULTS = {"kv_channels": 128, "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000.0,
            "rotary_pct": 1.0, "use_dynamic_ntk": True, "use_logn_attn": True}


def option(config, name):
    """A key of config.json, or what it is where it is missing."""
    return config.get(name, DEFAULTS[name])


def shapes(config):
    """Name and shape of every tensor of a model without biases but those of c_attn."""
    n, width = config["hidden_size"], config["intermediate_size"] // 2
    inner = config["num_attention_heads"] * option(config, "kv_channels")
    result = {"transformer.wte.weight": (config["vocab_size"], n)}
    for i in range(config["num_hidden_layers"]):
        block = {"ln_1.weight": (n,), "ln_2.weight": (n,), "attn.c_attn.weight": (3 * inner, n),
                 "attn.c_attn.bias": (3 * inner,), "attn.c_proj.weight": (n, inner),
                 "mlp.w1.weight": (width, n), "mlp.w2.weight": (width, n),
                 "mlp.c_proj.weight": (n, width)}
        result.update({f"transformer.h.{i}.{name}": shape for name, shape in block.items()})
    result["transformer.ln_f.weight"] = (n,)
    result["lm_head.weight"] = (config["vocab_size"], n)
    return result


def norm(x, weight, epsilon):
    """RMS norm of rows."""
    return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + epsilon) * weight


def rope_table(config, length):
    """cos and sin (length, coordinates that turn / 2) for a sample of that length."""
    dim = int(option(config, "kv_channels") * option(config, "rotary_pct"))
    alpha = 1
    if option(config, "use_dynamic_ntk"):
        alpha = max(2 ** math.ceil(math.log2(length / config["seq_length"]) + 1) - 1, 1)
    theta = np.float32(option(config, "rotary_emb_base") * alpha ** (dim / (dim - 2)))
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    power = (theta.astype(float) ** exponent.astype(float)).astype(np.float32)
    angle = np.arange(length, dtype=np.float32)[:, None] * (np.float32(1) / power)
    return np.cos(angle.astype(float)), np.sin(angle.astype(float))


def turn(x, cos, sin):
    """Rotation of heads x (length, heads, head_dim): coordinate i with i + dim / 2."""
    half = cos.shape[1]
    a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1)


def query_factors(config, length):
    """What the query at each position is multiplied by."""
    if not option(config, "use_logn_attn"):
        return np.ones(length)
    count = np.arange(1, length + 1)
    return np.maximum(np.log(count) / math.log(config["seq_length"]), 1.0)


def attention(config, qkv):
    """Causal attention, (length, heads * head_dim), of the outputs of c_attn."""
    length, heads = len(qkv), config["num_attention_heads"]
    q, k, v = qkv.reshape(length, 3, heads, -1).transpose(1, 0, 2, 3)
    table = rope_table(config, length)
    q = turn(q, *table) * query_factors(config, length)[:, None, None]
    scores = np.einsum("thd,uhd->htu", q, turn(k, *table)) / math.sqrt(q.shape[-1])
    scores[:, np.triu(np.ones((length, length), bool), 1)] = -np.inf
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.einsum("htu,uhd->thd", p, v).reshape(length, -1)


def forward(config, tensors, tokens):
    """Residual stream after each block, a list of (length, hidden), and logits (length, vocab)."""
    epsilon, hidden = option(config, "layer_norm_epsilon"), []

    def linear(name, x):
        bias = tensors.get(f"{name}.bias")
        y = x @ np.asarray(tensors[f"{name}.weight"], float).T
        return y if bias is None else y + np.asarray(bias, float)

    def normed(name, x):
        return norm(x, np.asarray(tensors[f"{name}.weight"], float), epsilon)

    x = np.asarray(tensors["transformer.wte.weight"], float)[np.asarray(tokens)]
    for i in range(config["num_hidden_layers"]):
        block = f"transformer.h.{i}"
        qkv = linear(f"{block}.attn.c_attn", normed(f"{block}.ln_1", x))
        x = x + linear(f"{block}.attn.c_proj", attention(config, qkv))
        y = normed(f"{block}.ln_2", x)
        gate = linear(f"{block}.mlp.w2", y)
        x = x + linear(f"{block}.mlp.c_proj", linear(f"{block}.mlp.w1", y) * gate / (1 + np.exp(-gate)))
        hidden.append(x)
    return hidden, linear("lm_head", normed("transformer.ln_f", x))
