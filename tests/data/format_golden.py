#!/usr/bin/env python3
"""Makes format_golden.h for tests/unit/test_format_golden.c: what the tensors of packed layers are in
every format, with NumPy by the letter of the formats (docs/formats.md), bit by bit. What the packages
`gguf` and `compressed_tensors` make of the same layers is compared where they are installed.

    python3 tests/data/format_golden.py > tests/data/format_golden.h
"""
import sys

import numpy as np

# (format, bits, zero points, type of the source, n_out, n_in, group, rows of a head)
CASES = [
    *(('gptq', b, 0, 'BF16', n, k, g, 0) for b in (2, 3, 4, 8) for n, k, g in ((7, 32, 16), (70, 96, 96))),
    *(('gptq_v2', b, z, 'F16', n, k, g, 0) for b in (2, 3, 4, 8) for z in (0, 1)
      for n, k, g in ((33, 64, 16), (8, 160, 160))),
    *(('compressed-tensors', b, z, t, n, k, g, 0) for b in (2, 4, 8) for z in (0, 1)
      for t, n, k, g in (('BF16', 67, 128, 32), ('F16', 32, 72, 72), ('F32', 5, 40, 8))),
    *(('exl2', b, 0, 'F16', n, k, g, 0) for b in (2, 3, 4, 8) for n, k, g in ((32, 64, 32), (96, 192, 96))),
    *(('gguf', b, z, 'BF16', n, k, g, h) for b, z in ((4, 0), (4, 1), (8, 0))
      for n, k, g, h in ((3, 32, 32, 0), (32, 192, 64, 0), (32, 64, 32, 8))),
]
BLOCK = 32


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def pseudo(n, bits, salt):
    i = np.arange(n, dtype=np.uint64)
    return (((i + np.uint64(salt)) * np.uint64(2654435761) & np.uint64(0xFFFFFFFF)) >> np.uint64(13)
            & np.uint64(2 ** bits - 1)).astype(np.int64)


def stream(codes, bits):
    """(n, ...) codes -> (words, ...) of 32 bits: one stream of bits down the first axis, lowest first."""
    n = len(codes)
    flat = codes.reshape(n, -1)
    bit = (flat[:, None] >> np.arange(bits)[None, :, None] & 1).reshape(n * bits, -1)
    words = -(-n * bits // 32)
    bit = np.concatenate([bit, np.zeros((words * 32 - n * bits, flat.shape[1]), np.int64)])
    word = (bit.reshape(words, 32, -1) << np.arange(32)[None, :, None]).sum(axis=1)
    return word.astype(np.uint32).reshape(words, *codes.shape[1:])


def to_bf16(x):
    """Of numbers that are exact in BF16."""
    return (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


class Layer:
    def __init__(self, form, bits, zero_points, dtype, n_out, n_in, group, head_rows):
        self.bits, self.zero_points, self.dtype, self.head_rows = bits, zero_points, dtype, head_rows
        self.n_out, self.n_in, self.group, self.groups = n_out, n_in, group, n_in // group
        n = n_out * self.groups
        shape = (n_out, self.groups)
        self.codes = pseudo(n_out * n_in, bits, 1).reshape(n_out, n_in)
        self.zeros = pseudo(n, bits, 5).reshape(shape) if zero_points else np.full(shape, 2 ** (bits - 1))
        self.scales = (1 + pseudo(n, 7, 3)) / 64
        if not zero_points:
            self.scales[::3] *= -1
        self.scales = self.scales.reshape(shape)
        if form == 'exl2':
            self.roots = 1 + pseudo(n, 4, 3).reshape(shape)
            self.largest = (1 + pseudo(self.groups, 4, 7)) / 64

    def weights(self):
        """Exact in float64."""
        of = np.arange(self.n_in) // self.group
        return self.scales[:, of] * (self.codes - self.zeros[:, of])


def gptq(layer, less):
    return [('qweight', 'I32', stream(layer.codes.T, layer.bits)),
            ('qzeros', 'I32', stream(layer.zeros - less, layer.bits).T),
            ('scales', 'F16', layer.scales.T.astype(np.float16)),
            ('g_idx', 'I32', (np.arange(layer.n_in) // layer.group).astype(np.int32))]


def compressed(layer):
    half = layer.dtype == 'F16'
    parts = [('weight_packed', 'I32', stream(layer.codes.T, layer.bits).T),
             ('weight_scale', 'F16' if half else 'BF16',
              layer.scales.astype(np.float16) if half else to_bf16(layer.scales)),
             ('weight_shape', 'I64', np.array([layer.n_out, layer.n_in], np.int64))]
    if layer.zero_points:
        parts.append(('weight_zero_point', 'I32', stream(layer.zeros, layer.bits)))
    return parts


def exl2(layer):
    first = np.arange(layer.groups) * layer.group * layer.bits // 32
    return [('q_weight', 'I32', stream(layer.codes.T, layer.bits)),
            ('q_invperm', 'I32', np.arange(layer.n_in, dtype=np.int32)),
            ('q_groups', 'I16', np.stack([np.full(layer.groups, layer.bits), first], 1).astype(np.int16).ravel()),
            ('q_scale_max', 'F16', layer.largest.astype(np.float16)),
            ('q_scale', 'I32', stream(layer.roots - 1, 4).T)]


def turned(rows, head_rows):
    """Rows i and i + head_rows / 2 of a head side by side."""
    if not head_rows:
        return rows
    return rows.reshape(-1, 2, head_rows // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def gguf_type(layer):
    return 'Q8_0' if layer.bits == 8 else 'Q4_1' if layer.zero_points else 'Q4_0'


def gguf(layer):
    """A block: d, with zero points m, and its codes, low halves of the bytes first."""
    of = np.arange(layer.n_in // BLOCK) * BLOCK // layer.group
    d, m = layer.scales[:, of], -layer.scales[:, of] * layer.zeros[:, of]
    code = layer.codes.reshape(layer.n_out, -1, BLOCK)
    if layer.bits == 8:
        data = (code - 128).astype(np.int8).view(np.uint8)
    else:
        data = (code[..., :16] | code[..., 16:] << 4).astype(np.uint8)
    halves = np.stack([d, m] if layer.zero_points else [d], 2).astype(np.float16).view(np.uint8)
    return [('weight', gguf_type(layer), turned(np.concatenate([halves, data], 2), layer.head_rows))]


PACK = {'gptq': lambda layer: gptq(layer, 1), 'gptq_v2': lambda layer: gptq(layer, 0),
        'compressed-tensors': compressed, 'exl2': exl2, 'gguf': gguf}


def check_gguf(layer, parts):
    import gguf as package
    blocks = parts[0][2].reshape(layer.n_out, -1)
    found = package.quants.dequantize(blocks, package.GGMLQuantizationType[gguf_type(layer)])
    assert (found == turned(layer.weights(), layer.head_rows)).all()


def check_compressed(layer, parts):
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    signed = torch.from_numpy((layer.codes - 2 ** (layer.bits - 1)).astype(np.int8))
    assert (pack_to_int32(signed, layer.bits).numpy().view(np.uint32) == parts[0][2]).all()
    if layer.zero_points:
        zeros = torch.from_numpy((layer.zeros - 2 ** (layer.bits - 1)).astype(np.int8))
        found = pack_to_int32(zeros, layer.bits, packed_dim=0).numpy().view(np.uint32)
        assert (found == parts[3][2]).all()


CHECK = {'gguf': check_gguf, 'compressed-tensors': check_compressed}


def main():
    print('/* Made by format_golden.py: do not edit. */\n/* clang-format off */')
    print('static const struct golden_layer {\n    const char *format;\n    mq_layer_shape shape;\n'
          '    struct {\n        const char *what; /* suffix, type, dimensions */\n'
          '        uint64_t fnv;     /* FNV-1a of its bytes */\n'
          '    } part[MQ_MAX_PARTS];\n} golden_layers[] = {')
    compared, missing = {}, set()
    for case in CASES:
        form, bits, zero_points, dtype, n_out, n_in, group, head_rows = case
        layer = Layer(*case)
        parts = PACK[form](layer)
        if form in CHECK:
            try:
                CHECK[form](layer, parts)
                compared[form] = compared.get(form, 0) + 1
            except ImportError:
                missing.add(form)
        print('    {"%s", {%d, %d, %d, %d, %s, MQ_%s, %d}, {'
              % (form, n_out, n_in, group, bits, 'true' if zero_points else 'false', dtype, head_rows))
        for name, kind, data in parts:
            dims = data.shape[:2] if kind.startswith('Q') else data.shape
            what = ' '.join([name, kind, *map(str, dims)])
            print('        {"%s", 0x%016XU},' % (what, fnv(np.ascontiguousarray(data).tobytes())))
        print('    }},')
    print('};')
    for form in CHECK:
        print('%s: %s' % (form, 'package not installed, not compared' if form in missing else
                          '%d layers as the package has them' % compared[form]), file=sys.stderr)


if __name__ == '__main__':
    main()
