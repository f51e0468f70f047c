"""A forward pass of the demo model (Llama) in NumPy float64, by the published formulas."""
import json
import pathlib

import harness
import numpy as np


def load(folder):
    """config.json and the tensors of a folder with one BF16 or F32 model.safetensors, as float64."""
    folder = pathlib.Path(folder)
    header, data, begin = harness.bf16_raw(folder / 'model.safetensors')
    tensors = {}
    for name, entry in header.items():
        if name == '__metadata__':
            continue
        raw = bytes(data[begin + entry['data_offsets'][0]:begin + entry['data_offsets'][1]])
        if entry['dtype'] == 'BF16':
            values = (np.frombuffer(raw, '<u2').astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, {'F32': '<f4'}[entry['dtype']])
        tensors[name] = values.reshape(entry['shape']).astype(np.float64)
    return json.loads((folder / 'config.json').read_text()), tensors


def norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rotate(x, theta):
    """x (heads, n, d): the halves of each head are the two parts of d / 2 rotated pairs."""
    _, n, d = x.shape
    angle = np.arange(n)[:, None] * theta ** (-np.arange(0, d, 2) / d)
    a, b = x[..., :d // 2], x[..., d // 2:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def attention(config, tensors, prefix, x):
    """What attention makes of its normed input x, before o."""
    heads, groups, d = config['num_attention_heads'], config['num_key_value_heads'], config['head_dim']
    n = len(x)
    q, k, v = ((x @ tensors[f'{prefix}.{p}_proj.weight'].T).reshape(n, -1, d).swapaxes(0, 1) for p in 'qkv')
    q, k = rotate(q, config['rope_theta']), rotate(k, config['rope_theta'])
    k, v = np.repeat(k, heads // groups, 0), np.repeat(v, heads // groups, 0)
    score = q @ k.swapaxes(1, 2) / np.sqrt(d) + np.triu(np.full((n, n), -np.inf), 1)
    p = np.exp(score - score.max(-1, keepdims=True))
    out = (p / p.sum(-1, keepdims=True)) @ v
    return out.swapaxes(0, 1).reshape(n, -1)


def taps(model, sample):
    """The inputs of the linear layers, in order: names of the layers, their input, and the residual stream
    before what they are part of is added."""
    config, tensors = model
    eps = config['rms_norm_eps']
    x = tensors['model.embed_tokens.weight'][sample]
    for i in range(config['num_hidden_layers']):
        block = f'model.layers.{i}'
        y = norm(x, tensors[f'{block}.input_layernorm.weight'], eps)
        yield [f'{block}.self_attn.{p}_proj' for p in 'qkv'], y, x
        y = attention(config, tensors, f'{block}.self_attn', y)
        yield [f'{block}.self_attn.o_proj'], y, x
        x = x + y @ tensors[f'{block}.self_attn.o_proj.weight'].T
        y = norm(x, tensors[f'{block}.post_attention_layernorm.weight'], eps)
        yield [f'{block}.mlp.{p}_proj' for p in ('gate', 'up')], y, x
        gate, up = (y @ tensors[f'{block}.mlp.{p}_proj.weight'].T for p in ('gate', 'up'))
        y = gate / (1 + np.exp(-gate)) * up
        yield [f'{block}.mlp.down_proj'], y, x
        x = x + y @ tensors[f'{block}.mlp.down_proj.weight'].T


def additions(model, sample):
    """What attention and MLP of every block add to the residual stream, and the stream after it."""
    for layers, y, x in taps(model, sample):
        if layers[0].endswith(('o_proj', 'down_proj')):
            added = y @ model[1][layers[0] + '.weight'].T
            yield added, x + added


def log_probabilities(model, sample):
    """(n, vocabulary) log probabilities of the token after each of the sample's n."""
    config, tensors = model
    *_, (_, x) = additions(model, sample)
    logits = norm(x, tensors['model.norm.weight'], config['rms_norm_eps']) @ tensors['model.embed_tokens.weight'].T
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
