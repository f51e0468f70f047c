#!/usr/bin/env python3
"""Makes gptq.bin: small problems solved by GPTQ as it was published (arXiv 2210.17323, algorithm 1), in float64.

The solver under test uses one Cholesky factor of the reversed matrix and never an inverse; this
script inverts the damped Hessian, takes the upper Cholesky factor of the inverse and updates the
remaining columns after each one. Both must choose the same codes. Inputs are small integers, so
that the Hessian is exact whoever computes it.

The first seed is taken for which no rounding decision lies near a tie, so that a solver in float32
has no excuse for another code. Run: python3 make.py (NumPy; the output is committed).

File, little-endian: int32 n_rows, n, n_tok, n_cases; int8 X[n_tok][n]; float32 W[n_rows][n]; per
case int32 bits, group, act_order, n_groups; float64 damping; float64 loss = trace(E (H + lambda) ET);
uint16 scale[n_rows][n_groups] (F16 bits); uint8 code[n_rows][n] (original column order).
"""
import struct
import numpy as np

N_ROWS, N, N_TOK, DAMPING = 12, 256, 320, 0.02
CASES = [(bits, group, True) for bits in (2, 3, 4, 8) for group in (32, 128, N)]
CASES += [(2, 32, False), (3, 128, False), (4, N, False), (8, 32, False)]


def problem(seed):
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((N, N)) * 0.15 + np.eye(N)
    x = rng.standard_normal((N_TOK, N)) @ mix * np.exp(rng.normal(1.5, 1.0, N))
    x = np.clip(np.rint(x), -127, 127).astype(np.int8)
    w = rng.standard_t(4, (N_ROWS, N)).astype(np.float32) * np.float32(0.02)
    return x, w


def scales(w, weight, bits, group):
    """Weighted search over shrink factors, two ranges and two signs; first of equals."""
    half = 1 << (bits - 1)
    out = np.zeros((N_ROWS, N // group))
    for r in range(N_ROWS):
        for g in range(N // group):
            v, h = w[r, g * group:(g + 1) * group], weight[g * group:(g + 1) * group]
            best = np.inf
            for c in range(36):
                for width in (half, half - 0.5):
                    for sign in (1, -1):
                        s = sign * float(np.float16(np.abs(v).max() * (1.12 - 0.02 * c) / width))
                        q = np.clip(np.rint(v / s), -half, half - 1)
                        error = (h * (v - s * q) ** 2).sum()
                        if error < best:
                            best, out[r, g] = error, s
    return out


def gptq(w, h, scale, bits, group, order):
    """Returns codes and e = w - w_hat in original order, and the smallest distance from a tie."""
    half = 1 << (bits - 1)
    upper = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    w, codes, margin = w[:, order].copy(), np.zeros((N_ROWS, N), np.uint8), np.inf
    w_hat = np.zeros((N_ROWS, N))
    for k in range(N):
        s = scale[:, order[k] // group]
        t = w[:, k] / s
        q = np.clip(np.rint(t), -half, half - 1)
        inside = (t > -half) & (t < half - 1)
        near = np.where(inside, np.abs(np.abs(t - np.floor(t)) - 0.5) / np.maximum(np.abs(t), 1), 1)
        margin = min(margin, near.min())
        codes[:, order[k]], w_hat[:, order[k]] = q + half, s * q
        w[:, k:] -= np.outer((w[:, k] - s * q) / upper[k, k], upper[k, k:])
    return codes, w_hat, margin


def solve(seed):
    x, w32 = problem(seed)
    w, h = w32.astype(np.float64), x.astype(np.float64).T @ x.astype(np.float64)
    diagonal = np.diag(h).copy()
    damped = h + DAMPING * diagonal.mean() * np.eye(N)
    smallest, searched, parts = np.inf, {}, []
    for bits, group, act_order in CASES:
        if (bits, group) not in searched:
            searched[bits, group] = scales(w, diagonal, bits, group)
        scale = searched[bits, group]
        order = np.argsort(-diagonal, kind='stable') if act_order else np.arange(N)
        codes, w_hat, margin = gptq(w, damped, scale, bits, group, order)
        smallest = min(smallest, margin)
        if smallest < 2e-6:
            return None
        e = w - w_hat
        parts.append(struct.pack('<iiiidd', bits, group, act_order, N // group, DAMPING,
                                 ((e @ damped) * e).sum()))
        parts.append(scale.astype('<f2').tobytes() + codes.tobytes())
    print('seed', seed, 'smallest relative distance from a tie', smallest)
    head = struct.pack('<iiii', N_ROWS, N, N_TOK, len(CASES))
    return head + x.tobytes() + w32.astype('<f4').tobytes() + b''.join(parts)


if __name__ == '__main__':
    data = next(filter(None, map(solve, range(1000))))
    open('gptq.bin', 'wb').write(data)
    print(len(data), 'bytes')
