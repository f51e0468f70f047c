#!/usr/bin/env python3
"""Makes gptq_golden.h: checksums of packed and dequantised tensors, computed with NumPy by the
letter of the format (docs/formats.md), for tests/unit/test_format_gptq.c.

    python3 tests/data/gptq_golden.py > tests/data/gptq_golden.h
"""
import numpy as np

SHAPES = [(1, 1, 1), (7, 5, 7), (8, 8, 4), (10, 11, 5), (11, 10, 4), (21, 22, 21), (22, 21, 7),
          (31, 33, 8), (32, 32, 32), (33, 31, 16), (33, 17, 32), (63, 65, 9), (64, 70, 32),
          (65, 1, 64), (70, 64, 64), (1, 65, 1), (69, 67, 16), (1027, 19, 128), (1100, 3, 1100)]


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def pseudo(shape, bits, salt):
    i = np.arange(np.prod(shape), dtype=np.uint64).reshape(shape)
    return (((i + np.uint64(salt)) * np.uint64(2654435761) & np.uint64(0xFFFFFFFF))
            >> np.uint64(13)) & np.uint64(2 ** bits - 1)


def pack(q, bits):
    """q (K, N) -> (words, N); three bits by the table of the format, the others by its formula."""
    k, n = q.shape
    unit = 32 if bits == 3 else 32 // bits
    padded = np.zeros((-(-k // unit) * unit, n), np.uint64)
    padded[:k] = q
    rows = []
    for u in padded.reshape(-1, unit, n):
        if bits != 3:
            rows.append(sum(u[j] << np.uint64(bits * j) for j in range(unit)))
            continue
        w0 = sum(u[j] << np.uint64(3 * j) for j in range(10)) | u[10] << np.uint64(30)
        w1 = u[10] >> np.uint64(2) & np.uint64(1) | u[21] << np.uint64(31)
        w1 |= sum(u[11 + j] << np.uint64(3 * j + 1) for j in range(10))
        w2 = u[21] >> np.uint64(1) & np.uint64(3)
        w2 |= sum(u[22 + j] << np.uint64(3 * j + 2) for j in range(10))
        rows += [w0, w1, w2]
    words = (np.array(rows) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return words[:-(-k * bits // 32)]


def row(bits, k, n, group):
    groups = -(-k // group)
    codes = pseudo((n, k), bits, 1)
    qweight = pack(codes.T, bits)
    zeros = np.full((n, groups), 2 ** (bits - 1) - 1, np.uint64)
    qzeros = pack(zeros, bits).T
    scales = ((pseudo((groups, n), 8, 3).astype(np.float32) - 100) / 64).astype(np.float16)
    zero = pseudo((groups, n), bits, 5).astype(np.float32)
    g_idx = (np.arange(k) * 7 + 3) % groups
    w = scales[g_idx].astype(np.float32) * (codes.T.astype(np.float32) - zero[g_idx])
    w = np.ascontiguousarray(w.T) + np.float32(0)  # no -0
    sums = [fnv(np.ascontiguousarray(x).tobytes()) for x in (qweight, qzeros, w)]
    return "    {%d, %d, %d, %d, %s}," % (bits, k, n, group, ", ".join("0x%016XU" % s for s in sums))


print("/* Made by gptq_golden.py: FNV-1a of qweight, of symmetric v1 qzeros, and of w dequantised with\n"
      " * pseudo-random scales, zero points and g_idx. */")
print("static const struct golden {\n    int bits, n_in, n_out, group;\n"
      "    uint64_t qweight, qzeros, w;\n} golden[] = {")
for b in (2, 3, 4, 8):
    for s in SHAPES:
        print(row(b, *s))
print("};")
